"""Cox and logistic regression of 1,000,000 x 20 over 10 nodes, and a logistic one of x 5 over 4,
against one pooled table; columns in memory for all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import pandas

from aggregator import rounds
from benchmarks import floors, tables, timing
from federation.messages import TaskId
from federation.study import Study
from tests import federations

ROWS, NODES = 1_000_000, 10
FEW_COLUMNS, FEW_NODES = 5, 4
NAMES = [f"x{i}" for i in range(tables.COLUMNS)]
COX = federations.study_of(
    {"a": {"run": "cox", "model": f"Surv(time, event) ~ {' + '.join(NAMES)}"}}
)


def logistic(names: Sequence[str]) -> Study:
    return federations.study_of(
        {"a": {"run": "glm", "model": f"died ~ {' + '.join(names)}", "family": "binomial"}}
    )


def federated(
    table: pandas.DataFrame, study: Study, nodes: int = NODES
) -> Callable[[], np.ndarray]:
    """A fit over the nodes. Each call starts from their columns, so that it includes the design
    matrices."""
    agreed = tables.contract()

    def fit() -> np.ndarray:
        outcome = rounds.run(
            study, agreed, tables.in_memory(table, agreed, nodes, study), tables.names(nodes)
        )
        result = outcome.runs[TaskId("a")].result
        assert result is not None
        return np.array([row["estimate"] for row in result.tables["coefficients"].rows])

    return fit


def main() -> bool:
    table = tables.people(ROWS)
    time, event, died = (table[name].to_numpy(float) for name in ("time", "event", "died"))

    def matrix(*, intercept: bool, names: Sequence[str] = NAMES) -> np.ndarray:
        """The pooled design, from the same columns that the nodes hold."""
        columns = [table[name].to_numpy(float) for name in names]
        return np.column_stack([np.ones(ROWS), *columns] if intercept else columns)

    work = {
        "cox": federated(table, COX),
        "cox floor": lambda: floors.cox_newton(matrix(intercept=False), time, event),
        "glm": federated(table, logistic(NAMES)),
        "glm floor": lambda: floors.logistic_newton(matrix(intercept=True), died),
    }
    few = NAMES[:FEW_COLUMNS]
    narrow = {
        "glm x 5": federated(table, logistic(few), FEW_NODES),
        "scikit-learn x 5": lambda: _scikit_learn(matrix(intercept=False, names=few), died),
    }
    np.testing.assert_allclose(work["cox"](), work["cox floor"](), rtol=1e-8)
    np.testing.assert_allclose(work["glm"](), work["glm floor"](), rtol=1e-8)
    seconds = timing.least(work, 4) | timing.least(narrow, 6)
    seconds |= timing.least(
        {
            "lifelines": lambda: _lifelines(table),
            "scikit-learn": lambda: _scikit_learn(matrix(intercept=False), died),
        },
        1,
    )
    return _report(seconds)


def _report(seconds: dict[str, float]) -> bool:
    details = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    met = [
        timing.report(
            "Cox (Efron) / a blocked Newton on one pooled table",
            seconds["cox"] / seconds["cox floor"],
            1.5,
            details,
        ),
        timing.report(
            "Cox / one pooled lifelines fit", seconds["cox"] / seconds["lifelines"], 1, ""
        ),
        timing.report(
            "logistic / a blocked Newton on one pooled table",
            seconds["glm"] / seconds["glm floor"],
            1.7,
            "",
        ),
        timing.report(
            "logistic / one pooled scikit-learn fit",
            seconds["glm"] / seconds["scikit-learn"],
            1.7,
            "",
        ),
        timing.report(
            "logistic of 5 columns over 4 nodes / one pooled scikit-learn fit",
            seconds["glm x 5"] / seconds["scikit-learn x 5"],
            1.2,
            "",
        ),
    ]
    return all(met)


def _lifelines(table: pandas.DataFrame) -> None:
    from lifelines import CoxPHFitter

    CoxPHFitter().fit(table.drop(columns=["died", "id"]), "time", "event")


def _scikit_learn(X: np.ndarray, y: np.ndarray) -> None:
    from sklearn.linear_model import LogisticRegression

    LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(X, y)


if __name__ == "__main__":
    sys.exit(not main())
