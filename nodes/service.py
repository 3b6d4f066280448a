"""One query, answered or refused: all that a node does, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from federation import codec, errors
from federation.arrays import Floats
from federation.cohort import Cohort, empty
from federation.contract import Contract
from federation.messages import Answer, NoisedAnswer, Part, Query, Refusal, Reply, State, TaskId
from federation.privacy import accounting, calibration
from federation.privacy.calibration import Grid
from federation.study import Study
from nodes import (
    admission,
    dataset_versions,
    extension_rules,
    ledger,
    noised_answer,
    results_by_step,
    secure_sum,
    source_checks,
    study_opening,
)
from nodes.admission import Book
from nodes.ledger import Ledger
from nodes.noised_answer import BudgetAccess
from nodes.session import NodeContext, StudySession
from nodes.site import Site
from strategies import budget, registry
from strategies.protocol import AnyTask

MAX_STUDIES = 4  # whose cohorts are kept between rounds


def answer(query: Query, context: NodeContext, now: datetime) -> Reply:
    """A Part, a Noised or a Refusal for each task of the query that is addressed to this node; in a
    secure sum, a SecAggMessage."""
    context = context.under(query.study.dataset, query.contract_hash)
    site, study = context.site, query.study
    mine = addressed(query, site.name)
    try:
        refused = admit(query, context, now) or _rolled_back(query, context)
        tasks = refused or _plan(study, context)
        if isinstance(tasks, Refusal):
            return Reply(site.name, query.round, dict.fromkeys(mine, as_sent(tasks, site)))
        answers = _answers(query, mine, tasks, context, now)
    except errors.LedgerError:
        return Reply(
            site.name,
            query.round,
            dict.fromkeys(
                mine,
                as_sent(
                    Refusal("ledger", "this node's ledger is not in order: ask its producer"), site
                ),
            ),
        )
    if not _keeps_books(study, site):
        return Reply(site.name, query.round, answers)
    charged = accounting.equivalent(
        ledger.spent_by(context.ledger, site.datasets[study.dataset].paying.dataset, study.hash),
        study.privacy.delta,
    )
    # The head commits to this node's own numbers, which a secure sum must hide.
    head = ledger.head(context.ledger) if query.phase is None else None
    return Reply(site.name, query.round, answers, head, charged)


def addressed(query: Query, name: str) -> dict[TaskId, State]:
    """The states of a query at which the node of this name is asked."""
    return {
        task: state
        for task, state in query.states.items()
        if task.node in ("", name) and (not state.asked or name in state.asked)
    }


def _answers(
    query: Query,
    mine: Mapping[TaskId, State],
    tasks: dict[str, AnyTask],
    context: NodeContext,
    now: datetime,
) -> dict[TaskId, Answer]:
    """Admits states before the cohort is opened,
    so that the refusal of a state depends on no row."""
    site, study = context.site, query.study
    states: Mapping[TaskId, State | Refusal] = mine
    # The later phases of a secure sum carry no state at which anything is computed.
    if query.phase is None or query.phase.name == "advertise":
        account, at = site.account(study.dataset, now.year), now.isoformat(timespec="seconds")
        book = Book(context.ledger, context.runs, account, at)
        states = admission.admit(query, mine, tasks, site.name, book)
    refusals: dict[TaskId, Answer] = {
        task: as_sent(state, site) for task, state in states.items() if isinstance(state, Refusal)
    }
    admitted = {task: state for task, state in states.items() if isinstance(state, State)}
    one_for_all = query.phase is not None and study.privacy.mode == "exact"
    if refusals and one_for_all:  # a node is in all sums of a study or in none
        return dict.fromkeys(mine, next(iter(refusals.values())))
    if not admitted:
        return refusals
    session = _session_of(query, tasks, context, now)
    if session.refused is not None:
        return refusals | dict.fromkeys(admitted, as_sent(session.refused, site))
    refusals |= {
        task: as_sent(session.absent[task.analysis], site)
        for task in admitted
        if task.analysis in session.absent
    }
    if refusals and one_for_all:
        return dict.fromkeys(mine, next(iter(refusals.values())))
    admitted = {task: state for task, state in admitted.items() if task not in refusals}
    if query.phase is not None:
        return refusals | secure_sum.answer(replace(query, states=admitted), session, context, now)
    return refusals | {
        task: compute(task, state, session, query, context, now) for task, state in admitted.items()
    }


def _plan(study: Study, context: NodeContext) -> dict[str, AnyTask] | Refusal:
    """The study's tasks, compiled once: from the study and the contract alone."""
    if study.hash not in context.plans:
        while len(context.plans) >= MAX_STUDIES:
            context.plans.pop(next(iter(context.plans)))
        try:
            context.plans[study.hash] = registry.plan(
                study, context.site.datasets[study.dataset].contract
            )
        except errors.StudyError:
            context.plans[study.hash] = Refusal(
                "study", "the study does not fit the contract here: check it with `hdh study check`"
            )
    return context.plans[study.hash]


