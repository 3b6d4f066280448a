"""`import federation as fed`: a study in Python is the study of the YAML, and its result that of
`hdh simulate`."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

import federation as fed
from federation import errors
from federation import study as studies
from federation.api import yaml_text
from federation.cli.main import app
from nodes import row_files, study_opening
from strategies import registry

CONTRACT: dict[str, Any] = {
    "dataset": "people",
    "version": 1,
    "person": "id",
    "columns": {
        "id": {"type": "string"},
        "age": {"type": "number", "range": [18, 110]},
        "sex": {"type": "category", "levels": ["f", "m"]},
        "time": {"type": "number", "range": [0, 240], "step": 1},
        "died": {"type": "boolean"},
    },
}
DR: dict[str, Any] = {
    "purpose": "research",
    "authorisation": {"reference": "DR-0", "expires": "2099-12-31"},
}


def people(seed: int, n: int = 200) -> pandas.DataFrame:
    draw = np.random.default_rng(seed)
    age = draw.integers(20, 95, n)
    return pandas.DataFrame(
        {
            "id": [f"p{seed}-{i}" for i in range(n)],
            "age": age,
            "sex": np.where(draw.random(n) < 0.5, "f", "m"),
            "time": draw.exponential(80, n).round().clip(1, 240),
            "died": draw.random(n) < 1 / (1 + np.exp((60 - age) / 15)),
        }
    )


FRAMES = {f"node-{seed}": people(seed) for seed in range(3)}


@pytest.fixture(scope="module")
def nodes() -> fed.Simulation:
    return fed.simulate(FRAMES, CONTRACT)


def exact(**more: Any) -> fed.Study:
    return fed.Study("people", mode="exact", **more)


@pytest.fixture(scope="module")
def result(nodes: fed.Simulation) -> fed.Result:
    study = (
        exact()
        .cox("hazards", "Surv(time, died) ~ age + sex", results="both")
        .kaplan_meier("curves", "Surv(time, died) ~ sex", every=24)
        .glm("risk", "died ~ age + sex", family="binomial")
        .describe("people", ["age", "sex"])
    )
    return study.run(nodes, progress=False)


# -- the study
def test_every_analysis_has_a_verb_that_asks_for_what_the_analysis_needs() -> None:
    for name in registry.ANALYSES:
        given = inspect.signature(getattr(fed.Study, name)).parameters
        needed = {
            option
            for option, field in registry.analysis(name).Options.model_fields.items()
            if field.is_required()
        }
        assert set(given) - {"self", "name", "options"} == needed, name


def test_a_study_of_python_is_signed_as_the_study_of_its_yaml(tmp_path: Path) -> None:
    study = fed.Study(
        "survie-élèves",
        dataset="people",
        title="Survie: l'âge, à 5 ans # essai",
        where="age >= 18 and sex in ('f', 'm')",
        derive={"old": "age > 75", "band": {"group": {"from": "age", "cuts": [40, 60.5]}}},
        codes={"stroke": ["I60-I64", "010", "1e5", "no", "2026-01-31"]},
        epsilon=0.5,
        delta=1e-6,
        secure_sum={"dropouts": 1, "colluders": 1},
        **DR,
    ).glm("risk", "died ~ age + C(sex, ref='m')", family="binomial", budget=2)
    with pytest.raises(errors.StudyError, match="survie-élèves"):
        study.write(tmp_path / "study.yaml")
    study = fed.Study._of({**study.values, "study": "survie"})
    study.write(tmp_path / "study.yaml")
    read, _ = studies.load(tmp_path / "study.yaml")
    checked, _ = study.checked()
    assert read.canonical() == checked.canonical()
    assert read.privacy.delta == 1e-6 and read.title == "Survie: l'âge, à 5 ans # essai"


@pytest.mark.parametrize(
    "value",
    [
        "010", "1e5", "1_000", "0x1F", "1:30", ".inf", "no", "Null", "~", "", " a", "a ", "a: b",
        "a #b", "- a", "[a]", "é", "\u2028", "\x85", "\x07", "'", '"', "\\", "&a", "*a", "!a", "%",
        "@", "2026-01-31", "2027-02-30", "\U0001f600", "<<", "a\nb", "=", "yes", "e\u0301",
    ],
)  # fmt: skip
def test_a_text_comes_back_from_yaml_as_it_was(value: str) -> None:
    """write() compares what it wrote with what the reader gives back, and would raise."""
    assert yaml_text.write({"a": value, "b": [value], "c": {"d": {value or "k": value}}})


def test_a_value_that_yaml_cannot_hold_is_refused_by_its_place() -> None:
    for value in (float("nan"), object(), {1, 2}, 2**60):
        with pytest.raises(errors.StudyError):
            exact(**DR).glm("risk", "died ~ age", conf_level=value).write()


def test_a_file_that_was_read_is_written_back_byte_for_byte(tmp_path: Path) -> None:
    text = (
        Path(studies.__file__).parents[1] / "simulations/pilots/dialysis/study.yaml"
    ).read_text()
    (tmp_path / "a.yaml").write_text(text)
    study = fed.Study.read(tmp_path / "a.yaml")
    study.write(tmp_path / "b.yaml")
    assert (tmp_path / "b.yaml").read_text() == text
    changed = study.describe("more", ["age"])
    changed.write(tmp_path / "c.yaml")
    assert "more" in studies.load(tmp_path / "c.yaml")[0].analyses


def test_a_study_for_a_hub_says_why_it_runs_and_one_on_own_rows_need_not(
    nodes: fed.Simulation,
) -> None:
    study = exact().describe("ages", ["age"])
    with pytest.raises(errors.StudyError, match=r"(?s)purpose.*authorisation"):
        study.write()
    assert study.run(nodes, progress=False)["ages"].content["status"] == "released"


# -- the nodes
def test_a_result_in_python_is_that_of_the_command(nodes: fed.Simulation, tmp_path: Path) -> None:
    study = exact(**DR).cox("hazards", "Surv(time, died) ~ age + sex", results="both")
    study.write(tmp_path / "study.yaml")
    (tmp_path / "people.yaml").write_text(json.dumps(CONTRACT))
    command = ["simulate", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]
    for name, frame in FRAMES.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        command += ["--node", f"{name}={tmp_path / name}.csv"]
    assert CliRunner().invoke(app, command).exit_code == 0
    here = study.run(nodes, progress=False)
    assert fed.compare(here, tmp_path / "out" / "result.json").same


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow", "path"])
def test_rows_of_every_kind_give_the_same_result(
    library: str, nodes: fed.Simulation, tmp_path: Path
) -> None:
    if library != "path" and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    frames: dict[str, Any] = {}
    for name, frame in FRAMES.items():
        path = tmp_path / f"{name}.csv"
        frame.to_csv(path, index=False)
        if library == "polars":
            import polars

            frames[name] = polars.read_csv(path)
        elif library == "pyarrow":
            from pyarrow import csv

            frames[name] = csv.read_csv(path)
        else:
            frames[name] = path if library == "path" else frame.astype({"sex": "category"})
    study = exact().describe("people", ["age", "sex", "died"])
    with fed.simulate(frames, CONTRACT) as others:
        assert fed.compare(study.run(others), study.run(nodes)).same


def test_missing_values_of_a_frame_are_missing() -> None:
    frames = {name: frame.assign(age=frame["age"].where(frame.index > 9)) for name, frame in
              FRAMES.items()}  # fmt: skip
    with fed.simulate(frames, CONTRACT) as nodes:
        result = exact().glm("risk", "died ~ age", family="binomial").run(nodes)
    assert result["risk"].glance()["n_missing"].tolist() == [30]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ({}, "no nodes"),
        ({"Limoges": FRAMES["node-0"]}, "'limoges'"),
        ({"lyon": ("visits", FRAMES["node-0"])}, "people"),
        ({"lyon": object()}, "object"),
        ({"lyon": 3}, "int"),
    ],
)
def test_nodes_that_cannot_be_read_are_named_with_a_remedy(
    frames: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InputError, match=words):
        fed.simulate(frames, CONTRACT)


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The datasets whose rows the nodes have opened, one entry for each node."""
    opened: list[str] = []
    real = study_opening.open_session

    def counted(study: studies.Study, *rest: Any) -> Any:
        opened.append(study.dataset)
        return real(study, *rest)

    monkeypatch.setattr(study_opening, "open_session", counted)
    return opened


