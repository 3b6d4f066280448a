"""A producer's privacy budget: shown, verified and granted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from federation import errors
from federation.cli import screen
from federation.cli.actions import tables
from federation.cli.console import Console
from federation.cli.screen import print
from federation.privacy import accounting
from nodes import ledger, state_folder
from nodes import site as sites
from nodes.ledger import Account, Entry, Ledger
from nodes.site import Site

DELTA = 1e-6  # the delta at which budgets are shown as epsilons
WEAK_EPSILON = 8.0  # of a year: docs/privacy.md says what it promises
UNUSUAL_TIMES = 16  # in rho: about four times the epsilon of the largest grant before


def show(path: Path, output: str) -> None:
    budget_ledger = _open(path)
    entries = list(ledger.history(budget_ledger))
    balances = _balances(budget_ledger, entries)
    if output == "json":
        document = {"accounts": balances, "entries": [_document(entry) for entry in entries]}
        screen.document(document)
        return
    console = Console(highlight=False)
    if not balances:
        console.print(
            "No budget has been granted, so the node answers no study in mode dp. Grant a year's "
            "budget with:\n  hdh node grant DATASET --epsilon 3 --by NAME"
        )
        return
    console.print(_accounts(balances))
    console.print(_history(entries))
    console.print(
        f"Epsilons are given at delta {DELTA:g}. The node adds up and enforces rho.", style="dim"
    )


def _open(path: Path) -> Ledger:
    return state_folder.open_ledger(sites.load(path).state)


def _balances(budget_ledger: Ledger, entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Of each account that has a budget."""
    accounts: dict[tuple[str, str, int], Account] = {}
    datasets: defaultdict[tuple[str, str, int], set[str]] = defaultdict(set)
    for entry in entries:
        datasets[entry.account.shared].add(entry.account.dataset)
        if entry.kind in ("grant", "withdrawal", "charge"):
            accounts[entry.account.shared] = entry.account
    return [
        _balance(budget_ledger, account, sorted(datasets[shared]))
        for shared, account in accounts.items()
    ]


def _balance(budget_ledger: Ledger, account: Account, datasets: Sequence[str]) -> dict[str, Any]:
    granted, left = ledger.granted(budget_ledger, account), ledger.remaining(budget_ledger, account)
    amounts = {"granted": granted, "charged": granted - left, "left": left}  # pico-rho
    return {
        "dataset": ", ".join(datasets),
        "unit": account.unit,
        "register": account.register,
        "year": account.year,
    } | {
        name: {"rho": rho / accounting.PICO, "epsilon": accounting.epsilon(rho, DELTA)}
        for name, rho in amounts.items()
    }


def _accounts(balances: Sequence[dict[str, Any]]) -> Table:
    table = tables.plain("dataset", "unit", "year", title="Budgets, in epsilon")
    for name in ("granted", "charged", "remaining"):
        table.add_column(name, justify="right")
    table.add_column("remaining, rho", justify="right", style="dim")
    for balance in balances:
        table.add_row(
            balance["dataset"],
            balance["unit"],
            str(balance["year"]),
            *(f"{balance[name]['epsilon']:.3f}" for name in ("granted", "charged", "left")),
            f"{balance['left']['rho']:.6f}",
        )
    return table


def _history(entries: Sequence[Entry]) -> Table:
    table = tables.plain(title="\nHistory")
    table.add_column("entry", justify="right")
    table.add_column("at (UTC)", no_wrap=True)
    table.add_column("kind")
    table.add_column("dataset")
    table.add_column("rho", justify="right")
    table.add_column("origin")
    for entry in entries:
        rho = _rho(entry)
        table.add_row(
            str(entry.seq),
            entry.at[:16].replace("T", " "),
            screen.shown(entry.kind),
            f"{entry.account.dataset} {entry.account.year}",
            f"{rho:.6f}" if rho else "",
            f"by {entry.event['by']}" if "by" in entry.event else f"study {entry.study[:12]}",
        )
    return table


def _rho(entry: Entry) -> float:
    return accounting.equivalent(entry.cost, accounting.ACCOUNT_DELTA) / accounting.PICO


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "at": entry.at,
        "kind": entry.kind,
        "dataset": entry.account.dataset,
        "unit": entry.account.unit,
        "year": entry.account.year,
        "study": entry.study,
        "release": entry.release,
        "rho": _rho(entry),
        "event": entry.event,
    }


