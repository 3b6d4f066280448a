"""Multiple imputation: the slope that complete rows miss, and the draws themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
from scipy import stats

from strategies.regression import multiple_imputation
from tests import federations


def incomplete(seed: int, n: int) -> pandas.DataFrame:
    """y = 1 + 2 x - z + noise, where x is missing the more often the higher y is: complete rows
    alone give too small a slope."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1, n)
    x = 0.5 * z + rng.normal(0, 1, n)
    y = 1 + 2 * x - z + rng.normal(0, 1.5, n)
    lost = rng.random(n) < 1 / (1 + np.exp(-(y - 2)))
    return pandas.DataFrame(
        {
            "id": np.arange(n),
            "x": np.where(lost, "", x.round(5).astype(str)),
            "z": z.round(5),
            "y": y.round(5),
        }
    )


LOST = "dataset: lost\nversion: 1\nperson: id\ncolumns:\n  id: {type: string}\n" + "".join(
    f"  {name}: {{type: number, range: [-30, 30]}}\n" for name in "xyz"
)


@pytest.mark.slow
def test_imputation_finds_the_slope_that_complete_rows_miss(tmp_path: Path) -> None:
    """Over 60 tables: the mean estimate is right, and 95 % intervals hold the truth as often as
    fewer than 51 of 60 would in one run of a thousand; the complete rows' slope is off by many
    standard errors."""
    contract = federations.contract_of(LOST)
    study = federations.study_of(
        {
            "mi": {
                "run": "multiple_imputation",
                "model": "y ~ x + z",
                "impute": ["x"],
                "times": 10,
            },
            "complete": {"run": "glm", "model": "y ~ x + z"},
        },
        dataset="lost",
    )
    estimates, complete, held = [], [], 0
    for seed in range(60):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome = federations.run(
            study,
            contract,
            federations.sites_of(incomplete(seed, 600), np.arange(600) % 3, contract, folder),
        )
        row = federations.result(outcome, "mi").tables["coefficients"].rows[1]
        estimates.append(row["estimate"])
        held += row["conf_low"] <= 2 <= row["conf_high"]
        complete.append(
            federations.result(outcome, "complete").tables["coefficients"].rows[1]["estimate"]
        )
    error = np.std(estimates, ddof=1) / np.sqrt(60)
    assert abs(np.mean(estimates) - 2) < 3 * error + 0.01, np.mean(estimates)
    assert np.mean(complete) < 2 - 20 * np.std(complete, ddof=1) / np.sqrt(60)
    assert held >= 51


def test_the_draws_of_a_row_are_normal_and_of_two_rows_have_nothing_to_do_with_each_other() -> None:
    """Rows that differ in the last bit of one value, and rows that are the same."""
    values = np.stack([1 + np.arange(20_000) * 2.0**-52, np.zeros(20_000)], axis=1)
    for rows in (values, np.zeros((20_000, 2))):
        seeds = multiple_imputation._seeds(rows)
        draws = stats.norm.ppf((multiple_imputation._mixed(seeds).astype(float) + 0.5) / 2.0**64)
        assert len(np.unique(seeds)) == 20_000
        assert stats.kstest(draws, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 4 / np.sqrt(20_000)
