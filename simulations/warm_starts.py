"""Where the fits of a session begin: at the coefficients that its last study of the same response
has released.

Only released numbers are kept, and only exact studies use them: in mode dp a node answers the
states that follow from the study alone. Newton's method stops at the same optimum from either
beginning, to 1e-9, and takes fewer rounds from a near one.
"""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.document import Document
from federation.study import AnalysisEntry, Study
from strategies.protocol import Estimates

Name = tuple[str, ...]


class Starts:
    def __init__(self) -> None:
        self._released: dict[Name, Estimates] = {}

    def of(self, study: Study) -> Mapping[str, Estimates]:
        """By analysis of the study, coefficients near which it may begin."""
        if study.privacy.mode == "dp":
            return {}
        names = {name: _name(study, entry) for name, entry in study.analyses.items()}
        return {name: self._released[at] for name, at in names.items() if at in self._released}

    def learn(self, study: Study, document: Document) -> None:
        if study.privacy.mode == "dp":
            return
        for name, entry in study.analyses.items():
            rows = document.analyses[name].tables.get("coefficients", ())
            estimates = {
                str(row["term"]): float(row["estimate"])
                for row in rows
                if "term" in row and isinstance(row.get("estimate"), float)
            }
            if estimates:
                self._released[_name(study, entry)] = estimates


def _name(study: Study, entry: AnalysisEntry) -> Name:
    """Equal for models of one response."""
    response = str(entry.options.get("model", "")).partition("~")[0].strip()
    return (study.dataset, entry.run, str(entry.options.get("family", "")), response)
