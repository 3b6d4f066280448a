"""Plays a page of docs/ as its reader would: writes its files, types its commands, and compares
what is shown.

A block with a title is a file. In a block of `console` the lines after `$` are commands, and those
below them the output, where `...` stands for anything. `hdh hub run` and `hdh node run` stay in the
background, as in a second terminal. Blocks of `python` with `>>>` are run, and no other is.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from federation import loopback
from simulations import flower

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
DAEMONS = ("hdh hub run", "hdh node run")
# Commands that only look: a reader types them again until the others have got so far.
LOOKS = ("hdh hub nodes", "hdh node studies", "hdh study status", "hdh study list")
WAIT_S = 300.0
TOKEN = re.compile(r"hdh1-[\w-]{8,}")


@dataclass
class Reader:
    """Someone who follows a page in `folder`, where `hdh` is this checkout.

    `commands`: how many were typed. `port`: of the hub in place of 8443 and those after it."""

    folder: Path
    port: int = field(default_factory=lambda: flower.free_ports(5))
    commands: int = 0
    token: str = ""
    names: dict[str, object] = field(default_factory=dict)
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.here = self.folder / "work"
        self.here.mkdir()
        programs = self.folder / "programs"
        programs.mkdir()
        (programs / "hdh").write_text(
            f'#!/bin/sh\nexec {sys.executable} -m federation.cli.main "$@"\n'
        )
        (programs / "hdh").chmod(0o755)
        self.environment = loopback.without_proxies(os.environ) | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HDH_HOME": str(self.folder / "keys"),
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
            "HDH_LANG": "en",
        }

    def follow(self, page: str) -> None:
        """AssertionError at the first command whose output is not the page's."""
        for language, title, body in BLOCK.findall(page):
            if title:
                (self.here / title).parent.mkdir(parents=True, exist_ok=True)
                (self.here / title).write_text(body, encoding="utf-8")
            elif language == "console":
                for command, expected in typed(body):
                    self._type(command, expected)
            elif language == "python" and ">>>" in body:
                self._run_python(body)

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            daemon.wait(30)

    def _type(self, command: str, expected: str) -> None:
        self.commands += 1
        if command.startswith("cd "):
            self.here = (self.here / command[3:]).resolve()
        elif command.startswith(DAEMONS):
            self._start(command, expected)
        else:
            tries = self._until if command.startswith(LOOKS) else self._once
            tries(command, expected)

    def _once(self, command: str, expected: str) -> None:
        code, output = self._shell(command)
        fails = re.search(r"^\w+Error: ", expected, re.MULTILINE) is not None
        assert (code != 0) == fails, f"$ {command}\n{output}(exit code {code})"
        assert matches(expected, output), f"$ {command}\n{output}\n-- the page has\n{expected}"

    def _until(self, command: str, expected: str) -> None:
        end = time.monotonic() + WAIT_S
        while not matches(expected, output := self._shell(command)[1]):
            assert time.monotonic() < end, f"$ {command}\n{output}\n-- the page has\n{expected}"

    def _shell(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", self._as_here(command)],
            cwd=self.here,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
        output = done.stdout + done.stderr
        self.token = next(iter(TOKEN.findall(output)), self.token)
        return done.returncode, self._as_written(output)

    def _start(self, command: str, expected: str) -> None:
        log = self.folder / f"daemon-{len(self.daemons)}.log"
        with log.open("wb") as out:
            self.daemons.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {self._as_here(command)}"],
                    cwd=self.here,
                    env=self.environment,
                    stdout=out,
                    stderr=out,
                )
            )
        end = time.monotonic() + WAIT_S
        while not matches(f"...{expected}...", output := self._as_written(log.read_text())):
            assert self.daemons[-1].poll() is None and time.monotonic() < end, output
            time.sleep(0.05)

    def _as_here(self, command: str) -> str:
        """The command with this machine's ports, and the token of the last invitation."""
        shifted = re.sub(r"\b844([3-7])\b", lambda m: str(self.port + int(m[1]) - 3), command)
        return shifted.replace("hdh1-...", self.token)

    def _as_written(self, output: str) -> str:
        for offset in range(5):
            output = output.replace(str(self.port + offset), str(8443 + offset))
        return output

    def _run_python(self, body: str) -> None:
        before = Path.cwd()
        os.chdir(self.here)
        try:
            example = doctest.DocTestParser().get_doctest(body, self.names, "page", None, 0)
            example.globs = self.names
            results = doctest.DocTestRunner(optionflags=FLAGS).run(example, clear_globs=False)
        finally:
            os.chdir(before)
        self.commands += results.attempted
        assert results.failed == 0, body


def typed(body: str) -> Iterator[tuple[str, str]]:
    """Each command of a block of `console`, and the output below it."""
    for entry in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, output = re.sub(r" \\\n\s*", " ", entry).partition("\n")
        yield command.partition("  # ")[0].strip(), output


def matches(expected: str, output: str) -> bool:
    """Whether the pieces between the `...` stand in the output in their order, the first one at its
    beginning and the last one at its end. Any space is like any other."""
    pieces = (" ".join(piece.split()) for piece in expected.split("..."))
    pattern = ".*".join(re.escape(piece) for piece in pieces)
    return not expected.strip() or re.fullmatch(pattern, " ".join(output.split())) is not None
