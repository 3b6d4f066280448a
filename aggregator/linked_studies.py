"""The submission of a study of several datasets: whether its contracts fit, and which nodes take
part in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from aggregator import link_corrections
from aggregator.database import DatasetHolder, Holders
from federation import contract as contracts
from federation import datasets, errors
from federation.contract import Contract
from federation.study import Study


def check(study: Study, contract: Contract, written: Mapping[str, str]) -> None:
    """StudyError unless the study's contract follows from those of its datasets."""
    if not study.datasets:
        return
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
    return {name: contracts.parse(text) for name, text in written.items()}


def parties(
    study: Study,
    written: Mapping[str, str],
    nodes: Mapping[str, DatasetHolder],
    named: Collection[str] = (),
) -> Holders:
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
        dataset: [name for name in chosen if nodes[name].holds(contract)]
        for dataset, contract in _contracts(study, written).items()
    }
    _check_holders(study, holders)
    roles = dict.fromkeys(holders[link.left], "left")
    roles |= {holders[link.right][0]: "right", link.helper: "helper"}
    return Holders(written, roles)


def side_by_side(
    study: Study,
    written: Mapping[str, str],
    nodes: Mapping[str, DatasetHolder],
    named: Collection[str] = (),
) -> Holders:
    """The dataset of each of the enrolled `nodes` that holds one. `named`: those that the
    coordinator asks for; all if empty. RefusalError where a dataset has no node, or a node has
    several."""
    contracts = _contracts(study, written)
    held: dict[str, str] = {}
    for name in named or nodes:
        of_node = [
            dataset for dataset, contract_ in contracts.items() if nodes[name].holds(contract_)
        ]
        if len(of_node) > 1 or (named and not of_node):
            raise errors.RefusalError(
                f"study {study.study}: {name} holds {' and '.join(of_node) or 'none'} "
                "of its datasets"
                " with these contracts, and a node answers for one; choose others with --nodes"
            )
        held |= dict.fromkeys([name], of_node[0]) if of_node else {}
    _check_held(study, held)
    return Holders(written, held=held)


def _check_held(study: Study, held: Mapping[str, str]) -> None:
    if missing := sorted(study.datasets.keys() - held.values()):
        raise errors.RefusalError(
            f"study {study.study}: no node holds dataset {missing[0]!r} with this contract;"
            " see `hdh study datasets`"
        )
    if len(held) < study.min_answers:
        raise errors.RefusalError(
            f"study {study.study} needs at least {study.min_nodes} nodes (min_nodes), and"
            f" {len(held)} hold one of its datasets"
        )


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
