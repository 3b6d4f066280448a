"""Networks, analyses and strategies that a site installs: found lazily, known by their hash, closed
by default, and harmless where they are broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from federation import errors, extensions
from federation.cli.actions import extensions as action
from federation.messages import Query, Refusal, State, TaskId
from federation.study import Study
from federation.tickets import ticket
from nodes import extension_rules, hub_stream, predictions, service
from nodes.session import NodeContext
from nodes.site import Policy, Site, SiteFile
from strategies import installed, registry
from strategies.learning import server_optimizers
from tests import federations, planted

ROOT = Path(__file__).parents[3]
CONTRACT = federations.contract_of("""
dataset: people
version: 1
columns:
  x: {type: number, range: [0, 1]}
  y: {type: boolean}
unit: row
""")
NETWORK = """
from strategies.learning.networks import Recipe

def build(shape, widths):
    from torch import nn
    return nn.Sequential(nn.Linear(shape[0], 3), nn.Tanh(), nn.Linear(3, 1))

WIDE = Recipe(build, axes=1, takes="terms")
"""
ANALYSIS = """
from strategies.descriptive import crosstab, crosstab_dp
from strategies.registry import Row

COUNTED = Row(crosstab, private=crosstab_dp)
"""
STRATEGY = """
from strategies.learning.server_optimizers import Recipe

def step(weights, updates, memory, options):
    return weights + options["by"] * updates[0].change, memory

HALF = Recipe(step, options={"by": 0.5})
"""
ENTRIES = {
    "networks.wide": "planted_net:WIDE",
    "analyses.counted": "planted_analysis:COUNTED",
    "strategies.half": "planted_strategy:HALF",
}
FILES = {
    "planted_net.py": NETWORK,
    "planted_analysis.py": ANALYSIS,
    "planted_strategy.py": STRATEGY,
}
USES: Mapping[str, dict[str, Any]] = {
    "networks.wide": {"run": "train", "model": "y ~ x", "network": "wide"},
    "analyses.counted": {"run": "counted", "rows": "y", "columns": "y2"},
    "strategies.half": {"run": "train", "model": "y ~ x", "strategy": "half"},
}


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The digest of a distribution with one extension of each kind."""
    planted.plant(tmp_path, monkeypatch, ENTRIES, FILES)
    extension = extensions.find("networks.wide")
    assert extension is not None
    return extension.digest


def study_of(key: str, mode: str = "exact", **more: Any) -> Study:
    return federations.study_of({"a": USES[key]}, privacy={"mode": mode}, **more)


# -- finding and loading
def test_extensions_are_found_without_being_imported(sound: str) -> None:
    assert [extension.key for extension in installed.every()] == sorted(ENTRIES)
    assert not {"planted_net", "planted_analysis", "planted_strategy"} & set(sys.modules)
    for extension in installed.every():
        assert not extension.problem and extension.digest == sound
        assert str(extension) == f"{extension.key} of planted 1.0"


