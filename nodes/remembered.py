"""What a node remembers of earlier answers, read from its ledger once and found by column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class ByColumn(Generic[T]):
    """Values in the order in which they came. `columns_of`: the columns about which a value
    tells."""

    def __init__(self, columns_of: Callable[[T], Iterable[str]]) -> None:
        self._columns_of = columns_of
        self._values: list[T] = []
        self._places: defaultdict[str, list[int]] = defaultdict(list)

    def append(self, value: T) -> None:
        for column in self._columns_of(value):
            self._places[column].append(len(self._values))
        self._values.append(value)

    def all(self) -> list[T]:
        return list(self._values)

    def beside(self, columns: Iterable[str]) -> list[T]:
        """The values that share a column with these."""
        sharing = {place for name in columns for place in self._places.get(name, ())}
        return [self._values[place] for place in sorted(sharing)]


class Entries(ByColumn[T]):
    """The values of a ledger's entries. `read`: the value of an entry, or None if it has none of
    this sort."""

    def __init__(
        self, read: Callable[[bytes], T | None], columns_of: Callable[[T], Iterable[str]]
    ) -> None:
        super().__init__(columns_of)
        self._read = read

    def add(self, seq: int, content: bytes) -> None:
        if (value := self._read(content)) is not None:
            self.append(value)
