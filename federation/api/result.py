"""A result in Python: `result["model"].tidy()`, from a simulation and from a hub alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from federation import errors, message_texts, study_result
from federation.api.figures import Drawing
from federation.api.spoken import spoken
from federation.study_result import StudyResult

if TYPE_CHECKING:
    import pandas

    from aggregator.document import AnalysisDocument

COUNTS = {"people": "n", "events": "n_event"}  # as the columns of tables are named
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Result(StudyResult):
    """The content of result.json. `result["model"]` is one analysis. `on_rows`: what is wrong with
    one's own rows, below the error of an analysis that has no result."""

    on_rows: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    @spoken()
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

    @spoken()
    def __getitem__(self, name: str) -> AnalysisResult:
        if name not in self.document["analyses"]:
            raise errors.InputError(
                f"no analysis {name!r}; the analyses are {', '.join(self.document['analyses'])}"
            )
        return AnalysisResult(name, self.document, self.on_rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.document["analyses"])

    def __len__(self) -> int:
        return len(self.document["analyses"])

    @spoken()
    def report(self, folder: Path | str) -> Path:
        """Writes report.html, result.json and the tables; returns the path of the report."""
        from aggregator import report
        from aggregator.document import Document

        report.write(Document.model_validate(self.document), Path(folder))
        return Path(folder) / "report.html"

    @spoken()
    def export(
        self, path: Path | str, form: Literal["xlsx", "csv", "csv-fr"] = "xlsx"
    ) -> list[Path]:
        """Writes the tables for a spreadsheet: a workbook, or a folder of CSV files, which a French
        Excel reads as `csv-fr`. Returns the files. InputError if one exists."""
        from aggregator.document import Document
        from aggregator.report import spreadsheet

        if form not in ("xlsx", "csv", "csv-fr"):
            raise errors.InputError(f"form: {form!r} is none of xlsx, csv, csv-fr")
        return spreadsheet.write(Document.model_validate(self.document), Path(path), form)

    @spoken()
    def figures(self, folder: Path | str, form: Literal["svg", "png"] = "svg") -> list[Path]:
        """Writes each figure of the report as a file, ANALYSIS-NUMBER.svg. Returns the files.
        InputError if one exists."""
        from aggregator.document import Document
        from aggregator.report import html

        if form not in ("svg", "png"):
            raise errors.InputError(f"form: {form!r} is none of svg, png")
        return html.write_figures(Document.model_validate(self.document), Path(folder), form)

    @spoken()
    def methods(self) -> str:
        """The methods of the study in sentences, to paste into an article."""
        from aggregator.document import Document
        from aggregator.report import methods

        return methods.paragraph(Document.model_validate(self.document))

    @spoken()
    def _repr_html_(self) -> str:
        return super()._repr_html_()

    def __repr__(self) -> str:
        analyses = self.document["analyses"].items()
        listed = ", ".join(repr(self[name])[1:-1] for name, _ in analyses)
        return f"<Result of {self.document['study']}: {listed}>"