def as_sent(refused: Refusal, site: Site) -> Refusal:
    return (
        Refusal("refused", "this node does not answer; ask its producer")
        if site.policy.terse
        else refused
    )


def _keeps_books(study: Study, site: Site) -> bool:
    return site.state is not None or study.privacy.mode == "dp"


def admit(query: Query, context: NodeContext, now: datetime) -> Refusal | None:
    """Policy against study; the stricter of the two wins."""
    study, site = query.study, context.site
    dataset = site.datasets.get(study.dataset)
    if site.name not in query.members:
        return Refusal("participants", "this node is not among those of the query: name it")
    if len(query.members) < len(query.nodes):  # the rules count the nodes of a query
        return Refusal("participants", "the query names a node twice: name each node once")
    if dataset is None:
        return Refusal(
            "dataset",
            f"this node has no dataset {study.dataset!r}: leave it out, or ask the producer to "
            "add it",
        )
    if dataset.contract.hash != query.contract_hash:
        return of_another_contract(study, site, _signed_contract(query, context))
    asked = (study.hash, len(query.nodes), now.date())
    if asked not in context.admitted:  # decided once a day
        others = study.other_parties if dataset.is_linked else 0
        context.admitted[asked] = admit_study(
            study, dataset.paying, len(query.nodes), site, now, others=others
        )
    return (
        context.admitted[asked]
        or spends_budget(study, context, now)
        or not_approved(query, context, now)
        or _not_checked(study, context)
        or secure_sum.admit(query, site)
    )


def of_another_contract(study: Study, site: Site, asked: Contract | None) -> Refusal:
    """`asked`: the study's contract, if it was sent."""
    versions = site.versions.get(study.dataset, (site.datasets[study.dataset],))
    return dataset_versions.of_another_contract([version.contract for version in versions], asked)


def _signed_contract(query: Query, context: NodeContext) -> Contract | None:
    """The contract of a query's run, as it was proposed here."""
    proposed = context.approvals.proposed(query.run) if context.approvals is not None else None
    if proposed is None:
        return None
    name, digest = query.study.dataset, query.contract_hash
    return dataset_versions.contract_in(proposed.link, name, digest)


def _not_checked(study: Study, context: NodeContext) -> Refusal | None:
    """Asked where a study begins; a source that changes later ends no study."""
    if context.approvals is None or study.hash in context.sessions:
        return None
    return unchecked(study, context.site)


def unchecked(study: Study, site: Site, name: str = "") -> Refusal | None:
    """Withholds answers of mode dp until a check has passed on the source in its present state.
    `name`: the dataset's name, unless it is the study's only one. Rows that a link made were
    checked at their holders."""
    dataset = site.datasets[name or study.dataset]
    if study.privacy.mode == "exact" or site.state is None or dataset.is_linked:
        return None
    if source_checks.is_checked(site.state, dataset.paying.dataset, dataset.as_held):
        return None
    return Refusal(
        "unchecked",
        "no `hdh node check` has passed here on this source as it is now: ask its producer to "
        "run it",
    )


def spends_budget(
    study: Study, context: NodeContext, now: datetime, name: str = ""
) -> Refusal | None:
    """As `exact_beside_budget`. A simulated producer without a ledger on disk grants what a study
    asks for, and is not asked here."""
    if study.privacy.mode == "dp" or context.site.state is None:
        return None
    return exact_beside_budget(study, context.site, context.ledger, now, name)


def exact_beside_budget(
    study: Study, site: Site, budget_ledger: Ledger, now: datetime, name: str = ""
) -> Refusal | None:
    """Refuses exact answers about people for whom this node has granted a budget of epsilon: they
    would undo what the budget promises."""
    dataset = name or study.dataset
    if "exact" in (site.datasets[dataset].modes or ()):
        return None
    if not ledger.has_grant(budget_ledger, site.account(dataset, now.year)):
        return None
    return Refusal(
        "privacy",
        "this dataset has a budget of epsilon, which exact answers would undo: use mode dp, or "
        "ask its producer to write `modes: [exact, dp]` for the dataset",
    )


