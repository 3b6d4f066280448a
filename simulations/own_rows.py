"""What breaks the contract in one's own rows, with lines and values: for their owner only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any

from federation import errors, message_texts
from nodes import connectors, contract_counts
from nodes.site import Dataset, Storage

MAX_TOLD = 10  # lines below an error
RULES = ("data: ", "source: ", "column: ")  # of refusals that the rows of a node decide


def findings(datasets: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    """A row for each broken rule: `node`, `column`, `rule`, `rows` and `remedy`."""
    return [
        {"node": node, **finding}
        for node, dataset in datasets.items()
        for finding in _of_node(dataset)
    ]


def spoken_findings(datasets: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    """The same, with rules and remedies in the reader's language."""
    translated = ("rule", "remedy")
    return [
        {**row, **{key: message_texts.translated(str(row[key])) for key in translated}}
        for row in findings(datasets)
    ]


def _of_node(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """DataErrors of the source are findings, too."""
    from nodes import explanations, recognition

    storage = Storage()
    try:
        present = connectors.column_names(dataset, storage)
        columns = [name for name in dataset.contract.columns if name in present]
        for name in dataset.contract.columns:
            if name not in present and not dataset.contract.columns[name].may_be_empty:
                yield _row(name, "no column", 0, _alike(name, present))
        counts, broken = contract_counts.examine(dataset, storage, columns)
        seen = recognition.recognise(dataset, storage, date.today()) if broken else None
        if seen is not None:
            for each in explanations.explain(dataset, storage, counts, broken, seen):
                yield _row(each.column, each.rule, each.rows, each.remedy)
    except errors.DataError as reason:
        yield _row("", "source", 0, str(reason))


def _alike(name: str, present: Iterable[str]) -> str:
    """The remedy for a column that is not there."""
    from nodes import samples

    similar = sorted(each for each in present if samples.slug(each) == name.lower())
    if similar:
        return (
            f"the column {similar[0]!r} may be it: rename it, or give read={{'columns': "
            f"{{{name!r}: {similar[0]!r}}}}}"
        )
    return "add the column, or leave it out of the contract"


def _row(column: str, rule: str, rows: int, remedy: str) -> dict[str, Any]:
    return {"column": column, "rule": rule, "rows": rows, "remedy": remedy}


def below_error(document: Mapping[str, Any], datasets: Mapping[str, Dataset]) -> tuple[str, ...]:
    """Lines in the reader's language, where the rows of a node kept it from giving its part."""
    analyses = document["analyses"].values()
    reasons = [str(row["reason"]) for each in analyses for row in (each, *each["nodes"])]
    if not any(rule in reason for reason in reasons for rule in RULES):
        return ()
    broken = spoken_findings(datasets)
    absent = message_texts.translated("all missing")
    typed = {(row["node"], row["column"]) for row in broken if row["rule"] != absent}
    lines = [
        f"{row['node']}: {row['column']}: {row['remedy']}"
        if row["column"]
        else f"{row['node']}: {row['remedy']}"
        for row in broken
        if row["rule"] != absent or (row["node"], row["column"]) not in typed
    ]
    more = ["`nodes.check()` lists them all"] if len(lines) > MAX_TOLD else []
    if any("`read:`" in line for line in lines):
        more.append("`read:` is the argument `read` of fed.simulate, as in read={'decimal': ','}")
    return (*lines[:MAX_TOLD], *more)
