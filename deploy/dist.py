"""`make dist`: the wheel, the offline bundle and their checksums, in dist/.

The bundle holds a wheel of each package that a role needs, for CPython 3.11 to 3.13 on Linux
x86-64, requirements with hashes for each role, the bill of materials and the licences.
`deploy/locked.txt` holds the versions and the hashes that a bundle may contain; `make lock` writes
it from constraints.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from deploy import bill

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
LOCKED = ROOT / "deploy" / "locked.txt"
PYTHONS = ("3.11", "3.12", "3.13")
ROLES: Mapping[str, Sequence[str]] = {  # extras
    "coordinator": (),
    "simulation": ("simulation",),
    "node": ("node", "files", "postgres"),
    "hub": ("hub", "postgres"),
}
PLATFORM = "x86_64-manylinux_2_28"
TAGS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64")
MADE_AT = 315532800  # 1980-01-01, the first time that a zip can hold; the same bytes each time
DOCUMENTS = ("docs/install.md", "docs/operations.md", "CHANGELOG.md", "LICENSE")

Pins = frozenset[str]  # as in `numpy==2.4.6`
Hashes = Mapping[str, Sequence[str]]  # by pin


@dataclass(frozen=True)
class Need:
    """The packages of a role under one version of Python."""

    role: str
    python: str
    pins: Pins


# -- pure
def pins_of(text: str) -> Pins:
    """The pins of a requirements file, without markers, hashes and comments."""
    return frozenset(re.findall(r"(?m)^([A-Za-z0-9._-]+==[^\s;\\]+)", text))


def locked_hashes(text: str) -> dict[str, list[str]]:
    """The hashes of each pin in locked.txt."""
    hashes: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        pin, *options = line.split() or [""]
        if "==" in pin:
            hashes[pin] = [
                option.removeprefix("--hash=") for option in options if option.startswith("--hash=")
            ]
    return hashes


def requirements(role: str, needs: Iterable[Need], hashes: Hashes, first: str) -> str:
    """The requirements of a role with hashes. `first`: the line of hdh-federation itself. A
    package that some versions of Python do without has a marker."""
    pythons: dict[str, list[str]] = {}
    of_role = [need for need in needs if need.role == role]
    for need in of_role:
        for pin in need.pins:
            pythons.setdefault(pin, []).append(need.python)
    lines = [f"# What a {role} installs; see install.md", first]
    for pin, versions in sorted(pythons.items(), key=lambda item: item[0].lower()):
        tests = " or ".join(f'python_version == "{version}"' for version in sorted(versions))
        marker = f" ; {tests}" if len(versions) < len(of_role) else ""
        lines.append(_with_hashes(pin + marker, hashes[pin]))
    return "\n".join(lines) + "\n"


def _with_hashes(requirement: str, hashes: Sequence[str]) -> str:
    return " \\\n".join([requirement, *(f"    --hash={digest}" for digest in sorted(hashes))])


def pin_of(wheel: Path, pins: Iterable[str]) -> str:
    """The pin that a wheel fulfils, in the spelling of the pins."""
    name, version, _, _ = parse_wheel_filename(wheel.name)
    for pin in pins:
        project, _, wanted = pin.partition("==")
        if canonicalize_name(project) == name and wanted == str(version):
            return pin
    raise SystemExit(f"{wheel.name} was downloaded, and no role needs it")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


# -- effects
def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def resolve() -> list[Need]:
    """What each role needs under each version of Python, within constraints.txt."""
    uv = str(Path(sys.executable).with_name("uv"))
    needs = []
    for role, extras in ROLES.items():
        options = [option for extra in extras for option in ("--extra", extra)]
        for python in PYTHONS:
            text = _run(
                uv, "pip", "compile", "--quiet", "--system-certs", "--no-annotate", "--no-header",
                "--python-version", python, "--python-platform", PLATFORM,
                "--constraint", "constraints.txt", "--only-binary", ":all:", *options,
                "pyproject.toml",
            )  # fmt: skip
            needs.append(Need(role, python, pins_of(text)))
    return needs


def download(needs: Sequence[Need], wheels: Path, hashes: Hashes | None) -> None:
    """Downloads the wheels of each version of Python; with `hashes`, no file that they do not
    name."""
    wheels.mkdir(parents=True, exist_ok=True)
    for python in PYTHONS:
        pins = sorted(set().union(*(need.pins for need in needs if need.python == python)))
        wanted = wheels.parent / f"download-{python}.txt"
        wanted.write_text(
            "\n".join(_with_hashes(pin, hashes[pin]) if hashes else pin for pin in pins)
        )
        digits = python.replace(".", "")
        abis = [option for abi in (f"cp{digits}", "abi3", "none") for option in ("--abi", abi)]
        platforms = [option for tag in TAGS for option in ("--platform", tag)]
        _run(
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
            "--python-version", python, "--implementation", "cp", *abis, *platforms,
            *(["--require-hashes"] if hashes else []), "--dest", str(wheels),
            "--requirement", str(wanted),
        )  # fmt: skip
        wanted.unlink()


def lock() -> None:
    """Writes deploy/locked.txt from constraints.txt and the index of packages."""
    build = _empty(ROOT / "build" / "lock")
    needs = resolve()
    download(needs, build / "wheels", None)
    pins = set().union(*(need.pins for need in needs))
    hashes: dict[str, list[str]] = {}
    for wheel in sorted((build / "wheels").iterdir()):
        hashes.setdefault(pin_of(wheel, pins), []).append(digest(wheel))
    lines = [_with_hashes(pin, digests) for pin, digests in sorted(hashes.items())]
    header = "# Written by `make lock` from constraints.txt: the wheels of an offline bundle.\n"
    LOCKED.write_text(header + "\n".join(lines) + "\n")


def bundle() -> None:
    """Writes the wheel, the offline bundle and SHA256SUMS into dist/."""
    _empty(DIST)
    python = sys.executable
    _run(python, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(DIST), str(ROOT))
    (wheel,) = DIST.glob("*.whl")
    version = parse_wheel_filename(wheel.name)[1]
    name = f"hdh-federation-{version}-offline-linux-x86_64"
    folder = _empty(ROOT / "build" / name)
    hashes, needs = locked_hashes(LOCKED.read_text()), resolve()
    if missing := sorted(set().union(*(need.pins for need in needs)) - set(hashes)):
        raise SystemExit(f"deploy/locked.txt lacks {', '.join(missing)}: run `make lock`")
    download(needs, folder / "wheels", hashes)
    shutil.copy2(wheel, folder / "wheels")
    first = _with_hashes(f"hdh-federation=={version}", [digest(wheel)])
    for role in ROLES:
        text = requirements(role, needs, hashes, first)
        (folder / f"requirements-{role}.txt").write_text(text)
    for document in DOCUMENTS:
        shutil.copy2(ROOT / document, folder)
    bill.write(folder)
    write_sums(folder)
    _pack(folder, DIST / f"{name}.tar")
    write_sums(DIST)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_sums(folder: Path) -> None:
    """SHA256SUMS of all files below the folder, as `sha256sum --check` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{digest(path).removeprefix('sha256:')}  {path.relative_to(folder).as_posix()}\n"
        for path in files
        if path.name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def _pack(folder: Path, archive: Path) -> None:
    """The files in one order, without owners and times. Wheels are compressed already."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime, entry.mode = MADE_AT, 0o755 if entry.isdir() else 0o644
        return entry

    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in [folder, *sorted(folder.rglob("*"))]:
            arcname = path.relative_to(folder.parent).as_posix()
            tar.add(path, arcname, recursive=False, filter=plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", action="store_true", help="write deploy/locked.txt instead")
    if parser.parse_args().lock:
        lock()
    else:
        bundle()
        print("\n".join(sorted(path.name for path in DIST.iterdir())))


if __name__ == "__main__":
    main()