NOT_APPROVED = {
    "waiting": "its producer has not approved this study",
    "refused": "its producer refused it",
    "over": "this run has ended, and an approval is for one run: submit the study again",
    "expired": "the approval of this study has expired: submit it again",
}


def not_approved(query: Query, context: NodeContext, now: datetime) -> Refusal | None:
    """Refuses a query that belongs to no approved run. The run's ticket names the study, the
    contract, the nodes and the deadline, and its coordinator has signed all of it."""
    approvals = context.approvals
    if approvals is None:
        return None
    proposed = approvals.proposed(query.run)
    if proposed is None or proposed.study_hash != query.study.hash:
        return Refusal(
            "approval",
            "this very study was never proposed here under its coordinator's signature: submit "
            "it through the hub",
        )
    if not proposed.ticket.covers(query.contract_hash, query.nodes):
        return Refusal(
            "approval",
            "the query is for other nodes or another contract than the coordinator signed: submit "
            "the study again",
        )
    pinned = context.site.policy.coordinator_keys.get(query.study.coordinator)
    if pinned not in (None, proposed.key_id):
        return Refusal("approval", "the key of its coordinator is not accepted here any more")
    standing = approvals.standing(query.run, now.timestamp())
    return None if standing == "approved" else Refusal("approval", NOT_APPROVED[str(standing)])


def admit_study(
    study: Study, contract: Contract, nodes: int, site: Site, now: datetime, *, others: int = 0
) -> Refusal | None:
    """The first refusal that is known before a study runs on `nodes` nodes. `others`: parties of a
    link that answer nothing."""
    if nodes < (needed := max(site.policy.min_nodes - others, study.min_answers)):
        return Refusal(
            "min_nodes",
            f"this site answers this study together with at least {needed - 1} others: add nodes",
        )
    return (
        _not_authorised(study, site, now)
        or _outside_privacy(study, site)
        or _not_for_its_users(study, contract, site)
        or extension_rules.refusal(study, site)
        or _not_run_here(study, site)
        or dataset_versions.not_compared(study, site.contracts_about_people_of(study.dataset))
        or secure_sum.admit_study(study, nodes, site)
    )


def _not_authorised(study: Study, site: Site, now: datetime) -> Refusal | None:
    reference, until = study.authorisation.reference, study.authorisation.expires
    if until < now.date():
        return Refusal(
            "authorisation", f"the authorisation {reference} expired on {until}: renew it"
        )
    accepted = site.policy.authorisations
    if accepted is not None and reference not in accepted:
        return Refusal(
            "authorisation",
            f"this site has no authorisation {reference}: ask the producer to add it",
        )
    if accepted is not None and accepted[reference] < now.date():
        return Refusal(
            "authorisation",
            f"the authorisation {reference} expired here on {accepted[reference]}: renew it",
        )
    return None


def _outside_privacy(study: Study, site: Site) -> Refusal | None:
    """The mode must be one of the policy and of the dataset, and the budget within the policy."""
    policy, privacy = site.policy, study.privacy
    dataset = site.datasets.get(study.dataset)
    of_dataset = policy.modes if dataset is None or dataset.modes is None else dataset.modes
    modes = [mode for mode in policy.modes if mode in of_dataset]
    if privacy.mode not in modes:
        return Refusal(
            "privacy",
            f"this site does not answer in mode {privacy.mode}: use mode "
            f"{' or '.join(modes) or 'none'}, or ask its producer",
        )
    if privacy.mode == "dp" and not (
        privacy.epsilon <= policy.max_epsilon and privacy.delta <= policy.max_delta
    ):
        return Refusal(
            "epsilon",
            f"this site gives a study epsilon {policy.max_epsilon:g} at most, at a delta of "
            f"{policy.max_delta:g} at most: ask for less",
        )
    return None


def _not_for_its_users(study: Study, contract: Contract, site: Site) -> Refusal | None:
    """The purpose must be one of the policy; the coordinator one of the policy's and of the
    contract's."""
    policy = site.policy
    if study.purpose.category not in policy.purposes:
        return Refusal(
            "purpose",
            f"this site does not take part in studies for {study.purpose.category}: leave it out, "
            "or ask its producer",
        )
    if (policy.coordinators is not None and study.coordinator not in policy.coordinators) or (
        contract.use and study.coordinator not in contract.use
    ):
        return Refusal(
            "coordinator",
            f"this site does not answer coordinator {study.coordinator!r}: ask the producer to "
            "add it",
        )
    return None