@dataclass(frozen=True)
class AnalysisResult:
    """One analysis of a result. Column names follow broom; a suppressed number is missing."""

    name: str
    document: Mapping[str, Any] = field(repr=False)
    on_rows: tuple[str, ...] = field(default=(), repr=False)

    @property
    def content(self) -> Mapping[str, Any]:
        content: Mapping[str, Any] = self.document["analyses"][self.name]
        return content

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(self.content["tables"])

    @spoken()
    def tidy(self, table: str | None = None) -> pandas.DataFrame:
        """A row for each term, time or cell. `table`: by default the analysis's main table."""
        return _frame(self._rows(self.content, table))

    @spoken()
    def glance(self) -> pandas.DataFrame:
        """One row about the whole analysis: its counts, and the statistics of the fit."""
        self._check_released()
        fit = (self.content["tables"].get("glance") or [{}])[0]
        counts = {COUNTS.get(name, f"n_{name}"): n for name, n in self.content["n"].items()}
        return _frame([{**counts, **fit}])

    @spoken()
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

    @spoken()
    def nodes(self) -> pandas.DataFrame:
        """A row for each node: whether it has answered, with how many people, or why not."""
        rows = self.content["nodes"]
        return _frame(
            [{**row, "reason": message_texts.translated(row["reason"] or "")} for row in rows]
        )

    @spoken()
    def augment(self, frame: Any) -> pandas.DataFrame:
        """Your own rows with the column `fitted`, what the released model predicts for them: the
        probability of a yes, a number, or the log of a relative risk; for classes, the most
        probable one, with a column for the probability of each; for components, a column for
        each. It is missing where a column of the model is.

        `frame`: with the columns of the model, categories as the contract's levels: 2.0 is the
        level 2, and a value that is no level is an InputError. The rows of the nodes stay with
        them."""
        import numpy
        import pandas

        from federation.api import features

        estimator = self.estimator()
        if hasattr(frame, "to_pandas"):
            frame = frame.to_pandas()
        frame = pandas.DataFrame(frame)
        names = list(estimator.feature_names_in_)
        X = features.of(frame, names, self._analysis().columns, self.name)
        is_complete = X.notna().all(axis=1).to_numpy()
        for name, values in _fitted(estimator, X[is_complete]).items():
            column = numpy.full(len(frame), numpy.nan, dtype=values.dtype.char)
            column[is_complete] = values
            frame = frame.assign(**{name: column})
        return frame

    @spoken()
    def estimator(self) -> Any:
        """The released model as a scikit-learn estimator. InputError if the analysis has none."""
        from aggregator import estimators

        return estimators.of(self.document, self.name)

    @spoken()
    def plot(self) -> Drawing:
        """The figures of the report; of an analysis without one, its estimates with intervals."""
        from aggregator.report import html, intervals

        self._check_released()
        pictures = html.drawn(self._analysis(), self._labels())
        if pictures:
            return Drawing(tuple(pictures))
        if intervals.drawable(self.content["tables"])[0]:
            return self.forest()
        raise errors.InputError(
            f"{self.name}: run: {self.content['run']} has no figure; its tables are "
            f"{', '.join(self.tables)}; the analyses with a figure are "
            f"{', '.join(sorted(intervals.FIGURES))}"
        )

    @spoken()
    def forest(self, term: str | None = None) -> Drawing:
        """All estimates with intervals below each other, or one `term` with each node's."""
        from aggregator.report import figures, html, intervals, labels, words

        self._check_released()
        table, rows = intervals.drawable(self.content["tables"])
        if not rows:
            raise errors.InputError(
                f"{self.name}: run: {self.content['run']} has no estimates with intervals to draw; "
                f"the analyses with a forest plot are {', '.join(intervals.ANALYSES)}"
            )
        analysis = self._analysis()
        shown = labels.of_terms(analysis, self._labels())
        if term is None:
            terms = [row for row in rows if row.get("term") != intervals.INTERCEPT]
            return Drawing((html.forest(analysis, table, terms, shown),))
        columns = intervals.of(rows[0])
        ratio = columns.estimate if columns and columns.is_ratio else ""
        row, nodes = self._row(table, rows, term), self._nodes_of(table, term)
        level = words.level_of(analysis)
        return Drawing((figures.forest(row, nodes, ratio, level, shown),))

    def _analysis(self) -> AnalysisDocument:
        from aggregator.document import AnalysisDocument

        return AnalysisDocument.model_validate(self.content)

    def _labels(self) -> dict[str, str]:
        """Of columns, as the contract has them."""
        from aggregator.document import Document
        from aggregator.report import labels

        return labels.columns(Document.model_validate(self.document))

    def _row(self, table: str, rows: Rows, term: str) -> Mapping[str, Any]:
        from aggregator.report import intervals

        labelled = {intervals.label(row, table): row for row in rows}
        if term not in labelled:
            raise errors.InputError(
                f"{self.name}: no term {term!r} with an interval; the terms are "
                f"{', '.join(labelled)}"
            )
        return {**labelled[term], "term": term}

    def _nodes_of(self, table: str, term: str) -> dict[str, Mapping[str, Any]]:
        """The row of a term at each node."""
        from aggregator.report import intervals

        return {
            node: row
            for node, part in self.content["by_node"].items()
            for row in part["tables"].get(table, ())
            if intervals.label(row, table) == term and intervals.of(row)
        }

    def _rows(self, part: Mapping[str, Any], table: str | None) -> Rows:
        self._check_released()
        tables: Mapping[str, Rows] = part["tables"]
        first = ("coefficients", "test") if self.content["run"] == "wilcoxon" else ("coefficients",)
        names = [*first, *(name for name in tables if name != "glance"), "glance"]
        main = next(name for name in names if name in tables)
        if (table or main) not in tables:
            raise errors.InputError(
                f"{self.name}: no table {table or main!r}; the tables are {', '.join(tables)}"
            )
        return tables[table or main]

    def _check_released(self) -> None:
        content = self.content
        if content["status"] != "released":
            raise errors.InputError(study_result.without(self.name, content), *self.on_rows)

    def __repr__(self) -> str:
        content = self.content
        absent = ", ".join(_absent(content))
        without = f" without {absent}" if absent else ""
        return f"<{self.name}: {content['run']}, {content['status']}{without}>"

    def _repr_html_(self) -> str:
        title = f"<h4>{escape(self.name)}: {escape(str(self.content['run']))}</h4>"
        title += study_result.without_nodes(self.content)
        if self.content["status"] != "released":
            reason = escape(str(self.content["reason"]))
            return f"{title}<p>{escape(self.content['status'])}: {reason}</p>"
        return title + str(self.tidy().head(20).to_html(index=False))


def _absent(content: Mapping[str, Any]) -> list[str]:
    """The nodes that gave no part of an analysis that has a result."""
    is_released = content["status"] == "released"
    return [row["node"] for row in content["nodes"] if row["reason"]] if is_released else []


def _frame(rows: Any) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(list(rows))


def _fitted(estimator: Any, X: pandas.DataFrame) -> dict[str, Any]:
    """Columns (n_rows,): the probability of a yes, the prediction, the class and the probability of
    each, or each component."""
    if not hasattr(estimator, "predict"):
        return {f"fitted_{i}": column for i, column in enumerate(estimator.transform(X).T, 1)}
    if not hasattr(estimator, "predict_proba"):
        return {"fitted": estimator.predict(X)}
    shares = estimator.predict_proba(X)
    if list(estimator.classes_) == [False, True]:
        return {"fitted": shares[:, 1]}
    each = zip(estimator.classes_, shares.T, strict=True)
    return {"fitted": estimator.predict(X)} | {f"fitted_{name}": share for name, share in each}
