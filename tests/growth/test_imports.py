"""A command loads no more than it needs: the time of `hdh study check` is the time of its
imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from federation import formula_parser

ROOT = Path(__file__).parents[2]
HEAVY = {"pandas", "scipy", "duckdb", "torch", "sklearn", "flwr"}
CHECK = """
import sys
from federation.cli.main import app
try:
    app(["study", "check", sys.argv[1]])
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("pilot", ["rexetris", "oscour", "hydro"])
def test_checking_a_study_loads_nothing_that_computes(pilot: str) -> None:
    study = ROOT / "simulations" / "pilots" / pilot / "study.yaml"
    run = subprocess.run(
        [sys.executable, "-c", CHECK, str(study)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    loaded = set(run.stdout.rpartition("LOADED")[2].split())
    assert "numpy" in loaded and not loaded & HEAVY


def test_an_idle_node_loads_no_library_of_tables_or_training() -> None:
    code = (
        "import sys, nodes.daemon, nodes.hub_stream, nodes.link_service, nodes.flower.client_app;"
        " print({'pandas', 'pyarrow', 'scipy', 'torch', 'sklearn', 'ray'} & sys.modules.keys())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "set()"


def test_all_of_formulaic_is_there_for_those_who_ask_for_it() -> None:
    code = (
        "from federation import formula_parser; formula_parser.terms('Surv(a, b) ~ x + I(z)');"
        " import sys; assert 'pandas' not in sys.modules;"
        " import formulaic; assert formulaic.Formula('y ~ x') and formulaic.__version__;"
        " from formulaic.transforms import TRANSFORMS; assert 'C' in TRANSFORMS"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "text",
    ["y ~ a * b - 1", "Surv(s, e, d) ~ C(g, ref='x'):a + strata(k)", "log(y) ~ offset(o) + a"],
)
def test_the_parser_alone_gives_the_terms_that_formulaic_gives(text: str) -> None:
    from formulaic.parser import DefaultFormulaParser

    whole = DefaultFormulaParser(include_intercept=True).get_terms(text)
    assert repr(formula_parser.terms(text)) == repr(whole)
