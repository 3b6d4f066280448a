"""`make federation`: the life of a federation on loopback, with the commands that its people type:
a hub, four producers, a coordinator.

Every line after a $ runs as printed, by `hdh` in a separate process, and its output is shown.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from federation import errors, language, loopback, message_texts
from simulations import flower
from simulations.pilots import dialysis

HDH = str(Path(sys.executable).parent / "hdh")
PILOT = Path(str(dialysis.__file__)).parent
STUDY = Path(__file__).with_name("story.yaml")
MAX_LINES = 40


class Story:
    """The folder of the story, and its running daemons."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []

    def scene(self, text: str) -> None:
        text = message_texts.translated(text)
        print(f"\n\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)

    def says(self, who: str, command: str, *, shown: str | None = None, quiet: bool = False) -> str:
        """Runs `hdh ...` in the folder of `who`, shows its output, and returns it."""
        print(f"{who} $ {shown or command}", flush=True)
        finished = subprocess.run(
            [HDH, *shlex.split(command)[1:]],
            cwd=self._home(who),
            env=self._environment(who),
            capture_output=True,
            text=True,
            check=False,
        )
        if not quiet:
            lines = finished.stdout.rstrip().splitlines()
            if len(lines) > MAX_LINES:
                more = len(lines) - MAX_LINES + 1
                lines = [*lines[: MAX_LINES - 1], f"... {more} more lines"]
            print("\n".join(lines), flush=True)
        if finished.returncode:
            raise errors.SetupError(f"{who}: {command}: {finished.stderr.strip()}")
        return finished.stdout

    def starts(self, who: str, command: str) -> None:
        """Starts a daemon, which runs in the background."""
        print(f"{who} $ {command} &", flush=True)
        with (self._home(who) / "daemon.out").open("ab") as out:
            self.daemons.append(
                subprocess.Popen(
                    [HDH, *shlex.split(command)[1:]],
                    cwd=self._home(who),
                    env=self._environment(who),
                    stdout=out,
                    stderr=out,
                )
            )

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            daemon.wait(30)

    def _home(self, who: str) -> Path:
        (self.folder / who).mkdir(parents=True, exist_ok=True)
        return self.folder / who

    def _environment(self, who: str) -> dict[str, str]:
        environment = loopback.without_proxies(os.environ)
        return {**environment, "HDH_HOME": str(self.folder / who / "keys"), "COLUMNS": "110"}


def tell(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    story = Story(folder)
    data = {name: path.resolve() for name, path in dialysis.make(folder, seed=0).items()}
    started = time.monotonic()
    try:
        _tell(story, data)
    finally:
        story.stop()
    ended = (
        f"\nThe whole story took {time.monotonic() - started:.0f} s. Its files are in {folder};"
        f" the report is {folder / 'coordinator' / 'out' / 'report.html'}"
    )
    print(message_texts.translated(ended))


def _tell(story: Story, data: dict[str, Path]) -> None:
    _start_hub(story)
    for i, (name, path) in enumerate(data.items()):
        _start_node(story, name, path, quiet=i > 0)
    _enrol_coordinator(story)
    _wait_for_nodes(story, len(data))
    story.says("hub", "hdh hub nodes")
    _run_study(story, list(data))
    story.scene("Both sides have an audit log")
    first = next(iter(data))
    story.says(first, "hdh node audit")
    story.says(first, "hdh node audit verify")
    story.says("hub", "hdh hub audit verify")


def _start_hub(story: Story) -> None:
    port = flower.free_ports(5)
    story.scene("The hub's operator creates a hub, and starts it")
    story.says("hub", f"hdh hub init . --host localhost --port {port} --listen 127.0.0.1")
    story.starts("hub", "hdh hub run .")
    _wait_for_hub(story.folder / "hub")


def _start_node(story: Story, name: str, source: Path, *, quiet: bool) -> None:
    story.scene(
        f"The operator invites {name}; its data manager enrols, names a dataset, checks it,"
        " grants the year's budget, and starts the node with the default policy"
    )
    output = story.says("hub", f"hdh hub invite {name}", quiet=quiet)
    enrol = next(line.strip() for line in output.splitlines() if "hdh node enrol" in line)
    story.says(name, f"hdh node init {name}", quiet=quiet)
    story.says(name, enrol, shown=enrol.rsplit(" ", 1)[0] + " hdh1-...", quiet=quiet)
    added = f"hdh node dataset add {PILOT / 'dialysis.yaml'} --source {source}"
    story.says(name, added, quiet=quiet)
    story.says(name, "hdh node check", quiet=quiet)
    grant = 'hdh node grant dialysis --epsilon 3 --by "data protection officer"'
    story.says(name, grant, quiet=quiet)
    story.starts(name, "hdh node run")


def _enrol_coordinator(story: Story) -> None:
    story.scene("The operator invites a coordinator, who enrols")
    output = story.says("hub", "hdh hub coordinator add alice")
    enrol = next(line.strip() for line in output.splitlines() if "hdh study enrol" in line)
    story.says("coordinator", enrol, shown=enrol.rsplit(" ", 1)[0] + " hdh1-...")


def _run_study(story: Story, nodes: list[str]) -> None:
    story.scene("The coordinator asks how the nodes would decide, and submits")
    for source in (STUDY, PILOT / "dialysis.yaml"):  # the study, and its dataset's contract
        shutil.copy(source, story.folder / "coordinator" / source.name)
    story.says("coordinator", f"hdh study check {STUDY.name}")
    story.says("coordinator", f"hdh study plan {STUDY.name} --hub")
    story.says("coordinator", f"hdh study submit {STUDY.name}")
    story.says("coordinator", "hdh study status 1")
    for i, name in enumerate(nodes):
        story.scene(f"At {name} a person reads the study, and approves it")
        if i == 0:
            story.says(name, "hdh node studies")
        story.says(name, "hdh node approve dialysis-survival --by 'data protection officer'")
    story.scene("The study runs; the coordinator gets the result, and checks its receipt")
    story.says("coordinator", "hdh study watch 1 --out out")
    story.says("coordinator", "hdh study verify out/result.json")


def _wait_for_hub(folder: Path) -> None:
    until = time.monotonic() + flower.START_S
    while " is up: " not in (folder / "daemon.out").read_text():
        if time.monotonic() > until:
            raise errors.SetupError(f"the hub did not start; see {folder / 'daemon.out'}")
        time.sleep(0.1)


def _wait_for_nodes(story: Story, number: int) -> None:
    until = time.monotonic() + flower.START_S
    log = story.folder / "hub" / "daemon.out"
    while sum("is online" in line for line in log.read_text().splitlines()) < number:
        if time.monotonic() > until:
            raise errors.SetupError(
                "the nodes did not come online; see daemon.out in their folders"
            )
        time.sleep(0.1)


if __name__ == "__main__":
    language.use(language.of(os.environ))
    try:
        tell(Path(sys.argv[1] if len(sys.argv) > 1 else "out/federation").resolve())
    except errors.HdhError as error:
        print(f"{type(error).__name__}: {message_texts.translated(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