def test_the_help_looks_for_no_extension() -> None:
    code = (
        "import sys; from federation.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit: pass\n"
        "assert 'federation.extensions' not in sys.modules, 'extensions'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.parametrize("key", ENTRIES)
def test_the_keys_of_a_study_are_those_it_does_not_take_from_hdh(sound: str, key: str) -> None:
    assert installed.used(study_of(key)) == [key]
    assert not installed.used(federations.study_of({"a": {"run": "describe", "columns": ["x"]}}))
    ours = {"run": "train", "model": "y ~ x", "network": "mlp", "strategy": "median"}
    assert not installed.used(federations.study_of({"a": ours}))


def test_the_hash_covers_the_code_and_nothing_that_differs_between_machines(
    sound: str, tmp_path: Path
) -> None:
    def digest() -> str:
        extension = extensions.find("networks.wide")
        assert extension is not None
        return extension.digest

    (info,) = tmp_path.glob("*.dist-info")
    with (info / "RECORD").open("a") as record:
        record.write("__pycache__/planted_net.cpython-311.pyc,,\n../bin/tool,,\n")
        record.write("planted-1.0.dist-info/INSTALLER,,\n")
    (tmp_path / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "__pycache__" / "planted_net.cpython-311.pyc").write_text("x")
    (info / "INSTALLER").write_text("uv")
    assert digest() == sound
    (tmp_path / "planted_strategy.py").write_text(STRATEGY + "\n")
    changed = digest()
    assert changed != sound
    with (info / "RECORD").open("a") as record:
        record.write("planted_code.pyc,,\n")  # without a source it is imported, too
    (tmp_path / "planted_code.pyc").write_text("x")
    assert digest() != changed


def test_an_absent_extension_is_told(tmp_path: Path) -> None:
    assert extensions.find("networks.absent") is None
    with pytest.raises(errors.ExtensionError, match=r"networks\.absent is not installed here"):
        extensions.imported("networks.absent", object, "anything")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('row 17')", r"cannot be imported \(ValueError\)"),
        ("import a_library_that_nobody_has", r"cannot be imported \(ModuleNotFoundError\)"),
        ("def broken(:", r"cannot be imported \(SyntaxError\)"),
        ("import sys; sys.exit(3)", r"cannot be imported \(SystemExit\)"),
        ("OTHER = 1", r"cannot be imported \(AttributeError\)"),
        ("WIDE = 'a text'", "its entry point is a str, and a Recipe .* is needed"),
        ("def WIDE(): ...", "its entry point is a function"),
    ],
)
def test_a_broken_network_is_told_in_one_line_without_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    planted.plant(
        tmp_path, monkeypatch, {"networks.wide": "planted_net:WIDE"}, {"planted_net.py": code}
    )
    with pytest.raises(errors.StudyError, match=message) as caught:
        registry.plan(study_of("networks.wide"), CONTRACT)
    assert len(caught.value.problems) == 1
    assert str(tmp_path) not in str(caught.value) and "row 17" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("COUNTED = 5", "a Row of strategies.registry is needed"),
        (
            "import types; from strategies.registry import Row\n"
            "COUNTED = Row(types.SimpleNamespace(TRAITS=1, Options=1))",
            "has no prepare, start, limits, local, combine, roles",
        ),
        (
            "import types; from strategies.descriptive import crosstab\n"
            "from strategies.registry import Row\n"
            "COUNTED = Row(crosstab, private=crosstab)",
            "has no rounds, shares, forecast",
        ),
    ],
)
def test_a_broken_analysis_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    entries = {"analyses.counted": "planted_analysis:COUNTED"}
    planted.plant(tmp_path, monkeypatch, entries, {"planted_analysis.py": code})
    with pytest.raises(errors.StudyError, match=message):
        registry.plan(study_of("analyses.counted"), CONTRACT)
    assert registry.version("counted") == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ("nn.Linear(shape[0], 2)", r"it gives \(3, 2\) for 3 rows, not \(3, 1\)"),
        ("nn.Linear(shape[0] + 1, 1)", r"it fails on rows of shape \(1,\) \(RuntimeError\)"),
        ("nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))", "depends on other rows or on chance"),
        ("nn.Sequential(nn.Linear(1, 90), nn.Dropout(), nn.Linear(90, 1))", "or on chance"),
        ("nn.Tanh()", "no weights"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_before_a_row_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, message: str
) -> None:
    code = NETWORK.replace(
        "nn.Sequential(nn.Linear(shape[0], 3), nn.Tanh(), nn.Linear(3, 1))", build
    )
    planted.plant(
        tmp_path, monkeypatch, {"networks.wide": "planted_net:WIDE"}, {"planted_net.py": code}
    )
    with pytest.raises(errors.StudyError, match=message):
        registry.plan(study_of("networks.wide"), CONTRACT)


