"""The studies proposed to a node, and the decisions of its staff."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.console import Console

from federation import audit
from federation.cli.actions import mappings, node_setup, tables
from nodes import daemon, state_folder
from nodes.approvals import Proposed, Verdict


def show_all(path: Path, output: str) -> None:
    _, state = node_setup.site_and_state(path)
    studies = node_setup.approvals(state).all()
    if output == "json":
        documents = [
            {key: value for key, value in vars(study).items() if key != "written"}
            for study in studies
        ]
        print(json.dumps(documents, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not studies:
        console.print("No study has been proposed to this node yet.")
        return
    table = tables.plain(
        "study", "hash", "coordinator", "received (UTC)", "decision", "by", "reason"
    )
    for study in studies:
        table.add_row(
            study.study,
            study.study_hash[:12],
            study.coordinator,
            study.received[:16].replace("T", " "),
            _decision(study),
            study.by,
            study.reason,
        )
    console.print(table)
    if any(_waits(study) for study in studies):
        console.print(
            "Read a study with `hdh node show STUDY`, then decide with `hdh node approve STUDY` or "
            "`hdh node refuse STUDY --reason ...`.",
            style="dim",
        )


def _waits(study: Proposed) -> bool:
    return study.verdict == "waiting" and not study.over


def _decision(study: Proposed) -> str:
    if study.verdict != "waiting":
        return study.verdict
    return "ended undecided" if study.over else "waits for you"


def show(path: Path, name: str) -> None:
    site, state = node_setup.site_and_state(path)
    study = node_setup.approvals(state).find(name)
    written = json.loads(study.written)
    print(f"# hash {study.study_hash}")
    print(f"# signed by {study.coordinator} with key {study.key_id}")
    print(f"# sent to {study.nodes - 1} other nodes")
    for line in mappings.lines(site, str(written.get("dataset"))):
        print(f"# {line}")
    print(yaml.safe_dump(written, sort_keys=False, allow_unicode=True), end="")


def decide(path: Path, name: str, verdict: Verdict, reason: str, by: str | None) -> None:
    _, state = node_setup.site_and_state(path)
    proposals = node_setup.approvals(state)
    study = proposals.find(name)
    decided_by = by or getpass.getuser()
    audit.write(
        state / state_folder.AUDIT,
        verdict,
        study=study.study,
        study_hash=study.study_hash,
        coordinator=study.coordinator,
        by=decided_by,
        why=reason,
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    proposals.decide(study.study_hash, verdict, reason, decided_by, now)
    later = "" if daemon.is_running(state) else "; the hub will learn it when the node runs"
    print(f"{study.study} ({study.study_hash[:12]}) is {verdict} by {decided_by}{later}")
