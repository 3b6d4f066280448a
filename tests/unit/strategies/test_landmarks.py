"""A landmark analysis, against a fit of the people who are still there."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas
import pytest

from simulations.pilots import running
from tests import federations


@pytest.mark.parametrize("landmark", [6.0, 30.0])
def test_a_landmark_is_the_fit_of_those_who_are_there_with_what_was_known_then(
    landmark: float, tmp_path: Path
) -> None:
    """Against a table of one row a patient that pandas makes: the interval that covers the
    landmark, and how the patient ends."""
    ready = running.prepare("rexetris", "study", tmp_path, seed=5)
    pooled = pandas.concat(
        [
            duckdb.read_parquet(dataset.source).df().assign(node=node)
            for node, dataset in ready.datasets.items()
        ]
    )
    ends = pooled.sort_values("fin").groupby("patient").tail(1).set_index("patient")
    there = pooled[(pooled["debut"] <= landmark) & (pooled["fin"] > landmark)].set_index("patient")
    alone = there.assign(debut=0, fin=ends["fin"], issue=ends["issue"]).reset_index()
    model = "~ auc_tacrolimus + age_donneur + reprise_retardee"
    wanted = {
        "run": "cox",
        "model": f"Surv(debut, fin, issue = 'perte') {model}",
        "landmark": landmark,
    }
    sites = [
        federations.site_of(node, part, ready.contract, tmp_path)
        for node, part in pooled.groupby("node")
    ]
    study = federations.study_of({"a": wanted}, dataset="greffes")
    result = federations.result(federations.run(study, ready.contract, sites))
    by_hand = federations.study_of(
        {"a": {"run": "cox", "model": f"Surv(fin, issue = 'perte') {model}"}}, dataset="greffes"
    )
    (tmp_path / "alone").mkdir()
    expected = federations.result(
        federations.run(
            by_hand,
            ready.contract,
            [federations.site_of("all", alone, ready.contract, tmp_path / "alone")],
        )
    )
    assert result.n == expected.n
    for row, other in zip(
        result.tables["coefficients"].rows, expected.tables["coefficients"].rows, strict=True
    ):
        assert [row["estimate"], row["std_error"]] == pytest.approx(
            [other["estimate"], other["std_error"]], rel=1e-9
        )
