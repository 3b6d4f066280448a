"""How states.tar.gz was made: by the hub and the nodes of commit d31a68e.

    git worktree add /tmp/old d31a68e && cd /tmp/old
    PYTHONPATH=. python .../tests/upgrade/recipe.py /srv/old .../tests/upgrade/states.tar.gz

It runs a hub, two nodes and a coordinator with the commands of that commit, one exact and one
private study, stops them, and packs what an upgrade finds. The keys are good for nothing else: the
hub was on loopback, and its port is closed.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tarfile
from pathlib import Path

from simulations import flower, story

NODES = ("limoges", "lyon")
PACKED = {
    "hub": ("hub.yaml", "registry.db", "audit.jsonl*", "control.token", "superexec.secret",
            "pki/*", "jobs/*", "transcripts/*"),
    "node": ("node.yaml", "roster.yaml", "contracts/*", "rows.csv", "state/*.*", "state/secret",
             "state/hub/*"),
}  # fmt: skip
CONTRACT = """\
dataset: people
version: 1
unit: visit
columns:
  age: {type: number, unit: years, range: [0, 110]}
  ill: {type: boolean}
"""
STUDY = """\
study: {name}
title: Age
question: How old are they?
purpose: {{interest: public, category: research}}
authorisation: {{reference: R-1, expires: 2099-01-01}}
dataset: people
min_nodes: 2
privacy: {privacy}
analyses:
  ages: {{run: describe, columns: [age, ill]}}
"""
STUDIES = {"exact-ages": "{mode: exact}", "private-ages": "{mode: dp, epsilon: 1}"}


def make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    federation = story.Story(folder)
    try:
        _start(federation)
        for number, (name, privacy) in enumerate(STUDIES.items(), start=1):
            study = folder / "coordinator" / f"{name}.yaml"
            study.write_text(STUDY.format(name=name, privacy=privacy))
            federation.says("coordinator", f"hdh study submit {study}")
            for node in NODES:
                federation.says(node, f"hdh node approve {name} --by 'the recipe'")
            federation.says("coordinator", f"hdh study watch {number} --out {name}")
    finally:
        federation.stop()


def _start(federation: story.Story) -> None:
    port = flower.free_ports(5)
    address = f"--host localhost --port {port} --listen 127.0.0.1"
    federation.says("hub", f"hdh hub init . {address}")
    federation.starts("hub", "hdh hub run .")
    story._wait_for_hub(federation.folder / "hub")
    for seed, name in enumerate(NODES):
        output = federation.says("hub", f"hdh hub invite {name}")
        federation.says(name, f"hdh node init {name}")
        federation.says(name, _command(output, "hdh node enrol"))
        rows = _rows(federation.folder / name, seed)
        federation.says(name, f"hdh node dataset add people.yaml --source {rows}")
        story._trust_the_hub(federation.folder / name / "node.yaml")
        federation.says(name, "hdh node grant people --epsilon 3 --by 'the recipe'")
        _allow(federation.folder / name / "node.yaml")
        federation.starts(name, "hdh node run")
    invited = federation.says("hub", "hdh hub coordinator add alice")
    federation.says("coordinator", _command(invited, "hdh study enrol"))
    story._wait_for_nodes(federation, len(NODES))
    for name in NODES:
        federation.says(name, "hdh node roster --from-hub")
    shutil.copy(federation.folder / NODES[0] / "people.yaml", federation.folder / "coordinator")


def _allow(path: Path) -> None:
    """Studies of two nodes, and exact ones beside private ones of the dataset."""
    text = path.read_text().replace("  min_nodes: 3 ", "  min_nodes: 2 ")
    path.write_text(text.replace('"rows.csv"}', '"rows.csv", "modes": ["exact", "dp"]}'))


def _command(output: str, start: str) -> str:
    return next(line.strip() for line in output.splitlines() if start in line)


def _rows(folder: Path, seed: int) -> str:
    draw = random.Random(seed)
    ages = [draw.randint(20, 90) for _ in range(400)]
    lines = [f"{age},{'true' if draw.random() < age / 120 else 'false'}" for age in ages]
    (folder / "rows.csv").write_text("\n".join(["age,ill", *lines]) + "\n")
    (folder / "people.yaml").write_text(CONTRACT)
    return "rows.csv"


def pack(folder: Path, archive: Path) -> None:
    """What lies in the folders of the hub and of one node, and the results as they were given."""
    with tarfile.open(archive, "w:gz", compresslevel=9) as tar:
        for kind, home in (("hub", "hub"), ("node", NODES[0])):
            for pattern in PACKED[kind]:
                for path in sorted((folder / home).glob(pattern)):
                    tar.add(path, f"{kind}/{path.relative_to(folder / home)}", recursive=False)
        for name in STUDIES:
            result = folder / "coordinator" / name / "result.json"
            json.loads(result.read_text())
            tar.add(result, f"results/{name}.json")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
