"""A result in Python: `result["model"].tidy()`, from a simulation and from a hub alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation import errors
from federation.api.figures import Drawing
from federation.study_result import StudyResult

if TYPE_CHECKING:
    import pandas

RATIOS = ("hazard_ratio", "odds_ratio", "rate_ratio")
COUNTS = {"people": "n", "events": "n_event"}  # as the columns of tables are named
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Result(StudyResult):
    """The content of result.json. `result["model"]` is one analysis."""

    @classmethod
    def read(cls, path: Path | str) -> Result:
        """From a result.json."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            _ = document["analyses"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise errors.InputError(
                f"{path}: not a result; name the file result.json of a study"
            ) from None
        return cls(document)

    def __getitem__(self, name: str) -> AnalysisResult:
        if name not in self.document["analyses"]:
            raise errors.InputError(
                f"no analysis {name!r}; the analyses are {', '.join(self.document['analyses'])}"
            )
        return AnalysisResult(name, self.document)

    def __iter__(self) -> Iterator[str]:
        return iter(self.document["analyses"])

    def __len__(self) -> int:
        return len(self.document["analyses"])

    def report(self, folder: Path | str) -> Path:
        """Writes report.html, result.json and the tables; returns the path of the report."""
        from aggregator import report
        from aggregator.document import Document

        report.write(Document.model_validate(self.document), Path(folder))
        return Path(folder) / "report.html"

    def __repr__(self) -> str:
        analyses = self.document["analyses"].items()
        listed = ", ".join(f"{name}: {analysis['status']}" for name, analysis in analyses)
        return f"<Result of {self.document['study']}: {listed}>"


@dataclass(frozen=True)
class AnalysisResult:
    """One analysis of a result. Column names follow broom; a suppressed number is missing."""

    name: str
    document: Mapping[str, Any] = field(repr=False)

    @property
    def content(self) -> Mapping[str, Any]:
        content: Mapping[str, Any] = self.document["analyses"][self.name]
        return content

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(self.content["tables"])

    def tidy(self, table: str | None = None) -> pandas.DataFrame:
        """A row for each term, time or cell. `table`: by default the analysis's main table."""
        return _frame(self._rows(self.content, table))

    def glance(self) -> pandas.DataFrame:
        """One row about the whole analysis: its counts, and the statistics of the fit."""
        self._check_released()
        fit = (self.content["tables"].get("glance") or [{}])[0]
        counts = {COUNTS.get(name, f"n_{name}"): n for name, n in self.content["n"].items()}
        return _frame([{**counts, **fit}])

    def by_node(self, table: str | None = None) -> pandas.DataFrame:
        """The rows of each node by itself, with its name in `node`. InputError unless the study
        asks for `results: both` or `split`."""
        nodes = self.content["by_node"]
        if not nodes:
            raise errors.InputError(
                f"{self.name}: the study has no results of single nodes; add results='both' to "
                "the analysis"
            )
        return _frame(
            [
                {"node": node, **row}
                for node, part in nodes.items()
                if part["status"] == "released"
                for row in self._rows(part, table)
            ]
        )

    def augment(self, frame: Any) -> pandas.DataFrame:
        """Your own rows with the column `fitted`, what the released model predicts for them.

        `frame`: with a column for each feature of `estimator()`. The rows of the nodes stay with
        them."""
        import pandas

        estimator = self.estimator()
        if hasattr(frame, "to_pandas"):
            frame = frame.to_pandas()
        names = list(estimator.feature_names_in_)
        absent = [name for name in names if name not in frame.columns]
        if absent:
            raise errors.InputError(
                f"{self.name}: the frame lacks the columns {', '.join(absent)}; the term 'sex[F]' "
                "of a category is 1 for F and else 0"
            )
        if hasattr(estimator, "predict_proba"):
            fitted = estimator.predict_proba(frame[names])[:, 1]
        else:
            fitted = estimator.predict(frame[names])
        return pandas.DataFrame(frame).assign(fitted=fitted)

    def estimator(self) -> Any:
        """The released model as a scikit-learn estimator. InputError if the analysis has none."""
        from aggregator import estimators

        return estimators.of(self.document, self.name)

    def plot(self) -> Drawing:
        """The figures of the report: curves, forests, histograms."""
        from aggregator.document import AnalysisDocument
        from aggregator.report import html

        self._check_released()
        drawn = html.drawn(AnalysisDocument.model_validate(self.content))
        if not drawn:
            raise errors.InputError(
                f"{self.name}: run: {self.content['run']} has no figure; its tables are "
                f"{', '.join(self.tables)}"
            )
        return Drawing(tuple(drawn))

    def forest(self, term: str | None = None) -> Drawing:
        """All terms of a model below each other, or one `term` with each node's estimate."""
        from aggregator.report import figures

        rows = [row for row in self._rows(self.content, None) if _has_interval(row)]
        if not rows:
            raise errors.InputError(
                f"{self.name}: run: {self.content['run']} has no terms with intervals to draw"
            )
        ratio = next((name for name in RATIOS if name in rows[0]), "")
        if term is not None:
            return Drawing((figures.forest(self._row(rows, term), self._nodes_of(term), ratio),))
        low, high = (f"{ratio}_low", f"{ratio}_high") if ratio else ("conf_low", "conf_high")
        lines = [
            (row["term"], row[ratio or "estimate"], row[low], row[high], None)
            for row in rows
            if row["term"] != "(Intercept)"
        ]
        label = ratio.replace("_", " ") or "estimate"
        return Drawing((figures.intervals(lines, label, is_ratio=bool(ratio)),))

    def _row(self, rows: Rows, term: str) -> Mapping[str, Any]:
        found = {row["term"]: row for row in rows}
        if term not in found:
            raise errors.InputError(
                f"{self.name}: no term {term!r} with an interval; the terms are {', '.join(found)}"
            )
        return found[term]

    def _nodes_of(self, term: str) -> dict[str, Mapping[str, Any]]:
        """The row of a term at each node."""
        return {
            node: row
            for node, part in self.content["by_node"].items()
            for row in part["tables"].get("coefficients", ())
            if row["term"] == term and _has_interval(row)
        }

    def _rows(self, part: Mapping[str, Any], table: str | None) -> Rows:
        self._check_released()
        tables: Mapping[str, Rows] = part["tables"]
        others = [name for name in tables if name != "glance"]
        main = "coefficients" if "coefficients" in tables else others[0] if others else "glance"
        if (table or main) not in tables:
            raise errors.InputError(
                f"{self.name}: no table {table or main!r}; the tables are {', '.join(tables)}"
            )
        return tables[table or main]

    def _check_released(self) -> None:
        content = self.content
        if content["status"] != "released":
            raise errors.InputError(f"{self.name} was {content['status']}: {content['reason']}")

    def __repr__(self) -> str:
        content = self.content
        return f"<{self.name}: {content['run']}, {content['status']}>"

    def _repr_html_(self) -> str:
        title = f"<h4>{escape(self.name)}: {escape(str(self.content['run']))}</h4>"
        if self.content["status"] != "released":
            reason = escape(str(self.content["reason"]))
            return f"{title}<p>{escape(self.content['status'])}: {reason}</p>"
        return title + str(self.tidy().head(20).to_html(index=False))


def _has_interval(row: Mapping[str, Any]) -> bool:
    return "term" in row and row.get("conf_low") is not None


def _frame(rows: Any) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(list(rows))
