"""`hdh node ledger` and `hdh node grant`: a producer's view of their privacy budget."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from federation import errors
from federation.privacy import accounting
from nodes import ledger, state_folder
from nodes import site as sites
from nodes.ledger import Account, Entry, Ledger

DELTA = 1e-6  # at which budgets are shown as epsilons


def show(path: Path, output: str) -> None:
    budget_ledger = _open(path)
    entries = list(ledger.history(budget_ledger))
    accounts = {
        entry.account: _balance(budget_ledger, entry.account)
        for entry in entries
        if entry.kind in ("grant", "charge")
    }
    if output == "json":
        print(
            json.dumps(
                {
                    "accounts": list(accounts.values()),
                    "entries": [_plain(entry) for entry in entries],
                },
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    console = Console(highlight=False)
    if not accounts:
        console.print(
            "Nothing was granted yet, so no study in mode dp is answered. Grant a year's budget with:\n  hdh node grant DATASET --epsilon 3 --by NAME"
        )
        return
    console.print(_accounts(list(accounts.values())))
    console.print(_history(entries))
    console.print(
        f"Epsilons are at a delta of {DELTA:g}; what adds up, and is enforced, is rho.", style="dim"
    )


def _open(path: Path) -> Ledger:
    return state_folder.open_ledger(sites.load(path).state)


def _balance(budget_ledger: Ledger, account: Account) -> dict[str, Any]:
    granted, left = ledger.granted(budget_ledger, account), ledger.remaining(budget_ledger, account)
    named = {"dataset": account.dataset, "unit": account.unit, "year": account.year}
    rhos = {"granted": granted, "charged": granted - left, "left": left}
    return named | {
        name: {"rho": rho / accounting.PICO, "epsilon": accounting.epsilon(rho, DELTA)}
        for name, rho in rhos.items()
    }


def _accounts(balances: list[dict[str, Any]]) -> Table:
    table = Table(
        "dataset",
        "unit",
        "year",
        title="Budgets, in epsilon",
        title_justify="left",
        title_style="italic",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for name in ("granted", "charged", "left", "left, rho"):
        table.add_column(name, justify="right", style="dim" if "rho" in name else "")
    for one in balances:
        epsilons = [f"{one[name]['epsilon']:.3f}" for name in ("granted", "charged", "left")]
        table.add_row(
            one["dataset"], one["unit"], str(one["year"]), *epsilons, f"{one['left']['rho']:.6f}"
        )
    return table


def _history(entries: list[Entry]) -> Table:
    table = Table(
        title="\nHistory",
        title_justify="left",
        title_style="italic",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for name in ("entry", "at (UTC)", "what", "dataset", "rho", "of"):
        table.add_column(
            name,
            justify="right" if name in ("entry", "rho") else "left",
            no_wrap=name == "at (UTC)",
        )
    for entry in entries:
        of = f"by {entry.event['by']}" if entry.kind == "grant" else f"study {entry.study[:12]}"
        spent = accounting.equivalent(entry.cost, accounting.ACCOUNT_DELTA)
        rho = f"{spent / accounting.PICO:.6f}" if spent else ""
        table.add_row(
            str(entry.seq),
            entry.at[:16].replace("T", " "),
            entry.kind,
            f"{entry.account.dataset} {entry.account.year}",
            rho,
            of,
        )
    return table


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "seq": entry.seq, "at": entry.at, "kind": entry.kind, "dataset": entry.account.dataset, "unit": entry.account.unit, "year": entry.account.year,
        "study": entry.study, "release": entry.release, "rho": accounting.equivalent(entry.cost, accounting.ACCOUNT_DELTA) / accounting.PICO, "event": entry.event,
    }  # fmt: skip


def verify(path: Path) -> None:
    """Exit 7 if anything was changed."""
    head = ledger.verify(_open(path))
    print(f"in order: {head.seq} entries, the last {head.hash}")


def grant(
    path: Path, dataset: str, epsilon: float, delta: float, year: int | None, by: str
) -> None:
    site = sites.load(path)
    if dataset not in site.datasets:
        raise errors.SiteError(
            f"{path}: no dataset {dataset!r}; the datasets are {', '.join(site.datasets)}"
        )
    if not 0 < delta < 1 or not by.strip():
        raise errors.InputError("--delta must lie between 0 and 1, and --by must name who decides")
    now = datetime.now(UTC)
    contract = site.datasets[dataset].contract
    account = Account(dataset, contract.unit, year or now.year)
    budget_ledger = state_folder.open_ledger(site.state)
    most, asked = (
        site.policy.max_epsilon_per_year,
        accounting.rho_for(epsilon, delta) if epsilon > 0 else 0,
    )
    if most is not None and ledger.granted(budget_ledger, account) + asked > accounting.rho_for(
        most, DELTA
    ):
        raise errors.SiteError(
            f"{path}: all grants of {account.year} on {dataset} together may not pass epsilon {most:g} (policy.max_epsilon_per_year)"
        )
    ledger.grant(budget_ledger, account, asked, by=by.strip(), at=now.isoformat(timespec="seconds"))
    left = accounting.epsilon(ledger.remaining(budget_ledger, account), delta)
    print(
        f"granted: all studies of {account.year} on {dataset} together may now cost one {account.unit} epsilon {left:.3f} more (delta {delta:g})"
    )