def test_two_distributions_of_one_name_are_both_refused(
    sound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    entries = {"networks.wide": "other_net:WIDE"}
    planted.plant(folder, monkeypatch, entries, {"other_net.py": NETWORK}, distribution="other")
    with pytest.raises(errors.StudyError, match=r"other and planted both bring networks\.wide"):
        registry.plan(study_of("networks.wide"), CONTRACT)


@pytest.mark.parametrize(
    "key", ["networks.mlp", "networks.cnn", "analyses.glm", "analyses.train", "strategies.median"]
)
def test_the_name_of_one_of_ours_is_told_and_ours_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    planted.plant(
        tmp_path, monkeypatch, {key: "planted_net:WIDE"}, {"planted_net.py": "raise SystemExit"}
    )
    (extension,) = installed.every()
    assert "its author must rename it" in extension.problem
    options = {"run": "train", "model": "y ~ x", "network": "mlp", "strategy": "median"}
    study = federations.study_of(
        {"a": options, "b": {"run": "glm", "model": "y ~ x", "family": "binomial"}}
    )
    assert set(registry.plan(study, CONTRACT)) == {"a", "b"}
    assert "planted_net" not in sys.modules


def test_an_editable_installation_has_no_hash_of_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.plant(tmp_path, monkeypatch, ENTRIES, FILES, recorded=False)
    assert all("without --editable" in extension.problem for extension in installed.every())
    with pytest.raises(errors.StudyError, match="without --editable"):
        registry.plan(study_of("networks.wide"), CONTRACT)


def test_a_module_that_another_folder_shadows_is_not_covered_by_the_hash(
    sound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "planted_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path / "shadow")
    extension = extensions.find("networks.wide")
    assert extension is not None and "its hash would not cover its code" in extension.problem


def test_code_that_changes_under_a_running_process_is_not_used_on(
    sound: str, tmp_path: Path
) -> None:
    registry.plan(study_of("networks.wide"), CONTRACT)
    (tmp_path / "planted_net.py").write_text(NETWORK + "# another version\n")
    extension = extensions.find("networks.wide")
    assert extension is not None and "restart the process" in extension.problem


def test_the_list_shows_hashes_and_problems(
    sound: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    action.show("text")
    assert f"analyses.counted of planted 1.0\n  hash {sound}\n" in capsys.readouterr().out
    (tmp_path / "planted_net.py").unlink()
    action.show("json")
    by_key = {each["key"]: each for each in json.loads(capsys.readouterr().out)}
    assert by_key["networks.wide"]["problem"] and not by_key["analyses.counted"]["problem"]


# -- at a node
def refusal(
    study: Study, tmp_path: Path, allowed: Mapping[str, str] | None = None
) -> Refusal | None:
    """A node's decision about a study, before any row is read."""
    policy = Policy(min_nodes=1, modes=("exact", "dp"), max_epsilon=20, extensions=allowed or {})
    table = pandas.DataFrame({"x": [0.5] * 30, "y": [0, 1] * 15})
    site = replace(
        federations.site_of("n1", table, CONTRACT, tmp_path, policy), state=tmp_path / "state"
    )
    return service.admit_study(study, CONTRACT, 3, site, federations.NOW)


@pytest.mark.parametrize("key", ENTRIES)
def test_a_node_runs_no_extension_that_its_policy_does_not_name(
    sound: str, tmp_path: Path, key: str
) -> None:
    study = study_of(key, extensions={key: sound})
    refused = refusal(study, tmp_path)
    assert refused is not None and refused.rule == "extension"
    assert f"{key} is not allowed here" in refused.remedy and "`extensions`" in refused.remedy
    assert refusal(study, tmp_path, {key: "any"}) is None
    assert refusal(study, tmp_path, {key: sound}) is None
    other = refusal(study, tmp_path, {key: "0" * 64})
    assert other is not None and "another hash" in other.remedy
    assert not {"planted_net", "planted_analysis", "planted_strategy"} & set(sys.modules)


@pytest.mark.parametrize("key", ENTRIES)
@pytest.mark.parametrize("signed", [True, False])
def test_a_proposal_imports_no_code_that_is_not_allowed_or_not_the_signed_one(
    sound: str, tmp_path: Path, key: str, signed: bool
) -> None:
    """A plan imports a study's extensions, and any coordinator may propose a study."""
    study = study_of(key, extensions={key: sound if signed else "0" * 64})
    allowed = {} if signed else {key: "any"}
    policy = Policy(min_nodes=1, modes=("exact", "dp"), extensions=allowed)
    table = pandas.DataFrame({"x": [0.5] * 30, "y": [0, 1] * 15})
    site = federations.site_of("n1", table, CONTRACT, tmp_path, policy)
    run = ticket("hub", 1, study.hash, CONTRACT.hash, ["n1", "n2", "n3"], 9e9)
    reason = hub_stream._policy(
        study, run, "", replace(site, state=tmp_path / "state"), federations.NOW
    )
    assert reason is not None and reason.startswith("extension: ")
    assert not {"planted_net", "planted_analysis", "planted_strategy"} & set(sys.modules)


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        ("weights * float('nan'), memory", "gave weights that are no numbers"),
        ("weights[:-1], memory", "gave weights of shape"),
        ("exit(3)", "failed (SystemExit)"),
    ],
)
def test_a_strategy_that_fails_ends_its_training_and_not_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives: str, message: str
) -> None:
    step = STRATEGY.replace('weights + options["by"] * updates[0].change, memory', gives)
    assert step != STRATEGY
    planted.plant(tmp_path, monkeypatch, ENTRIES, FILES | {"planted_strategy.py": step})
    with pytest.raises(errors.ModelError, match=re.escape(message)):
        server_optimizers.installed_step("half", np.zeros(3), [], {}, {})


@pytest.mark.parametrize("key", ENTRIES)
def test_nodes_whose_code_is_not_the_signed_one_do_not_add(
    sound: str, tmp_path: Path, key: str
) -> None:
    refused = refusal(study_of(key), tmp_path, {key: "any"})
    assert refused is not None and "does not state the hash" in refused.remedy
    refused = refusal(study_of(key, extensions={key: "1" * 64}), tmp_path, {key: "any"})
    assert refused is not None and "than the coordinator signed" in refused.remedy
    with pytest.raises(errors.StudyError, match="another code is installed here"):
        registry.plan(study_of(key, extensions={key: "1" * 64}), CONTRACT)


