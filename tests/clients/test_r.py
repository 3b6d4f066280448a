"""The R package: its own tests with a real R and a real `hdh`, and the same verbs as in Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from federation.api.verbs import Verbs
from strategies import registry

PACKAGE = Path(__file__).parents[2] / "clients" / "r"
NEEDED = ("jsonlite", "processx", "generics", "testthat", "survival")
HDH = f"{sys.executable} -m federation.cli.main"


def rscript(*words: str, library: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"HDH_COMMAND": HDH, "PYTHONPATH": str(PACKAGE.parents[1])}
    if library is not None:
        environment["R_LIBS"] = str(library)
    return subprocess.run(
        ["Rscript", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **environment},
    )


def skip_without_r() -> None:
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed: docs/r.md says how")
    listed = ", ".join(f'"{name}"' for name in NEEDED)
    asked = f"cat(setdiff(c({listed}), rownames(installed.packages())))"
    if missing := rscript("-e", asked).stdout.split():
        pytest.skip(f"R lacks {', '.join(missing)}: docs/r.md says how to install them")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed in a library of its own."""
    skip_without_r()
    folder = tmp_path_factory.mktemp("library")
    subprocess.run(
        ["R", "CMD", "INSTALL", "--no-docs", "--no-test-load", "-l", str(folder), str(PACKAGE)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.mark.parametrize(
    "script", ["test-study.R", pytest.param("test-simulate.R", marks=pytest.mark.slow)]
)
def test_its_own_tests_pass_with_a_real_r(script: str, library: Path) -> None:
    run = (
        f'testthat::test_file("{PACKAGE / "tests" / "testthat" / script}",'
        ' package = "hdhfederation", stop_on_failure = TRUE, stop_on_warning = TRUE,'
        ' reporter = "summary")'
    )
    done = rscript("-e", f"library(hdhfederation); {run}", library=library)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Skipped" not in done.stdout, done.stdout


def test_a_study_of_r_frames_gives_the_model_of_r(library: Path) -> None:
    """Newton's method and R's glm.fit, which is told to go on, end within 1e-9 of the estimate."""
    code = """
        library(hdhfederation)
        people <- function(seed) {
          set.seed(seed)
          x <- round(runif(200), 3)
          data.frame(x = x, y = runif(200) < plogis(x))
        }
        nodes <- list(a = people(1), b = people(2), c = people(3))
        contract <- list(dataset = "people", version = 1, unit = "row", columns = list(
          x = list(type = "number", range = c(0, 1)), y = list(type = "boolean")))
        study <- hdh_glm(hdh_study("people", mode = "exact"), "m", y ~ x, family = "binomial")
        fit <- tidy(hdh_simulate(study, nodes, contract)$m)
        pooled <- glm(y ~ x, binomial, do.call(rbind, nodes), control = list(epsilon = 1e-14))
        stopifnot(max(abs(fit$estimate - coef(pooled))) < 1e-9)
        cat("THE SAME", names(fit)[1:3])
    """
    done = rscript("-e", code, library=library)
    assert done.stdout.endswith("THE SAME term estimate std.error"), done.stdout + done.stderr


def exported() -> set[str]:
    return set(re.findall(r"^export\((\w+)\)", (PACKAGE / "NAMESPACE").read_text(), re.M))


def test_every_analysis_is_a_verb_in_r_too() -> None:
    verbs = {f"hdh_{name}" for name in vars(Verbs) if not name.startswith("_") and name != "add"}
    assert verbs <= exported()
    documented = (PACKAGE / "man" / "hdh_verbs.Rd").read_text()
    assert all(f"\\alias{{{verb}}}" in documented for verb in verbs)


def is_list(annotation: object) -> bool:
    """Whether an option takes several values, also where it may be left out."""
    parts = typing.get_args(annotation)
    return typing.get_origin(annotation) in (tuple, list) or any(
        is_list(part) for part in parts if part is not type(None)
    )


def test_r_writes_a_list_for_each_option_that_is_one() -> None:
    code = (PACKAGE / "R" / "study.R").read_text()
    block = code[code.index("list_options <- list(") : code.index("list_keys <-")]
    written = {
        run: set(re.findall(r'"(\w+)"', names))
        for run, names in re.findall(r"(\w+) = c\(([^)]*)\)", block)
    }
    expected = {}
    for run in registry.ANALYSES:
        rows = [registry.row(run).exact, registry.row(run).dp]
        options = {
            name
            for analysis in rows
            if analysis is not None
            for name, field in analysis.Options.model_fields.items()
            if is_list(field.annotation)
        }
        if options:
            expected[run] = options
    assert written == expected


@pytest.mark.slow
def test_r_cmd_check_has_no_error_no_warning_and_no_note(tmp_path: Path) -> None:
    skip_without_r()
    environment = {
        **os.environ,
        "HDH_COMMAND": HDH,
        "PYTHONPATH": str(PACKAGE.parents[1]),
        "_R_CHECK_FORCE_SUGGESTS_": "false",
    }
    can_knit = rscript("-e", "library(knitr); library(rmarkdown)").returncode == 0
    without = [] if can_knit else ["--no-build-vignettes"]
    for command in (
        ["R", "CMD", "build", *without, str(PACKAGE)],
        [
            "R",
            "CMD",
            "check",
            "--no-manual",
            *([] if can_knit else ["--ignore-vignettes"]),
            "*.tar.gz",
        ],
    ):
        words = [str(next(tmp_path.glob(word))) if "*" in word else word for word in command]
        subprocess.run(
            words, cwd=tmp_path, check=True, capture_output=True, text=True, env=environment
        )
    log = next(tmp_path.glob("*.Rcheck")) / "00check.log"
    assert log.read_text().rstrip().endswith("Status: OK"), log.read_text()[-3000:]
