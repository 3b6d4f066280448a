"""A factor of very many levels is eliminated from the sums of `glm`: the fit is that of the full
matrix, in room that grows as the number of levels."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from federation import errors, limits
from federation.cohort import Cohort, Values
from federation.messages import Part, State
from federation.schema import Field
from strategies import protocol
from strategies.numerics import arrow, designs, newton
from strategies.numerics.arrow import Arrow
from tests import federations
from tests.growth import test_levels as levels_of
from tests.growth.test_every_analysis import MAX_EXPONENT, growth

N_LEVELS = 120
GLM = levels_of.GLM
ENTRIES: dict[str, dict[str, Any]] = {
    "binomial": {**GLM, "model": "ill ~ age + site"},
    "two factors, weights": {**GLM, "weights": "weight"},
    "poisson with an offset": levels_of.ENTRIES["poisson with an offset"],
    "gaussian without an intercept": levels_of.ENTRIES["gaussian without an intercept"],
    "gaussian between two columns": {
        **GLM,
        "family": "gaussian",
        "model": "n ~ age + site + begin",
    },
    "only the factor": {**GLM, "model": "ill ~ site - 1"},
}


class Rows:
    """A cohort of the columns of tests/growth/test_levels.py, some of them replaced."""

    def __init__(self, n_levels: int, rows: int, **columns: Values) -> None:
        base = levels_of.cohort_of(n_levels, rows)
        self.columns = columns

        def fetch(asked: Iterable[Field]) -> Mapping[str, Values]:
            fields = list(asked)
            read = base.fetch([field for field in fields if field.name not in columns])
            return {
                field.name: columns[field.name] if field.name in columns else read[field.name]
                for field in fields
            }

        self.cohort = Cohort(None, rows, rows, 1, fetch)


def fit(entry: Mapping[str, Any], rows: Rows, n_levels: int = N_LEVELS) -> tuple[Any, list[Part]]:
    task, parts = levels_of.task_of(entry, n_levels), list[Part]()
    cohort = Cohort(None, rows.cohort.rows, rows.cohort.rows, 1, rows.cohort.fetch)
    state = task.analysis.start(task)
    while isinstance(state, State):
        parts.append(task.analysis.local(cohort, task, state))
        state = task.analysis.combine(protocol.total_of(parts[-1]), task, state)
    return state, parts


def in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(designs, "ELIMINATED", 10**9)


def check_same(result: Any, expected: Any) -> None:
    rows, others = (each.tables["coefficients"].rows for each in (result, expected))
    assert [row["term"] for row in rows] == [row["term"] for row in others]
    assert [row["estimate"] is None for row in rows] == [row["estimate"] is None for row in others]
    for row, other in zip(rows, others, strict=True):
        if row["estimate"] is not None:
            # the full matrix of centred levels is inverted with errors of some 1e-9: the next test
            # compares with the rows
            assert row["estimate"] == pytest.approx(other["estimate"], rel=1e-9, abs=1e-9)
            assert row["std_error"] == pytest.approx(other["std_error"], rel=1e-8)
    for name in ("deviance", "null_deviance", "log_lik", "df_residual", "rounds"):
        values = [each.tables["glance"].rows[0][name] for each in (result, expected)]
        assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert result.notes == expected.notes


@pytest.mark.parametrize("name", federations.first(ENTRIES, 4))
def test_elimination_gives_the_fit_of_the_full_matrix(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(N_LEVELS, 60 * N_LEVELS)
    result, parts = fit(ENTRIES[name], rows)
    assert "information_levels" in parts[0].sums
    in_full(monkeypatch)
    expected, parts = fit(ENTRIES[name], rows)
    assert "information_levels" not in parts[0].sums
    check_same(result, expected)


def test_standard_errors_of_500_levels_are_those_of_columns_of_zeros_and_ones() -> None:
    n_levels, entry = 500, {**GLM, "family": "poisson", "model": "n ~ age + site"}
    rows = Rows(n_levels, 10 * n_levels)
    columns = {f.name: v for f, v in rows.cohort.each_column(levels_of.task_of(entry, 500).fields)}
    y = columns["n"]
    X = np.column_stack([np.ones(len(y)), columns["age"], np.eye(n_levels)[columns["site"]][:, 1:]])
    beta = np.zeros(X.shape[1])
    for _ in range(12):  # Newton's method on the rows themselves
        mu = np.exp(X @ beta)
        information = (X * mu[:, None]).T @ X
        beta += np.linalg.solve(information, X.T @ (y - mu))
    result, _ = fit(entry, rows, n_levels)
    fitted = result.tables["coefficients"].rows
    estimates, errors_of = (np.array([row[k] for row in fitted]) for k in ("estimate", "std_error"))
    # Newton's last step is below 1e-9
    np.testing.assert_allclose(estimates, beta, rtol=1e-9, atol=1e-9)
    expected = np.sqrt(np.diag(np.linalg.inv(information)))
    np.testing.assert_allclose(errors_of, expected, rtol=1e-9)


def by_level(n_levels: int, rows: int) -> dict[str, Values]:
    """Columns that the levels of `site` explain: the age of the site, and whether it is ill."""
    site = np.random.default_rng(2).integers(0, n_levels, rows).astype(np.int16)
    return {"site": site, "age": (site % 7) * 10.0, "begin": (site % 5).astype(np.float64)}


def aliased_cases() -> dict[str, tuple[str, dict[str, Values]]]:
    n = 60 * N_LEVELS
    explained, plain = by_level(N_LEVELS, n), levels_of.cohort_of(N_LEVELS, n)
    task = levels_of.task_of(ENTRIES["binomial"], N_LEVELS)
    site = next(v for f, v in plain.each_column(task.fields) if f.name == "site")
    return {
        "no row of the reference level": ("n ~ age + site", {"site": np.maximum(site, 1)}),
        "levels without rows": ("n ~ age + site", {"site": np.where(site > 9, site, 3)}),
        "a column before that the levels explain": ("n ~ age + site", explained),
        "a column behind that the levels explain": ("n ~ site + age", explained),
        "two columns before, no reference": ("n ~ age + begin + site - 1", explained),
        "one before, one behind": ("n ~ age + site + begin", explained),
        "a constant": ("n ~ begin + age + site", {"begin": np.full(n, 3.0)}),
        "all, and no row of the reference level": (
            "n ~ age + site + begin",
            {**explained, "site": np.maximum(explained["site"], 1)},
        ),
    }


@pytest.mark.parametrize("name", aliased_cases())
def test_aliased_columns_are_those_that_the_full_matrix_finds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, columns = aliased_cases()[name]
    entry = {**GLM, "family": "poisson", "model": model}
    rows = Rows(N_LEVELS, 60 * N_LEVELS, **columns)
    result, _ = fit(entry, rows)
    assert any(row["estimate"] is None for row in result.tables["coefficients"].rows)
    in_full(monkeypatch)
    check_same(result, fit(entry, rows)[0])


@pytest.mark.parametrize(
    ("family", "which"),
    [("binomial", "one level"), ("poisson", "one level"), ("binomial", "a number")],
)
def test_a_fit_without_a_maximum_names_what_diverges(
    family: str, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 60 * N_LEVELS
    plain = levels_of.cohort_of(N_LEVELS, n)
    task = levels_of.task_of(ENTRIES["gaussian between two columns"], N_LEVELS)
    columns = {f.name: v for f, v in plain.each_column(task.fields)}
    if which == "one level":
        y = np.where(columns["site"] == 17, 0.0, columns["n"] > 4)
    else:
        y = np.where(columns["age"] < 50, 0.0, 1.0)
    response = "ill" if family == "binomial" else "n"
    entry = {**GLM, "family": family, "model": f"{response} ~ age + site"}
    rows, texts = Rows(N_LEVELS, n, **{response: y}), []
    for _ in range(2):
        with pytest.raises(errors.ModelError) as raised:
            fit(entry, rows)
        texts.append(str(raised.value))
        in_full(monkeypatch)
    named = "site[l17]" if which == "one level" else "'age'"
    assert all(named in text for text in texts) or which == "a number"
    assert all("diverges" in text for text in texts)


def test_a_part_and_the_hubs_memory_grow_as_the_levels() -> None:
    sizes, numbers, held = [250, 500, 1000], [], []
    entry = {**GLM, "family": "gaussian", "model": "n ~ age + site"}
    for n_levels in sizes:
        rows = Rows(n_levels, 4000)
        tracemalloc.start()
        _, parts = fit(entry, rows, n_levels)
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        numbers.append(sum(array.size for array in parts[0].sums.values()))
    assert growth(sizes, numbers) < MAX_EXPONENT
    assert held[2] < 8e6 / 2  # the full matrix of 1,000 levels alone takes 8 MB; 1.5 were found


def test_only_models_that_eliminate_a_factor_have_more_columns_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_COLUMNS", 110)  # 5,000
    model = {**GLM, "model": "ill ~ age + site"}
    task = levels_of.task_of(model, N_LEVELS)
    assert len(task.plan.eliminated) == N_LEVELS - 1
    for entry in (
        {**model, "penalty": "firth"},
        {**GLM, "model": "ill ~ age:site"},
        {**GLM, "model": "ill ~ age + site + doctor"},
        {"run": "propensity", "treatment": "ill", "confounders": "age + site", "estimand": "ate"},
    ):
        with pytest.raises(errors.StudyError, match=r"more than 110 columns|too many columns"):
            levels_of.task_of(entry, N_LEVELS)


# -- the matrix itself
def random_arrow(seed: int, n: int = 40, q: int = 3, n_levels: int = 6) -> tuple[Arrow, Any]:
    draw = np.random.default_rng(seed)
    codes = np.r_[np.arange(n_levels), draw.integers(0, n_levels, n - n_levels)]
    X = np.column_stack([draw.normal(size=(n, q)), np.eye(n_levels)[codes]])
    order = np.r_[np.arange(q), np.arange(q, q + n_levels)]
    gram = X.T @ (X * draw.uniform(0.5, 2, n)[:, None])
    at, levels = order[:q], order[q:]
    blocks = gram[np.ix_(at, at)], gram[np.ix_(levels, at)], np.diag(gram)[levels].copy()
    return Arrow(at, levels, *blocks), gram


@pytest.mark.parametrize("seed", federations.first(range(5), 2))
@pytest.mark.parametrize("aliased", [[], [1], [4, 8], [0, 3]])
def test_a_system_is_solved_as_its_full_matrix(seed: int, aliased: list[int]) -> None:
    matrix, full = random_arrow(seed)
    mask = np.isin(np.arange(9), aliased)
    score = np.random.default_rng(seed).normal(size=9)
    step, expected = (newton.newton(score, each, mask) for each in (matrix, full))
    np.testing.assert_allclose(step.beta, expected.beta, rtol=1e-10, atol=1e-12)
    assert step.decrement == pytest.approx(expected.decrement, rel=1e-10)
    assert step.blocks is not None
    some = np.ix_(matrix.at, matrix.at)
    np.testing.assert_allclose(step.blocks.others, expected.covariance[some], rtol=1e-9)
    variances = np.diag(expected.covariance)[matrix.levels]
    np.testing.assert_allclose(step.blocks.levels, variances, rtol=1e-9)


@pytest.mark.parametrize(
    ("relative", "scale"), [(False, 1.0), (False, 1e-30), (True, 1.0), (True, 1e-30), (True, 1e30)]
)
@pytest.mark.parametrize("lost", [None, 2, 5])
def test_a_direction_that_loses_its_information_is_found(
    relative: bool, scale: float, lost: int | None
) -> None:
    first, _ = random_arrow(1)
    now = arrow.from_values(
        "x", {k: v * scale for k, v in arrow.to_values("x", first).items()}, first.at, first.levels
    )
    if lost is not None and lost >= len(first.at):
        now.across[lost - len(first.at)] *= 1e-14
        now.diagonal[lost - len(first.at)] *= 1e-14
    elif lost is not None:
        now.others[lost], now.across[:, lost] = (
            now.others[lost] * 1e-14,
            now.across[:, lost] * 1e-14,
        )
        now.others[:, lost] *= 1e-14
    direction = arrow.lost_direction(
        first, now, np.zeros(first.size, np.bool_), newton.LOST, relative=relative
    )
    if lost is None and (relative or scale == 1):
        assert direction is None
    else:
        assert direction is not None
        assert (scale < 1 and not relative) or abs(direction).argmax() == lost
