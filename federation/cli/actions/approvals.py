"""The studies proposed to a node, and the decisions of its staff."""

from __future__ import annotations

import getpass
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import yaml

from federation import audit, errors, language, message_texts
from federation import study as studies
from federation.cli import screen
from federation.cli.actions import mappings, node_setup, tables
from federation.cli.console import Console
from federation.cli.screen import print
from federation.language import tr
from federation.privacy import accounting
from federation.study import Study
from nodes import (
    daemon,
    dataset_versions,
    extension_rules,
    functionals,
    link_proposals,
    service,
    side_by_side,
    sides,
    state_folder,
)
from nodes.approvals import Proposed, Verdict
from nodes.sides import Sides
from nodes.site import Site

UNPRINTED = ("written", "ticket", "deadline")


def show_all(path: Path, output: str) -> None:
    _, state = node_setup.site_and_state(path)
    studies = node_setup.approvals(state).all()
    if output == "json":
        documents = [
            {
                "run": study.run,
                **vars(study.ticket),
                **{key: value for key, value in vars(study).items() if key not in UNPRINTED},
            }
            for study in studies
        ]
        screen.document(documents)
        return
    console = Console(highlight=False)
    if not studies:
        console.print(tr("No study has been proposed to this node yet."))
        return
    table = tables.plain(
        tr("number"),
        tr("study"),
        tr("hash"),
        tr("coordinator"),
        tr("received (UTC)"),
        tr("decision"),
        tr("by"),
        tr("reason"),
    )
    for study in studies:
        table.add_row(
            str(study.ticket.number),
            study.study,
            study.study_hash[:12],
            study.coordinator,
            language.moment(datetime.fromisoformat(study.received)),
            _decision(study),
            study.by,
            study.reason,
        )
    console.print(table)
    if any(_waits(study) for study in studies):
        console.print(
            tr(
                "Read a study with `hdh node show STUDY`, then decide with `hdh node approve "
                "STUDY` or `hdh node refuse STUDY --reason ...`."
            ),
            style="dim",
        )


def _waits(study: Proposed) -> bool:
    return study.verdict == "waiting" and not study.over


def _decision(study: Proposed) -> str:
    if study.verdict != "waiting":
        return tr(study.verdict)
    return tr("ended undecided") if study.over else tr("waits for you")


