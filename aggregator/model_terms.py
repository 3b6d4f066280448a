"""The columns of which the terms of a released model are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from aggregator.document import ModelColumn

Factors = Sequence[tuple[str, str | None]]


def factors_of(term: str, columns: Mapping[str, ModelColumn]) -> Factors | None:
    """The columns, each with the level of a category, whose product is the term `age:sex[F]`. None
    if the model has no such columns. Levels may hold colons and brackets."""
    for name, column in columns.items():
        if not term.startswith(name):
            continue
        for level, rest in _endings(term[len(name) :], column):
            if not rest:
                return [(name, level)]
            following = factors_of(rest[1:], columns) if rest[0] == ":" else None
            if following is not None:
                return [(name, level), *following]
    return None


def _endings(rest: str, column: ModelColumn) -> Iterator[tuple[str | None, str]]:
    if column.kind != "category":
        yield None, rest
        return
    for level in column.levels:
        if rest.startswith(f"[{level}]"):
            yield level, rest[len(level) + 2 :]