def _not_run_here(study: Study, site: Site) -> Refusal | None:
    """The analyses must be allowed here, in the installed versions."""
    allowed = registry.NAMES if site.policy.analyses is None else site.policy.analyses
    refused = study.runs.difference(allowed, extension_rules.analyses_of(study))
    if refused:
        return Refusal(
            "analysis",
            f"this site does not run {', '.join(sorted(refused))}: leave it out, or ask the "
            "producer to allow it",
        )
    absent = [
        f"{entry.run} version {entry.version}"
        for entry in study.analyses.values()
        if entry.version is not None and entry.version != registry.version(entry.run)
    ]
    if absent:
        return Refusal(
            "analysis",
            f"this site has not installed {', '.join(sorted(absent))}: use the version that is "
            "there, or ask the producer to update",
        )
    return None


def _rolled_back(query: Query, context: NodeContext) -> Refusal | None:
    """The hub has seen a later ledger of this node than the one that is here now."""
    seen = query.witnesses.get(context.site.name)
    if seen is None or context.site.state is None:
        return None
    try:
        ledger.check_witness(context.ledger, seen)
    except errors.LedgerError:
        return Refusal(
            "ledger",
            "this node's ledger is older than the one that the hub has seen: its producer must "
            "restore the newest copy",
        )
    return None


def _session_of(
    query: Query, tasks: dict[str, AnyTask], context: NodeContext, now: datetime
) -> StudySession:
    key = query.study.hash
    if key not in context.sessions:
        while len(context.sessions) >= MAX_STUDIES:
            context.sessions.pop(next(iter(context.sessions)))
        context.sessions[key] = study_opening.open_session(query.study, tasks, context, now)
    return context.sessions[key]


def compute(
    task_id: TaskId,
    state: State,
    session: StudySession,
    query: Query,
    context: NodeContext,
    now: datetime,
) -> Answer:
    """The rows meet the analysis here and nowhere else; its Part passes the node's door."""
    task = session.tasks[task_id.analysis]
    return (
        noised(task_id, state, task, session, query, context, now)
        if query.study.privacy.mode == "dp"
        else results_by_step.answer(task_id, state, session)
    )


def noised(
    task_id: TaskId,
    state: State,
    task: AnyTask,
    session: StudySession,
    query: Query,
    context: NodeContext,
    now: datetime,
) -> NoisedAnswer | Refusal:
    zero = budget.zero(task, state)
    try:
        grids = noised_answer.grids(query, task, state, zero)
    except ValueError:
        return Refusal(
            "budget",
            "the study's budget is too small for this round: give it more, or ask for less",
        )
    access = BudgetAccess(
        context.ledger, context.site.account(query.study.dataset, now.year), now, context.entropy
    )
    name = noised_answer.name(query, task_id, state, noised_answer.WHOLE)
    cohort = noised_answer.with_coins(session.cohort, name, context.salt)
    sampling = budget.sampling(task, state)
    if sampling is not None and sampling.inside:
        return _trained(name, task_id, state, task, cohort, query, grids, access)
    return noised_answer.release(
        name,
        query.study,
        grids,
        zero,
        lambda: noised_answer.part_of(task, state, cohort),
        access,
        has_changed=noised_answer.has_changed(cohort),
    )


def _trained(
    name: str,
    task_id: TaskId,
    state: State,
    task: AnyTask,
    cohort: Cohort,
    query: Query,
    grids: Mapping[str, Grid],
    access: BudgetAccess,
) -> NoisedAnswer | Refusal:
    """A round of training at the node.
    The number of people is the one that the node has released."""
    first = ledger.stored(
        access.ledger,
        noised_answer.name(query, task_id, task.analysis.start(task), noised_answer.WHOLE),
    )
    if first is None:
        return Refusal(
            "ledger",
            "this node was not asked for the first round of the training, or has lost it: submit "
            "another study",
        )
    answer = codec.noised_from_bytes(first)
    people = calibration.to_numbers(answer.steps["people"], answer.units["people"])
    nobody = replace(
        empty(task.fields, task.rows_per_person), seed=cohort.seed, release=cohort.release
    )
    trains = tuple(partial(_train, task, state, some, people) for some in (cohort, nobody))
    return noised_answer.inside(
        name,
        query.study,
        grids,
        budget.step_grid(query.study, task, state),
        budget.zero(task, state),
        (trains[0], trains[1]),
        access,
    )


def _train(
    task: AnyTask, state: State, cohort: Cohort, people: Floats, noised: Callable[[Floats], Floats]
) -> Part:
    return budget.training(task).inside(cohort, task, state, noised, people)
