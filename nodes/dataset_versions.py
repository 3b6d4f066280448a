"""Versions of a dataset that stand side by side at a node: the same people, under two contracts.

All versions draw on one budget, and the answers on all of them are compared with each other, so
they must tell the same people in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation import contract as contract_files
from federation import limits
from federation.contract import Column, Contract
from federation.messages import Refusal
from federation.study import Study

PLAIN = Column(type="string")  # a person's key, written alike in every contract
MAX_DIFFERENCES, MAX_LINE = 5, 160  # of a refusal
MAX_BYTES = 16 * limits.MAX_CONTRACT  # of the contracts that are stored beside a study
_UNIMPORTANT = {"description", "may_be_empty", "max_missing", "use"}


def problem(contracts: Sequence[Contract], persons: Mapping[str, str]) -> str:
    """Why these contracts of one dataset cannot stand side by side; empty if they can. `persons`:
    the registers of people, as in node.yaml."""
    name = contracts[0].dataset
    by_version, by_hash = dict[int, Contract](), dict[str, Contract]()
    for contract in contracts:
        if (other := by_hash.setdefault(contract.hash, contract)) is not contract:
            return (
                f"versions {other.version} and {contract.version} of {name} have the same columns "
                "and rules, so they are one dataset; keep one"
            )
        if by_version.setdefault(contract.version, contract) is not contract:
            return (
                f"two different contracts of {name} have version {contract.version}; write another "
                "`version:` into the newer one"
            )
    accounts = [(contract.unit, contract.person) for contract in contracts]
    if name in persons or len(set(accounts)) == 1:
        return ""
    person = next((person for _, person in accounts if person), name)
    return (
        f"the versions of {name} differ in `unit` or `person`, and must draw on one budget: write "
        f"`persons: {{{name}: {person}}}`, or keep one version"
    )


def of_another_contract(held: Sequence[Contract], asked: Contract | None) -> Refusal:
    """The answer to a study under a contract that no version here has. `asked`: the study's, if it
    was sent; what differs is shown against the version that is nearest to it."""
    name = held[0].dataset
    if asked is None:
        versions = ", ".join(str(contract.version) for contract in held)
        differing = f"this node has version {versions}"
    else:
        nearest = min(held, key=lambda contract: len(asked.differences(contract)))
        lines = asked.differences(nearest)
        shown = [_shortened(line) for line in lines[:MAX_DIFFERENCES]]
        more = [f"and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
        differing = f"in version {nearest.version} of this node, {'; '.join(shown + more)}"
    return Refusal(
        "contract", f"the contract of {name!r} differs here: {differing}: use the same file"
    )


def _shortened(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…"


def contract_in(text: str, dataset: str, contract_hash: str) -> Contract | None:
    """The contract of a study of one dataset, as stored beside it; None if it is not the signed
    one."""
    try:
        with limits.parsing("a study's contract", limits.LimitError):
            values = limits.json_of(text, max_bytes=MAX_BYTES)
            contract = contract_files.parse(values["contracts"][dataset])
    except limits.LimitError:
        return None
    return contract if contract.hash == contract_hash and contract.dataset == dataset else None


def not_compared(study: Study, contracts: Sequence[Contract]) -> Refusal | None:
    """In exact mode a node compares the people of all its answers about them, by a hash of their
    keys: all `contracts` about the same people must read the same key from a row. Two datasets may
    name its column differently, since `persons:` says of each which register it is of; versions of
    one dataset have one entry there, so they must name it alike."""
    if study.privacy.mode == "dp" or len(contracts) < 2:
        return None
    keys = [key_of(contract) for contract in contracts]
    named = {(contract.dataset, contract.person) for contract in contracts}
    is_one_name = len(named) == len({contract.dataset for contract in contracts})
    if is_one_name and keys[0] is not None and all(key == keys[0] for key in keys):
        return None
    return Refusal(
        "differencing",
        f"{study.dataset} and what this node holds about the same people identify a person by "
        "different kinds of column, or by none, so exact answers cannot be compared: use mode dp, "
        "or ask the producer for one column, or for `persons:` of its own if the people are others",
    )


def key_of(contract: Contract) -> Mapping[str, object] | None:
    """All that decides how the key of a person is read; None if the contract names no person."""
    key = contract.columns.get(contract.person or "")
    return None if key is None else essence(key)


def essence(column: Column) -> Mapping[str, object]:
    return column.model_dump(exclude=_UNIMPORTANT)
