"""A connection to DuckDB that counts its queries."""

from __future__ import annotations

from typing import Any


class Counted:
    """`queries`: of all such connections so far."""

    queries = 0

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def execute(self, *arguments: Any) -> Any:
        Counted.queries += 1
        return self.connection.execute(*arguments)

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)