def show(path: Path, name: str) -> None:
    site, state = node_setup.site_and_state(path)
    proposed = node_setup.approvals(state).find(name)
    for line in _signed(proposed):
        print(f"# {line}")
    study = studies.parse(proposed.written)
    opened = _opened(study, proposed, site)
    for line in mappings.lines(opened, study.dataset):
        print(f"# {message_texts.translated(line)}")
    for line in [
        *extension_rules.describe(study, opened),
        *_version_lines(study, proposed, opened),
        *_datasets_lines(study, proposed, opened),
    ]:
        print(f"# {message_texts.translated(line)}")
    for line in costs(study, opened, len(proposed.ticket.nodes)):
        print(f"# {line}")
    written = json.loads(proposed.written)
    screen.verbatim(yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    _show_sides(study, opened)
    _show_given(study, opened)


def _opened(study: Study, proposed: Proposed, site: Site) -> Site:
    """The site as it would answer the study: with the version of its dataset that the coordinator
    signed, or with its dataset beside others."""
    if not side_by_side.is_side_by_side(study):
        return site.under(study.dataset, proposed.ticket.contract_hash)
    placed = side_by_side.site_of(study, proposed.ticket.contract_hash, proposed.link, site)
    return placed if isinstance(placed, Site) else site


def _version_lines(study: Study, proposed: Proposed, site: Site) -> list[str]:
    """Which version of the dataset answers, and how the newest one here differs from it."""
    dataset = site.datasets.get(study.dataset)
    if study.datasets or dataset is None:
        return []
    asked = proposed.ticket.contract_hash
    if dataset.contract.hash != asked:
        contract = dataset_versions.contract_in(proposed.link, study.dataset, asked)
        return [str(service.of_another_contract(study, site, contract))]
    newest = site.versions.get(study.dataset, (dataset,))[0].contract
    lines = [f"dataset {study.dataset}, version {dataset.contract.version}"]
    if newest.hash != asked:
        lines[0] += f"; version {newest.version} is here too, in which"
        lines += [f"  {line}" for line in dataset.contract.differences(newest)]
    return lines


def _datasets_lines(study: Study, proposed: Proposed, site: Site) -> list[str]:
    """Of a study of several datasets: for which one this node answers. Of a linked study: with
    whom, which columns go, and what each party learns."""
    if study.link is None:
        is_placed = bool(study.datasets) and study.dataset in site.datasets
        return side_by_side.describe(study, site) if is_placed else []
    try:
        proposal = link_proposals.read(study, proposed.ticket, proposed.link)
    except errors.StudyError as reason:
        return [f"the link cannot be read: {reason}"]
    return link_proposals.describe(proposal, site)


def _signed(proposed: Proposed) -> list[str]:
    """All that the coordinator signed beside the study."""
    ticket = proposed.ticket
    deadline = language.moment(datetime.fromtimestamp(proposed.deadline, UTC))
    return [
        tr("hash {hash}").format(hash=ticket.study_hash),
        tr("signed by {coordinator} with key {key}").format(
            coordinator=proposed.coordinator, key=proposed.key_id
        ),
        tr("for one run: number {number} at the hub of authority {hub}").format(
            number=ticket.number, hub=ticket.hub
        ),
        tr("contract {hash}").format(hash=ticket.contract_hash),
        tr("nodes {nodes}").format(nodes=", ".join(ticket.nodes)),
        tr("deadline for approvals {moment} UTC").format(moment=deadline),
    ]


def _show_sides(study: Study, site: Site) -> None:
    """How many people of this node stand on each side of each expression that the study writes."""
    if study.link is not None:
        conditions = tr(
            "Conditions over linked people are counted when the study runs, before it answers"
        )
        print(f"# {conditions}")
        return
    if (refused := extension_rules.refusal(study, site)) is not None:
        text = tr("People are not counted, so that no code runs which is not allowed: {reason}")
        print(f"# {text.format(reason=message_texts.translated(str(refused)))}")
        return
    sides_of = tr(
        "People of this node on each side of every expression of the study (never sent to the hub)"
    )
    print(f"# {sides_of}")
    try:
        counted = sides.of_study(study, site)
    except (errors.HdhError, KeyError) as reason:
        text = message_texts.translated(str(reason))
        print(f"#   {tr('they cannot be counted: {reason}').format(reason=text)}")
        return
    for expression in counted:
        print(f"#   {expression.place}: {expression.text}\n#     {_people(expression)}")
    if not counted:
        print(f"#   {tr('the study writes no condition, derived column or weight')}")


def _people(expression: Sides) -> str:
    counts = ", ".join(f"{tables.number(n)} {tr(side)}" for side, n in expression.people.items())
    if expression.share is None:
        return counts
    share = tr("one person gives at most {share} % of the sum")
    return f"{counts}; {share.format(share=f'{100 * expression.share:.0f}')}"


def _show_given(study: Study, site: Site) -> None:
    for coordinator, numbers in _given(study, site).items():
        column, most = max(numbers.items(), key=lambda pair: pair[1])
        received = tr(
            "{coordinator} has received {n} numbers about {column} this year, more than about any "
            "other column"
        )
        print(f"#   {received.format(coordinator=coordinator, n=most, column=column)}")


def _given(study: Study, site: Site) -> dict[str, Counter[str]]:
    if site.state is None or not (site.state / state_folder.LEDGER).exists():
        return {}
    ledger = state_folder.open_ledger(site.state)
    dataset = site.datasets.get(study.dataset)
    name = dataset.paying.dataset if dataset is not None else study.dataset
    return functionals.given(ledger, name, datetime.now(UTC).year)


def costs(study: Study, site: Site, nodes: int) -> list[str]:
    """The cost of the study to one person, here and over all nodes; nothing in exact mode."""
    named = sorted(study.datasets) or [study.dataset]
    held = next((name for name in named if name in site.datasets), None)
    if study.privacy.mode != "dp" or held is None:
        return []
    contract, privacy = site.datasets[held].contract, study.privacy
    factor = contract.max_nodes_of_person(nodes)
    over_nodes = accounting.epsilon_over_nodes(privacy.rho, privacy.delta, factor)
    lines = [
        tr("cost to one {unit} here: epsilon {epsilon}, delta {delta}").format(
            unit=tr(contract.unit),
            epsilon=language.number(f"{privacy.epsilon:g}"),
            delta=language.number(f"{privacy.delta:g}"),
        ),
        tr("cost over all nodes, with rows at {n} of them ({why}): epsilon {epsilon}").format(
            n=factor, why=tr(contract.why_nodes), epsilon=language.number(f"{over_nodes:.3f}")
        ),
    ]
    if shared := site.datasets_sharing_account(held):
        text = tr("charged to the same people as {datasets}, which share the budget")
        lines.append(text.format(datasets=", ".join(shared)))
    return lines


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
        run=study.run,
        coordinator=study.coordinator,
        by=decided_by,
        why=reason,
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    proposals.decide(study.run, verdict, reason, decided_by, now)
    later = "" if daemon.is_running(state) else tr("; the hub will learn it when the node runs")
    text = tr("{study} (number {number}, {hash}) is {verdict} by {person}{later}")
    print(
        text.format(
            study=study.study,
            number=study.ticket.number,
            hash=study.study_hash[:12],
            verdict=tr(verdict),
            person=decided_by,
            later=later,
        )
    )
