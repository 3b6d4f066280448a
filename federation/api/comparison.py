"""Two results side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.api.result import Result
from federation.api.spoken import spoken
from federation.study_result import StudyResult

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Comparison:
    """`rows`: one for each number in which the results differ."""

    rows: Sequence[Mapping[str, Any]]

    @property
    def same(self) -> bool:
        return not self.rows

    def tidy(self) -> pandas.DataFrame:
        """Columns: analysis, table, row, column, a, b, difference (b - a)."""
        import pandas

        columns = ["analysis", "table", "row", "column", "a", "b", "difference"]
        return pandas.DataFrame(self.rows, columns=columns)

    def _repr_html_(self) -> str:
        if self.same:
            return "<p>The results are the same.</p>"
        return str(self.tidy().to_html(index=False))


@spoken()
def compare(a: StudyResult | Path | str, b: StudyResult | Path | str) -> Comparison:
    """Every number in which two results differ. Each is a result, or the path of a result.json."""
    from aggregator import differences
    from aggregator import document as documents

    both = [_result(each).document for each in (a, b)]
    for document in both:
        documents.read(document)
    return Comparison(differences.of(*both))


def _result(given: StudyResult | Path | str) -> StudyResult:
    return given if isinstance(given, StudyResult) else Result.read(given)
