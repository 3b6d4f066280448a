"""The plan of a study, as tables for notebooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from simulations.planning import Plan


@dataclass(frozen=True)
class StudyPlan:
    """What a study costs at each node, who would refuse, and how wide each interval would be."""

    plan: Plan = field(repr=False)

    @property
    def document(self) -> dict[str, Any]:
        """As `hdh study plan --format json` prints it."""
        from simulations import planning

        return planning.document(self.plan)

    def nodes(self) -> pandas.DataFrame:
        """A row for each node. `refuses`: the reason for which it would not answer."""
        return _frame(self.document["nodes"])

    def intervals(self) -> pandas.DataFrame:
        """In mode dp, the expected width of each interval at half, this and double the epsilon."""
        rows = [
            {"epsilon": label, **row}
            for label, rows in self.document["intervals"].items()
            for row in rows
        ]
        return _frame(rows)

    def _repr_html_(self) -> str:
        parts = [f"<h3>Plan of {escape(str(self.document['study']))}</h3>"]
        for frame in (self.nodes(), self.intervals()):
            if len(frame):
                parts.append(frame.to_html(index=False))
        return "".join(parts)


def _frame(rows: Any) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(rows)
