"""Real patients held by two: a linked study gives the numbers of lifelines, or of R, on the whole
table."""

from __future__ import annotations

import pytest
from lifelines import CoxPHFitter

from federation.contract import Contract
from federation.study import Study
from nodes.site import Dataset
from simulations import answering, local
from simulations.answering import Holders
from simulations.pilots import common
from tests.linkage import two_holders
from tests.linkage.two_holders import NOW

WARD = """
dataset: ward
version: 1
person: pid
identifiers: {pid: {column: pid, form: text}}
columns:
  pid: {type: string}
  age: {type: number, range: [15, 105]}
  chf: {type: boolean}
  diabetes: {type: boolean}
"""
REGISTER = """
dataset: register
version: 1
person: number
identifiers: {pid: {column: number, form: text}}
columns:
  number: {type: string}
  time: {type: number, range: [0, 10], step: 0.001}
  event: {type: boolean}
"""
STUDY = """
study: trace
title: t
question: q
purpose: {interest: public, category: research}
authorisation: {reference: A, expires: 2030-01-01}
datasets: {ward: {}, register: {}}
link: {on: pid, left: ward, right: register, helper: casd}
privacy: {mode: exact}
analyses: {cox: {run: cox, model: "Surv(time, event) ~ age + chf + diabetes"}}
"""


@pytest.fixture(scope="module")
def trace():
    """1,878 patients of the TRACE study (SurvSet)."""
    raw = common.real("TRACE")
    flags = {name: raw[f"fac_{name}"].astype(float).astype(int) for name in ("chf", "diabetes")}
    return raw[["pid", "time", "event"]].assign(
        time=raw["time"].astype(float).round(3), age=raw["num_age"], **flags
    )


def test_covariates_at_a_ward_and_deaths_at_a_register_give_the_pooled_cox_model(trace, tmp_path):
    """lifelines fits Efron's ties by its own Newton's method, to a step below 1e-7."""
    trace[["pid", "age", "chf", "diabetes"]].to_csv(tmp_path / "ward.csv", index=False)
    deaths = trace[["pid", "time", "event"]].rename(columns={"pid": "number"})
    deaths.sample(frac=1, random_state=1).to_csv(tmp_path / "register.csv", index=False)
    loaded = [Contract.model_validate(two_holders.values(text)) for text in (WARD, REGISTER)]
    contracts = {contract.dataset: contract for contract in loaded}
    study = Study.model_validate(two_holders.values(STUDY))
    given = {
        "paris": Dataset(contracts["ward"], str(tmp_path / "ward.csv")),
        "insee": Dataset(contracts["register"], str(tmp_path / "register.csv")),
    }
    result = fit(study, contracts, given)
    expected = CoxPHFitter().fit(trace.drop(columns="pid"), "time", "event")
    assert result.n["linked"] == len(trace) == 1878
    rows = {row["term"]: row for row in result.tables["coefficients"]}
    for name in ("age", "chf", "diabetes"):
        assert rows[name]["estimate"] == pytest.approx(expected.params_[name], abs=1e-6)
        assert rows[name]["std_error"] == pytest.approx(expected.standard_errors_[name], rel=1e-5)


# -- breast cancer, with several left holders
HOSPITAL = """
dataset: hospital
version: 1
person: pid
nodes_per_person: 1
identifiers: {pid: {column: pid, form: text}}
columns:
  pid: {type: string}
  age: {type: number, range: [20, 95], step: 1}
  nodes: {type: number, range: [0, 40], step: 1}
  hormon: {type: boolean}
  size: {type: category, levels: ["<=20", "20-50", ">50"]}
"""
FOLLOW_UP = """
dataset: follow-up
version: 1
person: number
identifiers: {pid: {column: number, form: text}}
columns:
  number: {type: string}
  dtime: {type: number, range: [0, 7100], step: 1, unit: days}
  death: {type: boolean}
"""
ROTTERDAM = """
study: rotterdam
title: t
question: q
purpose: {interest: public, category: research}
authorisation: {reference: A, expires: 2030-01-01}
datasets: {hospital: {}, follow-up: {}}
link: {"on": pid, left: hospital, right: follow-up, helper: casd}
privacy: {mode: exact}
analyses: {cox: {run: cox, model: "Surv(dtime, death) ~ age + nodes + hormon + size"}}
"""
# R 4.2.2, survival 3.5.3:
# summary(coxph(Surv(dtime, death) ~ age + nodes + hormon + size, data = rotterdam))$coefficients
OF_R = {
    "age": (0.01463620414, 0.002270968084),
    "nodes": (0.07498602633, 0.004759671499),
    "hormon": (-0.02303060851, 0.087606357766),
    "size[20-50]": (0.47548451957, 0.065102964132),
    "size[>50]": (0.87297029222, 0.090477957305),
}


@pytest.mark.parametrize("hospitals", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_tumours_at_hospitals_and_deaths_at_a_register_give_the_cox_model_of_r(hospitals, tmp_path):
    """2,982 patients of the Rotterdam tumour bank. R prints ten digits, and ends its iterations at
    a relative change of the log-likelihood of 1e-9."""
    patients = common.real_of_r("survival", "rotterdam")
    flags = {name: patients[name].astype(int) for name in ("hormon", "death")}
    patients = patients.assign(number=patients["pid"], **flags)
    loaded = [Contract.model_validate(two_holders.values(t)) for t in (HOSPITAL, FOLLOW_UP)]
    contracts = {contract.dataset: contract for contract in loaded}
    deaths = patients[["number", "dtime", "death"]].sample(frac=1, random_state=1)
    deaths.to_csv(tmp_path / "deaths.csv", index=False)
    given = {"iknl": Dataset(contracts["follow-up"], str(tmp_path / "deaths.csv"))}
    for place in range(hospitals):
        path = tmp_path / f"hospital-{place}.csv"
        treated = patients.iloc[place::hospitals]
        treated[["pid", "age", "nodes", "hormon", "size"]].to_csv(path, index=False)
        given[f"hospital-{place}"] = Dataset(contracts["hospital"], str(path))
    study = Study.model_validate(two_holders.values(ROTTERDAM))
    result = fit(study.model_copy(update={"min_nodes": hospitals + 2}), contracts, given)
    assert result.n["linked"] == len(patients) == 2982
    rows = {row["term"]: row for row in result.tables["coefficients"]}
    for term, (estimate, std_error) in OF_R.items():
        assert rows[term]["estimate"] == pytest.approx(estimate, abs=1e-7)
        assert rows[term]["std_error"] == pytest.approx(std_error, rel=1e-6)


def fit(study, contracts, given):
    from federation import datasets

    contract = datasets.contract_of(study, contracts)
    holders = Holders(study, contract, given, contracts)
    with answering.sites(holders, local.SIMULATED, NOW) as answer:
        document = answer.complete(two_holders._run(study, contract, answer.sites))
    return document.analyses["cox"]