def verify(path: Path) -> None:
    """LedgerError if an entry, a cost, a budget or a stored answer was changed."""
    head = ledger.verify(_open(path))
    entries = tables.counted(head.seq, "entry", "entries")
    print(f"The ledger is intact: {entries}, the last one {head.hash}")


Sure = Callable[[str], bool]  # whether a person is sure, of a question


def grant(
    path: Path,
    dataset: str,
    epsilon: float,
    delta: float,
    year: int | None,
    by: str,
    is_sure: Sure,
) -> None:
    """`is_sure`: asked where the grant is far above what is usual."""
    if not 0 < delta < 1:
        raise errors.InputError("--delta must lie between 0 and 1")
    now = datetime.now(UTC)
    site, account, budget_ledger = _account(path, dataset, year or now.year, by)
    rho = accounting.rho_for(epsilon, delta) if epsilon > 0 else 0
    _check_limit_of_year(site, path, budget_ledger, account, rho)
    unusual = _unusual(budget_ledger, account, rho)
    if unusual and not is_sure(unusual):
        raise errors.InputError(f"nothing is granted: {unusual}; grant less, or add --yes")
    ledger.grant(budget_ledger, account, rho, by=by.strip(), at=now.isoformat(timespec="seconds"))
    left = accounting.epsilon(ledger.remaining(budget_ledger, account), delta)
    datasets = " and ".join([dataset, *site.datasets_sharing_account(dataset)])
    print(
        f"Granted: all studies of {account.year} on {datasets} together may cost one "
        f"{account.unit} epsilon {left:.3f} more (delta {delta:g})"
    )


def withdraw(path: Path, dataset: str, year: int | None, by: str) -> None:
    """Takes back the last grant. LedgerError once something was charged to it."""
    now = datetime.now(UTC)
    _, account, budget_ledger = _account(path, dataset, year or now.year, by)
    at = now.isoformat(timespec="seconds")
    rho = ledger.withdraw(budget_ledger, account, by=by.strip(), at=at)
    print(
        f"Taken back: the last grant of {account.year} on {dataset}, epsilon"
        f" {accounting.epsilon(rho, DELTA):.3f} (delta {DELTA:g}). Nothing had been charged since."
    )


def _account(path: Path, dataset: str, year: int, by: str) -> tuple[Site, Account, Ledger]:
    site = sites.load(path)
    if dataset not in site.datasets:
        raise errors.SiteError(
            f"{path}: there is no dataset {dataset!r}; the datasets are {', '.join(site.datasets)}"
        )
    if not by.strip():
        raise errors.InputError("--by must name the person who decides")
    return site, site.account(dataset, year), state_folder.open_ledger(site.state)


def _unusual(budget_ledger: Ledger, account: Account, rho: int) -> str:
    """Why a grant is far above what is usual; empty if it is not."""
    total = accounting.epsilon(ledger.granted(budget_ledger, account) + rho, DELTA)
    if total > WEAK_EPSILON:
        return (
            f"all grants of {account.year} on {account.dataset} would together be epsilon "
            f"{total:.3g}, and above {WEAK_EPSILON:g} a year the promise to a person is weak"
        )
    before = ledger.largest_grant(budget_ledger, account.dataset)
    if before and rho > UNUSUAL_TIMES * before:
        return (
            f"the largest grant of {account.dataset} before was epsilon "
            f"{accounting.epsilon(before, DELTA):.3g}, and this one is epsilon "
            f"{accounting.epsilon(rho, DELTA):.3g}"
        )
    return ""


def _check_limit_of_year(
    site: Site, path: Path, budget_ledger: Ledger, account: Account, rho: int
) -> None:
    limit = site.policy.max_epsilon_per_year
    if limit is None:
        return
    if ledger.granted(budget_ledger, account) + rho > accounting.rho_for(limit, DELTA):
        raise errors.SiteError(
            f"{path}: the grants of {account.year} on {account.dataset} would together exceed "
            f"epsilon {limit:g}; grant less, or raise policy.max_epsilon_per_year"
        )
