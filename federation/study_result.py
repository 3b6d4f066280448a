"""The content of a result.json in Python, without the libraries that draw or analyse it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from federation import errors, message_texts

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class StudyResult:
    """The content of result.json, with its tables as data frames."""

    document: dict[str, Any] = field(repr=False)

    @property
    def tables(self) -> dict[str, list[str]]:
        """The names of the tables, by analysis."""
        analyses = self.document["analyses"].items()
        return {name: list(analysis["tables"]) for name, analysis in analyses}

    def table(
        self, name: str, analysis: str | None = None, frame: Literal["pandas", "polars"] = "pandas"
    ) -> Any:
        """A table as a data frame. Give `analysis` if several have a table of this name."""
        holders = [
            holder
            for holder, tables in self.tables.items()
            if name in tables and analysis in (None, holder)
        ]
        if len(holders) != 1:
            count = "more than one" if holders else "no"
            place = f" of {analysis}" if analysis else ""
            raise errors.InputError(f"{count} table {name!r}{place}; there are {self._list()}")
        rows = self.document["analyses"][holders[0]]["tables"][name]
        if frame == "polars":
            import polars

            return polars.DataFrame(rows)
        import pandas

        return pandas.DataFrame(rows)

    def _list(self) -> str:
        """The names of all tables, as in an error message."""
        return "; ".join(
            f"{analysis}: {', '.join(tables) or 'none'}" for analysis, tables in self.tables.items()
        )

    def save(self, path: Path | str) -> None:
        Path(path).write_text(
            json.dumps(self.document, indent=2, ensure_ascii=False), encoding="utf-8"
        )

    def _repr_html_(self) -> str:
        parts = [f"<h3>{escape(self.document['title'])}</h3>"]
        for analysis, tables in self.tables.items():
            if not tables:
                reason = without(analysis, self.document["analyses"][analysis])
                parts.append(f"<p>{escape(message_texts.translated(reason))}</p>")
            parts.append(without_nodes(self.document["analyses"][analysis]))
            for name in tables:
                frame: pandas.DataFrame = self.table(name, analysis)
                title = f"<h4>{escape(analysis)}: {escape(name)}</h4>"
                parts.append(title + frame.head(20).to_html(index=False))
        return "".join(parts)


def without_nodes(content: Mapping[str, Any]) -> str:
    """The nodes that gave no part of a released analysis and why, as HTML."""
    if content["status"] != "released":
        return ""
    absent = [row for row in content.get("nodes", ()) if row["reason"]]
    reasons = [(row["node"], message_texts.translated(row["reason"])) for row in absent]
    return "".join(f"<p>{escape(node)}: {escape(reason)}</p>" for node, reason in reasons)


def without(name: str, content: Mapping[str, Any]) -> str:
    """Why an analysis has no result. `content`: its entry in result.json."""
    status, reason = content["status"], str(content["reason"])
    happened = status if status == "failed" else f"was {status}"
    return f"{name} {happened}: {reason.removeprefix(f'{name}: ')}"