def test_a_second_run_of_a_study_reads_no_rows_and_gives_the_same(openings: list[str]) -> None:
    study = exact().describe("ages", ["age"])
    with fed.simulate(FRAMES, CONTRACT) as nodes:
        first, second = (study.run(nodes, progress=False) for _ in range(2))
        assert len(openings) == 3 and fed.compare(first, second).same
        other = exact().describe("ages", ["sex"])
        other.run(nodes, progress=False)
        assert len(openings) == 6  # another study opens the rows again


@pytest.mark.parametrize(
    "study",
    [
        fed.Study("people", epsilon=5).describe("ages", ["age"]),
        exact(secure_sum=True).describe("ages", ["age"]),
    ],
    ids=["noise", "secure sum"],
)
def test_nodes_with_noise_or_masks_begin_anew_at_each_run(
    study: fed.Study, openings: list[str]
) -> None:
    with fed.simulate(FRAMES, CONTRACT) as nodes:
        for _ in range(2):
            study.run(nodes, progress=False)
    assert len(openings) == 6


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.csv" for name in FRAMES}
    study = exact().describe("ages", ["age"])
    for path in paths.values():
        people(1).to_csv(path, index=False)
    with fed.simulate(paths, CONTRACT) as nodes:
        first = study.run(nodes, progress=False)["ages"].glance()["n"].iloc[0]
        for path in paths.values():
            people(1, 150).to_csv(path, index=False)
        second = study.run(nodes, progress=False)["ages"].glance()["n"].iloc[0]
    assert (first, second) == (600, 450)


