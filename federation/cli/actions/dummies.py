"""`hdh study dummy`: made-up rows from a contract alone."""

from __future__ import annotations

from pathlib import Path

from federation import contract as contracts
from federation import errors
from federation.cli.actions import tables
from federation.cli.screen import print
from simulations import dummy


def write(path: Path, people: int, nodes: int, out: Path, seed: int) -> None:
    """InputError if `out` holds files already."""
    contract = contracts.load(path)
    if out.exists() and any(out.iterdir()):
        raise errors.InputError(f"--out {out}: the folder is not empty; name a new one")
    if nodes > people:
        raise errors.InputError(f"--nodes {nodes}: more nodes than people; give a smaller number")
    paths = dummy.write(contract, people, nodes, out, seed)
    print(
        f"{out}: {people:,} made-up people of {contract.dataset!r} at "
        f"{tables.counted(nodes, 'node', 'nodes')}. Try a study on them:"
    )
    listed = " ".join(f"--node {each.stem}={each}" for each in paths)
    print(f"  hdh simulate STUDY.yaml --contract {path} {listed}")
