"""A study over two producers' datasets without a link, at a hub over real processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from federation import receipts
from nodes.site import Dataset
from simulations import flower, local
from tests import deployments
from tests.flow.test_linked import hdh
from tests.linkage.test_table import EXPOSED, REPORTS, STUDY, contracts_of

CONTRACTS = contracts_of(REPORTS, EXPOSED)
RATES = """
analyses:
  rates: {run: rates, events: "dataset = 'reports'", time: "dataset = 'exposed'", by: [drug]}
"""


def _sites(folder: Path) -> list:
    reports = pandas.DataFrame(
        {"number": np.arange(500), "drug": ["a"] * 400 + ["b"] * 100, "reaction": "x"}
    )
    exposed = pandas.DataFrame(
        {"who": np.arange(3000), "drug": ["a"] * 2000 + ["b"] * 1000, "months": 6}
    )
    reports.to_csv(folder / "reports.csv", index=False)
    exposed.to_csv(folder / "exposed.csv", index=False)
    return [
        local.site("ansm", Dataset(CONTRACTS["reports"], str(folder / "reports.csv"))),
        local.site("cnam", Dataset(CONTRACTS["exposed"], str(folder / "exposed.csv"))),
    ]


def _written(folder: Path) -> Path:
    head = "".join(
        line + "\n"
        for line in STUDY.strip().splitlines()
        if line.split(":")[0] in ("study", "title", "question", "purpose", "authorisation")
    )
    path = folder / "study.yaml"
    side_by_side = "datasets: {reports: {}, exposed: {}}\nmin_nodes: 2\nprivacy: {mode: exact}"
    path.write_text(head + side_by_side + RATES)
    (folder / "reports.yaml").write_text(REPORTS)
    (folder / "exposed.yaml").write_text(EXPOSED)
    return path


@pytest.mark.slow
def test_each_producer_approves_and_answers_for_its_own_dataset(tmp_path: Path) -> None:
    study = str(_written(tmp_path))
    with flower.deployed(_sites(tmp_path), tmp_path / "f", say=lambda _: None) as deployment:
        home = deployment.keys()
        deployments.set_policy(deployment, "cnam", approval="manual")
        deployments.restart(deployment, "cnam")
        planned = hdh("study", "plan", study, "--hub", home=home)
        assert "ansm" in planned and "yes, once its staff approves" in planned
        printed = hdh("study", "submit", study, home=home)
        assert "nodes asked: ansm, cnam" in printed
        node_file = str(deployment.home("cnam") / "node.yaml")
        deployments.wait(lambda: "waits for you" in hdh("node", "studies", "--site", node_file), 60)
        shown = hdh("node", "show", "1", "--site", node_file)
        assert "sets exposed, reports side by side: nobody is linked" in shown
        assert "this node answers for exposed alone" in shown
        assert "cannot be counted" not in shown
        hdh("node", "approve", "1", "--site", node_file)
        with deployment.connect() as hub:
            run = hub.run(1)
            assert run.watch(lambda line: None).state == "complete"
            result = run.result()
        rates = {
            row["group"]: row["rate"]
            for row in result.document["analyses"]["rates"]["tables"]["rates"]
        }
        assert rates["drug=a"] == pytest.approx(400 / 2000)
        assert rates["drug=b"] == pytest.approx(100 / 1000)
        assert receipts.verify(result.document, None, {}) == []
        assert set(result.document["receipt"]["nodes"]) == {"ansm", "cnam"}