def test_the_copies_of_the_rows_are_private_and_removed() -> None:
    nodes = fed.simulate(FRAMES, CONTRACT)
    folder = nodes._folder
    assert folder.stat().st_mode & 0o077 == 0 and len(list(folder.glob("*.parquet"))) == 3
    nodes.close()
    assert not folder.exists()


def test_the_progress_goes_where_it_is_sent(nodes: fed.Simulation) -> None:
    lines: list[str] = []
    exact().describe("ages", ["age"]).run(nodes, progress=lines.append)
    assert any("round" in line for line in lines)


def test_a_plan_names_the_node_that_would_refuse() -> None:
    few = {**FRAMES, "small": people(9, 5)}
    with fed.simulate(few, CONTRACT) as nodes:
        planned = exact().glm("risk", "died ~ age + sex", family="binomial").plan(nodes).nodes()
    refuses = planned.set_index("node")["refuses"]
    assert refuses["small"] and refuses.drop("small").isna().all()


# -- the result
def test_the_rows_of_a_model_are_those_of_the_document(result: fed.Result) -> None:
    tidy = result["hazards"].tidy()
    rows = result.document["analyses"]["hazards"]["tables"]["coefficients"]
    assert tidy.to_dict("records") == rows
    assert result["curves"].tidy().columns[0:2].tolist() != ["term", "estimate"]
    assert result["hazards"].glance()["n"].tolist() == [600]
    assert set(result["hazards"].by_node()["node"]) == set(FRAMES)


def test_what_a_result_does_not_have_is_refused_by_name(result: fed.Result) -> None:
    for ask, words in (
        (lambda: result["hazard"], "hazards, curves"),
        (lambda: result["risk"].by_node(), "results='both'"),
        (lambda: result["hazards"].tidy("nope"), "coefficients"),
        (lambda: result["hazards"].forest("nope"), "age"),
        (lambda: result["people"].forest(), "describe"),
        (lambda: result["people"].estimator(), "glm"),
        (lambda: result["risk"].augment(pandas.DataFrame({"age": [1]})), r"sex\[m\]"),
    ):
        with pytest.raises(errors.InputError, match=words):
            ask()


def test_notebooks_show_a_study_a_result_and_a_figure(
    result: fed.Result, nodes: fed.Simulation, tmp_path: Path
) -> None:
    study = exact().describe("ages", ["age"])
    assert "describe" in study._repr_html_() and "node-1" in study.plan(nodes)._repr_html_()
    assert "hazards" in result._repr_html_() and "sex[m]" in result["hazards"]._repr_html_()
    assert result["curves"].plot()._repr_html_().count("<svg") == 1
    result["hazards"].forest("age").save(tmp_path / "age.svg")
    assert all(name in (tmp_path / "age.svg").read_text() for name in (*FRAMES, "all nodes"))
    assert "hazards" in result.report(tmp_path / "out").read_text()


def test_the_estimator_of_a_result_predicts_the_released_odds(result: fed.Result) -> None:
    rows = result["risk"].tidy().set_index("term")["estimate"]
    mine = pandas.DataFrame({"age": [40.0], "sex[m]": [1.0]})
    eta = rows["(Intercept)"] + 40 * rows["age"] + rows["sex[m]"]
    fitted = result["risk"].augment(mine)["fitted"]
    assert fitted.tolist() == pytest.approx([1 / (1 + np.exp(-eta))])  # the logistic function


def test_rows_are_augmented_by_the_contracts_columns_and_missing_where_they_are(
    result: fed.Result,
) -> None:
    mine = pandas.DataFrame({"age": [40.0, np.nan, 40.0], "sex": ["m", "m", "f"]}, index=[7, 7, 7])
    rows = result["risk"].tidy().set_index("term")["estimate"]
    fitted = result["risk"].augment(mine)["fitted"].tolist()
    odds = np.log(np.array(fitted) / (1 - np.array(fitted)))
    assert odds[0] - odds[2] == pytest.approx(rows["sex[m]"]) and np.isnan(odds[1])
    assert result["hazards"].augment(mine)["fitted"][7].iloc[0] == pytest.approx(
        40 * result["hazards"].tidy()["estimate"][0] + result["hazards"].tidy()["estimate"][1]
    )


