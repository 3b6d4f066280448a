"""The submission of a study with a link: whether its contracts fit, and who are its parties."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pydantic

from aggregator import link_corrections
from aggregator.database import LinkedParties, Party
from federation import datasets, errors
from federation.contract import Contract
from federation.study import Study


def check(study: Study, contract: Contract, written: Mapping[str, str]) -> None:
    """StudyError unless the study's contract follows from those of its datasets."""
    if not study.datasets:
        return
    if study.link is None:
        raise errors.StudyError(
            f"study {study.study}: a study of several datasets without a link runs in"
            " `hdh simulate` only; submit one study for each dataset"
        )
    if datasets.contract_of(study, _contracts(study, written)).hash != contract.hash:
        raise errors.StudyError(
            f"study {study.study}: its contract does not follow from those of its datasets;"
            " submit it with `hdh study submit`"
        )


def correctable(study: Study, written: Mapping[str, str]) -> list[str]:
    """The analyses that get a table `corrected`, from the `written` contracts."""
    return sorted(link_corrections.crossing(study, _contracts(study, written)))


def _contracts(study: Study, written: Mapping[str, str]) -> dict[str, Contract]:
    if set(written) != set(study.datasets):
        raise errors.StudyError(
            f"study {study.study}: it came without the contracts of {', '.join(study.datasets)};"
            " submit it with `hdh study submit` of this version"
        )
    try:
        return {name: Contract.model_validate_json(text) for name, text in written.items()}
    except pydantic.ValidationError:
        raise errors.ContractError(
            "a contract received does not follow the schema of this version"
        ) from None


def parties(
    study: Study,
    written: Mapping[str, str],
    nodes: Mapping[str, Party],
    named: Collection[str] = (),
) -> LinkedParties:
    """The left holders, the right one and the helper, of the enrolled `nodes`. `named`: those that
    the coordinator asks for; all if empty. InputError or RefusalError where one is missing."""
    link = study.link
    assert link is not None
    if link.helper not in nodes:
        raise errors.InputError(
            f"the helper {link.helper!r} is not enrolled here; the nodes are"
            f" {', '.join(nodes) or 'none'}"
        )
    chosen = [name for name in named or nodes if name != link.helper]
    holders = {
        dataset: [name for name in chosen if _holds(nodes[name], contract)]
        for dataset, contract in _contracts(study, written).items()
    }
    _check_holders(study, holders)
    roles = dict.fromkeys(holders[link.left], "left")
    roles |= {holders[link.right][0]: "right", link.helper: "helper"}
    return LinkedParties(written, roles)


def _holds(node: Party, contract: Contract) -> bool:
    return bool(node.holdings.get(contract.dataset, {}).get("contract") == contract.hash)


def _check_holders(study: Study, holders: Mapping[str, Collection[str]]) -> None:
    link = study.link
    assert link is not None
    for dataset in (link.left, link.right):
        if not holders[dataset]:
            raise errors.RefusalError(
                f"study {study.study}: no node holds dataset {dataset!r} with this contract;"
                " see `hdh study datasets`"
            )
    if len(holders[link.right]) > 1 or set(holders[link.left]) & set(holders[link.right]):
        raise errors.RefusalError(
            f"study {study.study}: a link has one node with {link.right!r}, and others with"
            f" {link.left!r}; choose them with --nodes"
        )
    if len(holders[link.left]) < study.min_answers:
        raise errors.RefusalError(
            f"study {study.study} needs {study.min_nodes} parties (min_nodes), of which two are"
            f" the right holder and the helper, and {len(holders[link.left])} hold {link.left!r}"
        )