@pytest.mark.parametrize(
    ("key", "needs_hash"),
    [("analyses.counted", True), ("networks.wide", True), ("strategies.half", False)],
)
def test_in_mode_dp_code_that_reads_people_needs_its_hash_in_the_policy(
    sound: str, tmp_path: Path, key: str, needs_hash: bool
) -> None:
    study = study_of(key, "dp", extensions={key: sound})
    refused = refusal(study, tmp_path, {key: "any"})
    assert (refused is not None) == needs_hash
    if refused is not None:
        assert f"in mode dp {key} needs its hash" in refused.remedy
    assert refusal(study, tmp_path, {key: sound}) is None


@pytest.mark.parametrize("key", ENTRIES)
def test_what_is_not_installed_or_broken_here_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    refused = refusal(study_of(key), tmp_path, {key: "any"})
    assert refused is not None
    assert refused.rule == ("analysis" if key == "analyses.counted" else "extension")
    planted.plant(tmp_path, monkeypatch, ENTRIES, FILES, recorded=False)
    refused = refusal(study_of(key), tmp_path, {key: "any"})
    assert refused is not None and "`hdh extensions`" in refused.remedy


def test_the_staff_sees_the_code_of_a_study_and_whether_it_may_run(
    sound: str, tmp_path: Path
) -> None:
    study = study_of("networks.wide", extensions={"networks.wide": sound})
    site = Site("n1", {}, Policy(), state=tmp_path)
    lines = extension_rules.describe(study, site)
    assert lines[0].startswith(
        "extension networks.wide of planted 1.0: networks.wide is not allowed"
    )
    assert lines[1:] == [f"  hash here   {sound}", f"  hash signed {sound}"]
    site = replace(site, policy=Policy(extensions={"networks.wide": sound}))
    assert extension_rules.describe(study, site)[0].endswith(": allowed by this policy")


def test_predictions_for_the_staff_import_no_code_that_the_policy_does_not_allow(
    sound: str, tmp_path: Path
) -> None:
    """The study has a mixed model beside the extension, and its plan would import both."""
    mixed = {"run": "mixed_model", "model": "x ~ 1", "random": "1"}
    analyses = {"a": mixed, "b": dict(USES["networks.wide"])}
    study = federations.study_of(analyses, extensions={"networks.wide": sound})
    tables: dict[str, Any] = {"coefficients": [], "random": []}
    document = {
        "study_hash": study.hash,
        "analyses": {"a": {"run": "mixed_model", "tables": tables}},
    }
    site = Site("n1", {}, Policy(), state=tmp_path)
    with pytest.raises(errors.RefusalError, match=r"networks\.wide is not allowed here"):
        predictions.write(study, "a", document, site, tmp_path / "own.csv")
    assert "planted_net" not in sys.modules


def test_a_broken_extension_is_a_refusal_of_the_node_and_not_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.plant(
        tmp_path, monkeypatch, ENTRIES, {**FILES, "planted_analysis.py": "raise SystemExit"}
    )
    study = study_of("analyses.counted")
    with pytest.raises(errors.StudyError, match=r"\(SystemExit\)"):
        registry.plan(study, CONTRACT)
    table = pandas.DataFrame({"x": [0.5] * 30, "y": [0, 1] * 15})
    site = federations.site_of("n1", table, CONTRACT, tmp_path)
    query = Query(study, CONTRACT.hash, 1, ("n1",), {TaskId("a"): State()})
    (answer,) = service.answer(query, NodeContext(site), federations.NOW).answers.values()
    assert isinstance(answer, Refusal) and answer.rule == "study"


# -- the study
def test_a_study_without_extensions_keeps_the_hash_that_it_had_before_there_were_any() -> None:
    study = federations.study_of({"a": {"run": "describe", "columns": ["x"]}})
    assert "extensions" not in study.canonical()
    other = study.model_copy(update={"extensions": {"networks.wide": "a" * 64}})
    assert other.hash != study.hash and "a" * 64 in other.canonical()


def test_a_submission_states_the_hashes_of_what_is_installed_with_the_coordinator(
    sound: str,
) -> None:
    assert installed.signed(study_of("networks.wide")).extensions == {"networks.wide": sound}
    written = study_of("networks.wide", extensions={"networks.wide": "1" * 64})
    assert installed.signed(written) is written
    plain = federations.study_of({"a": {"run": "describe", "columns": ["x"]}})
    assert installed.signed(plain) is plain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wide": "a" * 64}, "'wide' must be KIND.NAME, as in networks.two_layers"),
        ({"network.wide": "a" * 64}, "must be KIND.NAME"),
        ({"networks.Wide": "a" * 64}, "must be KIND.NAME"),
        ({"networks.wide": "abc"}, "must be 64 hexadecimal digits"),
    ],
)
def test_a_mistake_in_extensions_is_told(values: dict[str, str], message: str) -> None:
    with pytest.raises(errors.StudyError, match=message):
        study_of("networks.wide", extensions=values)
    with pytest.raises(ValueError, match=message.partition(",")[0]):
        SiteFile(node="n", policy={"extensions": values})