def test_a_comparison_says_which_number_differs_and_by_how_much(
    result: fed.Result, tmp_path: Path
) -> None:
    document = json.loads(json.dumps(result.document))
    document["analyses"]["hazards"]["tables"]["coefficients"][0]["estimate"] += 1
    del document["analyses"]["curves"]
    changed = fed.Result(document)
    rows = fed.compare(result, changed).tidy()
    assert rows["analysis"].tolist() == ["hazards", "curves"]
    assert rows.loc[0, ["table", "row", "column"]].tolist() == ["coefficients", "age", "estimate"]
    assert rows.loc[0, "difference"] == pytest.approx(1)
    for name, saved in (("a", result), ("b", changed)):
        saved.save(tmp_path / f"{name}.json")
    paths = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    shown = CliRunner().invoke(app, ["study", "compare", *paths, "--format", "json"])
    assert [row["column"] for row in json.loads(shown.output)] == ["estimate", "there"]
    shown = CliRunner().invoke(app, ["study", "compare", paths[0], paths[0]])
    assert "same" in shown.output


@pytest.mark.parametrize(
    ("columns", "name"),
    [("âge au décès", "age_au_deces"), ("Taux (%)", "Taux"), ("n°", "n")],
)
def test_a_name_with_accents_or_blanks_is_refused_with_one_that_is_valid(
    columns: str, name: str
) -> None:
    contract = {**CONTRACT, "columns": {columns: {"type": "boolean"}}}
    with pytest.raises(errors.ContractError, match=f"start with a letter, as in {name}$"):
        fed.simulate({"a": pandas.DataFrame({columns: [True]})}, contract)


def test_a_study_of_python_says_in_which_analysis_a_key_is_unknown(nodes: fed.Simulation) -> None:
    study = exact().cox("hazards", "Surv(time, died) ~ age", where="age > 3")
    with pytest.raises(errors.StudyError, match=r"analyses\.hazards: unknown key 'where'"):
        study.run(nodes, progress=False)
    with pytest.raises(errors.StudyError, match=r"no analysis yet: add one, as in .*describe"):
        exact().write()


def test_an_analysis_that_every_node_refuses_says_why_once(nodes: fed.Simulation) -> None:
    result = exact(where="age > 109").describe("ages", ["age"]).run(nodes, progress=False)
    with pytest.raises(errors.InputError) as refused:
        result["ages"].tidy()
    text = str(refused.value)
    assert text.startswith("ages failed: 0 of the ") and text.count("fewer than 11 people") == 1
    assert all(name in text for name in nodes.nodes)


def test_the_main_table_of_a_rank_sum_test_is_the_test(nodes: fed.Simulation) -> None:
    result = exact().wilcoxon("ranks", "age", "sex", step=5).run(nodes, progress=False)
    assert {"statistic", "p_value"} <= set(result["ranks"].tidy())


def test_rows_are_augmented_with_classes_and_their_probabilities(nodes: fed.Simulation) -> None:
    study = exact().train("net", "sex ~ age", network="logistic", rounds=2)
    mine = pandas.DataFrame({"age": [30.0, None, 80.0]})
    fitted = study.run(nodes, progress=False)["net"].augment(mine)
    shares = [name for name in fitted if name.startswith("fitted_")]
    assert len(shares) == 2 and fitted[shares].iloc[[0, 2]].sum(axis=1).round(9).eq(1).all()
    most = fitted[shares].iloc[[0, 2]].idxmax(axis=1).str.removeprefix("fitted_")
    assert fitted["fitted"].iloc[[0, 2]].eq(most).all() and pandas.isna(fitted["fitted"].iloc[1])


def test_the_import_alone_loads_no_analysis_no_frame_and_no_network() -> None:
    code = "import sys, federation as fed; {verb} print([m for m in {heavy} if m in sys.modules])"
    libraries = ["sklearn", "scipy", "grpc", "flwr", "torch", "duckdb", "cryptography"]
    for verb, heavy in (
        ("", [*libraries, "pandas", "numpy", "pydantic"]),
        ("fed.Study; fed.simulate;", [*libraries, "pandas"]),
    ):
        command = [sys.executable, "-c", code.format(verb=verb, heavy=heavy)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "[]", verb


def test_data_frames_of_a_killed_process_are_removed_by_the_next_one(tmp_path: Path) -> None:
    holds = (
        "import os, signal, pandas, federation as fed\n"
        "from tests.unit.federation.test_python_interface import CONTRACT, FRAMES\n"
        "nodes = fed.Simulation(FRAMES, CONTRACT)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", holds], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert {path.suffix for path in tmp_path.glob("*/*.parquet")} == {".parquet"}
    row_files.sweep(tmp_path)
    assert not list(tmp_path.iterdir())
