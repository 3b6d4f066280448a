"""The wheel holds exactly the five packages, and a small core; the offline bundle installs where
there is no network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import bill, dist
from federation import errors, installation

ROOT = Path(__file__).parents[2]
FIXED = {"flwr", "grpcio", "numpy", "scikit-learn", "pyyaml"}  # in every installation
# A coordinator installs none of these.
HEAVY = {"matplotlib", "opacus", "opendp", "ray", "safetensors", "torch"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_exactly_the_five_packages(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(
        installation.PACKAGES
    )


def test_the_wheel_holds_every_file_of_the_packages_that_is_under_version_control(
    wheel: zipfile.ZipFile,
) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--", *installation.PACKAGES], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a checkout")
    assert set(listed.stdout.splitlines()) - set(wheel.namelist()) == set()


def test_what_every_machine_installs_is_small(wheel: zipfile.ZipFile) -> None:
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    fields = HeaderParser().parsestr(wheel.read(path).decode())
    needs = [Requirement(text) for text in fields.get_all("Requires-Dist", [])]
    core = {canonicalize_name(need.name) for need in needs if "extra ==" not in str(need.marker)}
    extra = {canonicalize_name(need.name) for need in needs} - core
    assert core >= FIXED and not core & HEAVY and extra >= HEAVY - {"ray"}
    assert set(fields.get_all("Provides-Extra", [])) >= {
        extra for extras in dist.ROLES.values() for extra in extras
    }


def test_a_shadowed_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.check()
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from federation import installation;"
        " installation.check()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (
        done.returncode != 0
        and errors.SetupError.__name__ in done.stderr
        and "'nodes'" in done.stderr
    )


def test_windows_is_told_where_to_install_instead() -> None:
    code = "import sys; sys.platform = 'win32'; import federation"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode and "ImportError: hdh-federation runs on Linux" in done.stderr
    assert "WSL 2" in done.stderr


# -- what a bundle is made of
def test_every_locked_version_is_the_one_that_the_tests_use() -> None:
    """Of what constraints.txt names; uv finds what it does not name."""
    constraints = dist.pins_of((ROOT / "constraints.txt").read_text())
    versions = {canonicalize_name(pin.partition("==")[0]): pin for pin in constraints}
    locked = dist.locked_hashes(dist.LOCKED.read_text())
    other = {
        pin: versions[name]
        for pin in locked
        if (name := canonicalize_name(pin.partition("==")[0])) in versions
        and versions[name].partition("==")[2] != pin.partition("==")[2]
    }
    assert not other, f"run `make lock`: {other}"
    digests = [digest for files in locked.values() for digest in files]
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests)


def test_requirements_ask_for_hashes_and_mark_what_some_pythons_do_without() -> None:
    needs = [
        dist.Need("node", "3.11", frozenset({"a==1", "b==2"})),
        dist.Need("node", "3.12", frozenset({"a==1"})),
        dist.Need("hub", "3.12", frozenset({"c==3"})),
    ]
    hashes = {"a==1": ["sha256:2", "sha256:1"], "b==2": ["sha256:3"], "c==3": ["sha256:4"]}
    text = dist.requirements("node", needs, hashes, "own==0")
    assert text.splitlines()[1:] == [
        "own==0",
        "a==1 \\",
        "    --hash=sha256:1 \\",
        "    --hash=sha256:2",
        'b==2 ; python_version == "3.11" \\',
        "    --hash=sha256:3",
    ]
    assert dist.locked_hashes(text)["a==1"] == ["sha256:1", "sha256:2"]


def _wheel(folder: Path, name: str, metadata: str, licence: str) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        head = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n"
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"{head}{metadata}\n\nLong text")
        archive.writestr(f"{name}-1.0.dist-info/licenses/LICENSE", licence)
    return path


def test_the_bill_of_materials_is_cyclonedx_with_the_licence_and_hash_of_each_wheel(
    tmp_path: Path,
) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    (tmp_path / "wheels").mkdir()
    wheels = tmp_path / "wheels"
    _wheel(wheels, "hdh_federation", "License-Expression: Apache-2.0", "Apache")
    other = _wheel(wheels, "other", "Classifier: License :: OSI Approved :: MIT License", "MIT!")
    bill.write(tmp_path)
    text = (tmp_path / "sbom.cdx.json").read_text()
    problem = validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem
    (component,) = json.loads(text)["components"]
    assert component["purl"] == "pkg:pypi/other@1.0"
    assert component["licenses"] == [{"license": {"name": "MIT License"}}]
    assert f"sha256:{component['components'][0]['hashes'][0]['content']}" == dist.digest(other)
    assert "MIT!" in (tmp_path / "LICENCES.txt").read_text()


def test_the_same_files_make_the_same_archive_whenever_and_by_whom(tmp_path: Path) -> None:
    digests = set()
    for number, place in enumerate(("here", "there")):
        folder = tmp_path / place / "bundle"
        (folder / "wheels").mkdir(parents=True)
        for name in ("b", "a")[:: 1 - 2 * number]:
            (folder / "wheels" / name).write_text(name)
            os.utime(folder / "wheels" / name, (number, number))
        (folder / "wheels" / "a").chmod(0o600 + 0o44 * number)
        dist.write_sums(folder)
        dist._pack(folder, tmp_path / f"{place}.tar")
        digests.add(dist.digest(tmp_path / f"{place}.tar"))
    assert len(digests) == 1


# -- `make dist-test`, after `make dist`
BUNDLE = next(iter(dist.DIST.glob("*-offline-*.tar")), None)
NO_NETWORK = ["unshare", "--map-root-user", "--net"]
STUDY = ROOT / "simulations" / "pilots" / "pimpon"
WITHOUT = {
    "coordinator": HEAVY,
    "simulation": {"torch", "ray", "opacus"},
    "node": {"matplotlib", "torch", "ray", "opacus"},
    "hub": {"opendp", "torch", "ray", "opacus"},
}


def interpreters() -> list[str]:
    """The Pythons of this machine for which the bundle has wheels."""
    homes = [*os.environ.get("PATH", "").split(os.pathsep)]
    homes += [str(path / "bin") for path in Path.home().glob(".pyenv/versions/3.*")]
    executables = {}
    for python in dist.PYTHONS:
        for home in homes:
            path = Path(home) / f"python{python}"
            if path.exists() and "shims" not in home:
                executables.setdefault(python, str(path))
    return sorted(executables.values())


def _offline(*command: str, folder: Path) -> str:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [*NO_NETWORK, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if BUNDLE is None or shutil.which("unshare") is None:
        pytest.skip("run `make dist` first; the network is cut by unshare")
    folder = tmp_path_factory.mktemp("bundle")
    with tarfile.open(BUNDLE) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


@pytest.mark.slow
def test_every_file_of_the_bundle_has_its_checksum_and_the_bill_is_valid(unpacked: Path) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    for folder in (unpacked, dist.DIST):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    text = (unpacked / "sbom.cdx.json").read_text()
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    unnamed = [
        component["name"]
        for component in json.loads(text)["components"]
        if not component["licenses"][0]["license"]["name"]
    ]
    assert not unnamed


@pytest.mark.slow
@pytest.mark.parametrize("role", dist.ROLES)
@pytest.mark.parametrize("python", interpreters(), ids=lambda path: Path(path).name)
def test_the_bundle_installs_and_works_without_a_network(
    python: str, role: str, unpacked: Path, tmp_path: Path
) -> None:
    """As docs/install.md says: a bare environment, no index, hashes required."""
    _offline(python, "-m", "venv", "hdh", folder=tmp_path)
    installing = ["--no-index", "--find-links", str(unpacked / "wheels"), "--require-hashes"]
    wanted = str(unpacked / f"requirements-{role}.txt")
    _offline(
        "hdh/bin/pip",
        "install",
        "--quiet",
        "--no-compile",
        *installing,
        "-r",
        wanted,
        folder=tmp_path,
    )
    _offline("hdh/bin/pip", "check", folder=tmp_path)
    listed = json.loads(_offline("hdh/bin/pip", "list", "--format", "json", folder=tmp_path))
    installed = {canonicalize_name(package["name"]) for package in listed}
    assert not installed & WITHOUT[role] and installed >= FIXED
    assert "hdh-federation" in _offline("hdh/bin/hdh", "--version", folder=tmp_path)
    for command in WORKS[role]:
        _offline("hdh/bin/hdh", *command, folder=tmp_path)
    print(f"{role} {Path(python).name}: {_megabytes(tmp_path / 'hdh')} MB")


WORKS: dict[str, Sequence[Sequence[str]]] = {
    "coordinator": [["study", "check", str(STUDY / "study.yaml")]],
    "simulation": [["simulate", "pimpon", "--variant", "private", "--out", "out"]],
    "node": [["node", "init", "lyon", "--dir", "lyon"], ["node", "check", "lyon/node.yaml"]],
    "hub": [["hub", "init", "hub"], ["hub", "nodes", "--hub-dir", "hub"]],
}


def _megabytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 10**6


@pytest.mark.slow
def test_a_changed_wheel_is_not_installed(unpacked: Path, tmp_path: Path) -> None:
    changed = tmp_path / "wheels"
    shutil.copytree(unpacked / "wheels", changed)
    victim = next(iter(changed.glob("typer-*.whl")))
    with zipfile.ZipFile(victim, "a") as archive:
        archive.writestr("typer/more.py", "")
    _offline(sys.executable, "-m", "venv", "hdh", folder=tmp_path)
    with pytest.raises(AssertionError, match="DO NOT MATCH THE HASHES"):
        _offline(
            "hdh/bin/pip", "install", "--no-index", "--find-links", str(changed),
            "--require-hashes", "-r", str(unpacked / "requirements-coordinator.txt"),
            folder=tmp_path,
        )  # fmt: skip
