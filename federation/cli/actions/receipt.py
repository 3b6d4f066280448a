"""The receipt of a result, verified offline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from federation import audit, errors, own_folder, receipts
from federation.cli.screen import print
from federation.privacy.accounting import PICO
from nodes import site as sites


def verify(
    path: Path,
    authority_path: Path | None,
    roster: Path | None,
    transcript: Path | None = None,
    audit_log: Path | None = None,
) -> None:
    """ReceiptError if a signature, a hash or an identity does not match."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise errors.InputError(
            f"{path}: not a readable result; give the result.json of a study"
        ) from None
    authority_path = authority_path or _own_authority()
    problems = receipts.verify(
        document,
        authority_path.read_bytes() if authority_path else None,
        sites.load_roster(roster) if roster else {},
    )
    problems = problems or _beyond(document, transcript, audit_log)
    if problems:
        raise errors.ReceiptError("\n".join(f"{path}: {problem}" for problem in problems))
    _show(path, document)
    if transcript:
        print("Replayed: every state and the result follow from the sums before them.")
    if audit_log:
        print("The receipt shows every answer of this run that the node's audit log holds.")
    if authority_path:
        print(f"Signed by the hub, under the authority in {authority_path}.")
    else:
        print("Signed by the hub. Its authority is the one named in the file: compare with --ca.")
    if not roster:
        print("The nodes' identities are those that the hub names: compare with --roster.")


def _beyond(
    document: Mapping[str, Any], transcript: Path | None, audit_log: Path | None
) -> Sequence[str]:
    """The problems that a transcript and a node's audit log show, of a receipt that is valid."""
    from aggregator import replay

    problems = [*replay.verify(document, transcript)] if transcript else []
    if audit_log:
        if not audit_log.is_file():
            raise errors.InputError(f"{audit_log}: no such file; give a node's state/audit.jsonl")
        audit.verify(audit_log)
        run = receipts.run_of(document)
        problems += replay.unshown(document, list(audit.entries(audit_log)), run)
    return problems


def _own_authority() -> Path | None:
    home = own_folder.home()
    return home / "ca.crt" if own_folder.is_enrolled(home) else None


def _show(path: Path, document: Mapping[str, Any]) -> None:
    receipt = document["receipt"]
    print(
        f"{path}: valid. Study {document['study']} ({document['study_hash'][:12]}) of "
        f"{receipt['coordinator']['name']}"
    )
    for node, record in receipt["nodes"].items():
        size = sum(reply["bytes"] for reply in record["replies"])
        rho = record["charged_pico_rho"] / PICO
        charged = f", charged rho {rho:.6f}" if rho else ""
        print(
            f"  {node}: approved by {record['approval']['by']}; {len(record['replies'])} signed "
            f"replies, {size:,} bytes{charged}"
        )
