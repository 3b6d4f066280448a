"""What a node knows of a study before it runs: every refusal that hangs on the study, its contract,
the policy and the node's own books, and on no row.

The node's verdict on a proposal, `hdh study plan --hub` and `hdh study plan --node` all ask here,
so a plan says what the node will say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from federation import schema as schemas
from federation.contract import Contract
from federation.disclosure.rules import Rules
from federation.messages import Refusal
from federation.privacy import accounting
from federation.study import Study
from nodes import functionals, ledger, secure_sum, service, state_folder
from nodes.ledger import Account
from nodes.site import Site
from strategies.protocol import AnyTask


def refusal(
    study: Study,
    tasks: Mapping[str, AnyTask],
    site: Site,
    now: datetime,
    *,
    nodes: int,
    names: Sequence[str] = (),
) -> Refusal | None:
    """Of a study on the dataset that `site` holds under the study's contract. `nodes`: how many
    take part; `names`: which ones, where that is known."""
    dataset = site.datasets[study.dataset]
    rules = site.rules(study.privacy.min_cell, in_secure_sum=study.privacy.secure_sum is not None)
    return (
        service.admit_study(study, dataset.paying, nodes, site, now)
        or _beside_budget(study, site, now)
        or (secure_sum.strangers(frozenset(names), site) if study.privacy.secure_sum else None)
        or asks_too_much(study, tasks, dataset.contract, dataset.people, rules)
        or over_budget(study, site, now.year, dataset.paying.dataset)
        or service.unchecked(study, site)
    )


def asks_too_much(
    study: Study,
    tasks: Mapping[str, AnyTask],
    contract: Contract,
    people: int | None,
    rules: Rules,
) -> Refusal | None:
    """In exact mode, the refusal of more numbers about a column than a node gives of its people."""
    if study.privacy.mode == "dp" or people is None:
        return None
    schema = schemas.build(contract, study.cohort.derive)
    return functionals.forecast(study, tasks, schema, people, rules)


def over_budget(study: Study, site: Site, year: int, dataset: str) -> Refusal | None:
    """Unless the rest of the year's budget covers the study, including its earlier charges."""
    if study.privacy.mode == "exact" or _available(study, site, year, dataset) >= study.privacy.rho:
        return None
    return Refusal(
        "budget",
        f"the {year} budget of {dataset} is too small for this study: lower its epsilon, or ask "
        "its producer for a grant",
    )


def left(site: Site, account: Account) -> int:
    """The budget that is left, in pico-rho. Reading it leaves the node as it was."""
    if not state_folder.has_ledger(site.state):
        return 0
    return ledger.remaining(state_folder.open_ledger(site.state), account)


def _available(study: Study, site: Site, year: int, dataset: str) -> int:
    if not state_folder.has_ledger(site.state):
        return 0
    account = site.account(dataset, year)
    # A ledger of this thread, because an SQLite connection belongs to a thread.
    charged = ledger.spent_by(state_folder.open_ledger(site.state), account.dataset, study.hash)
    return left(site, account) + accounting.equivalent(charged, study.privacy.delta)


def _beside_budget(study: Study, site: Site, now: datetime) -> Refusal | None:
    if study.privacy.mode == "dp" or not state_folder.has_ledger(site.state):
        return None
    return service.exact_beside_budget(study, site, state_folder.open_ledger(site.state), now)
