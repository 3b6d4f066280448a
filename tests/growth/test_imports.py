"""A command loads no more than it needs: the time of `hdh study check` is the time of its
imports."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from federation import formula_parser, loading
from federation.cli import main
from federation.cli.actions import study_files

ROOT = Path(__file__).parents[2]
HEAVY = {"pandas", "scipy", "duckdb", "torch", "sklearn", "flwr", "rich"}
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


def test_a_command_builds_no_other_command_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str | None] = []
    build = typer.main.get_command_from_info

    def counted(command: Any, **settings: Any) -> click.Command:
        built.append(command.name)
        return build(command, **settings)

    monkeypatch.setattr(typer.main, "get_command_from_info", counted)
    with pytest.raises(SystemExit):
        typer.main.get_command(main.app)(["node", "check", "--help"])
    assert built == ["check"]


def test_no_pattern_of_a_file_repeats_the_letters_of_all_scripts_up_to_a_bound() -> None:
    """pydantic compiles one such pattern in 28 ms, and an unbounded one in less than 2."""
    for document in ("study", "contract", "node", "hub", "result"):
        written = json.dumps(study_files.schema(document))
        assert '"pattern"' in written or document == "result"
        assert not re.search(r"\\[wW]\]?\{", written), document


AT_EXIT = """
import atexit, gc, sys
atexit.register(lambda: print("FROZEN", gc.get_freeze_count() > 0, flush=True))
from federation.cli.main import main
if sys.argv[1] == "duckdb":
    import duckdb
sys.argv[1:] = ["study", "check", sys.argv[2]]
main()
"""


@pytest.mark.parametrize(("library", "frozen"), [("json", True), ("duckdb", False)])
def test_the_end_of_a_command_searches_for_cycles_only_where_duckdb_is_loaded(
    library: str, frozen: bool
) -> None:
    study = ROOT / "simulations" / "pilots" / "hydro" / "study.yaml"
    run = subprocess.run(
        [sys.executable, "-c", AT_EXIT, library, str(study)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert f"FROZEN {frozen}" in run.stdout and run.stderr == ""


def test_the_end_of_a_command_closes_the_registry(tmp_path: Path) -> None:
    """No search for cycles does: an invitation or a revocation would lie beside the database, and
    be absent in a copy of it."""
    hub = tmp_path / "hub"
    for arguments in (["init", str(hub)], ["invite", "chu", "--hub-dir", str(hub)]):
        code = f"import sys; sys.argv[1:] = {['hub', *arguments]}; "
        code += "from federation.cli.main import main; main()"
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    assert [path.name for path in hub.glob("registry.db*")] == ["registry.db"]


def test_no_plugin_of_pydantic_is_searched_for() -> None:
    """It would see what a command validates."""
    code = (
        "import sys; from federation.cli.main import main;"
        " sys.argv[1:] = ['study', 'schema', 'contract'];"
        " import atexit; atexit.register(lambda: print('SEARCHED',"
        " sys.modules['pydantic.plugin._loader']._plugins)); main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "SEARCHED None" in run.stdout


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


FIRST = """
import gc, sys
import pandas
import federation as fed, federation.loading
searches = []

def seen(phase, _):
    frame, names = sys._getframe(1), set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    if phase == "start" and "_find_and_load" in names:
        searches.append(sorted(names))

gc.callbacks.append(seen)
gc.set_threshold(50, 5, 5)
columns = {"age": {"type": "number", "range": [0, 120]}, "ill": {"type": "boolean"}}
contract = {"dataset": "people", "version": 1, "unit": "row", "columns": columns}
frame = pandas.DataFrame({"age": [40.0, 50.0] * 100, "ill": [True, False, False] * 66 + [True] * 2})
nodes = fed.simulate(dict.fromkeys("abc", frame), contract)
gc.callbacks.remove(seen)
gc.set_threshold(700, 10, 10)
study = fed.Study("people", mode="exact").glm("a", "ill ~ age", family="binomial")
assert study.run(nodes, progress=False)["a"].content["status"] == "released"
print("SEARCHES", len(searches))
print("LOADED", *sys.modules)
"""


def test_a_first_study_in_a_notebook_loads_no_ciphers_and_searches_for_no_cycles_in_imports() -> (
    None
):
    run = subprocess.run(
        [sys.executable, "-c", FIRST], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lines = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    loaded = set(lines["LOADED"].split())
    assert "nodes.secure_sum" in loaded and "pandas" in loaded
    unused = {
        "cryptography", "federation.secagg.keys", "multiprocessing.connection",
        "nodes.connectors.error_cells", "nodes.recognition", "rich", "scipy", "matplotlib",
    }  # fmt: skip
    assert not loaded & unused
    assert lines["SEARCHES"] == "0"


def test_objects_that_somebody_has_frozen_stay_so_and_a_disabled_collector_too() -> None:
    code = (
        "import gc; from federation.loading import uncollected; gc.freeze(); gc.disable()\n"
        "with uncollected(): assert not gc.isenabled()\n"
        "assert gc.get_freeze_count() and not gc.isenabled()\n"
        "gc.unfreeze(); gc.enable(); young = [[]]\n"
        "with uncollected(): assert not gc.isenabled()\n"
        "assert gc.isenabled() and not gc.get_freeze_count()\n"
        "assert any(each is young for each in gc.get_objects(generation=2))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("before", [(700, 10, 10), (0, 10, 10), (10**6, 5, 5)])
def test_a_study_is_searched_for_cycles_seldom_and_then_as_often_as_before(
    before: tuple[int, int, int],
) -> None:
    set_before = gc.get_threshold()
    try:
        gc.set_threshold(*before)
        with loading.seldom_collected():
            assert gc.get_threshold() == (loading.SELDOM if before[0] == 700 else before)
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*set_before)


def test_commands_that_look_after_a_hub_load_none_of_the_programs_that_it_runs() -> None:
    code = (
        "import sys, federation.cli.actions.parties;"
        " print({'flwr', 'fastapi', 'grpc', 'scipy', 'pandas', 'duckdb'} & sys.modules.keys())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "set()"
