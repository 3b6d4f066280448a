"""The example distribution of docs/examples in the environment of a hub and of its nodes: real
processes, TLS, enrolment, signed hashes, policies."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest

from tests import deployed_extensions

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "hdh-example"


def environment_with(package: Path, folder: Path) -> Path:
    """The Python of a new environment in which pip has installed a package beside hdh."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    libraries = [str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (site / "hdh.pth").write_text("\n".join(dict.fromkeys(libraries)) + "\n")
    for script in metadata.distribution("flwr").entry_points.select(group="console_scripts"):
        path = folder / "bin" / script.name  # the programs that a hub starts beside its Python
        path.write_text(
            f"#!{python}\nimport sys\nfrom {script.module} import {script.attr}\n"
            f"sys.exit({script.attr}())\n"
        )
        path.chmod(0o755)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(package)], check=True, capture_output=True)
    return python


@pytest.mark.slow
def test_a_study_uses_a_network_an_analysis_and_a_strategy_through_a_hub(tmp_path: Path) -> None:
    python = environment_with(EXAMPLE, tmp_path / "environment")
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [python, "-m", "tests.deployed_extensions", str(EXAMPLE), str(tmp_path / "work")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    played = json.loads(done.stdout)
    digests = {each["key"]: each["digest"] for each in played["extensions"]}
    assert set(digests) == {"analyses.event_share", "networks.residual", "strategies.capped"}
    document = played["result"]
    assert document is not None, played["submitted"]
    (share,) = document["analyses"]["share"]["tables"]["share"]
    assert share["estimate"] == pytest.approx(played["died"], abs=1e-12)
    history = document["analyses"]["network"]["tables"]["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    signed = {each["key"]: each["digest"] for each in document["provenance"]["extensions"]}
    assert signed == digests
    # the node whose policy allows none gives nothing, and its coordinator reads the reason
    assert document["provenance"]["nodes"] == list(deployed_extensions.OPEN)
    refusal = f"{deployed_extensions.CLOSED}.*analyses.event_share is not allowed here"
    assert re.search(refusal, " ".join(played["status"].split())), played["status"]
