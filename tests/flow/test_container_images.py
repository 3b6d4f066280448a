"""The image of the hub, built by buildah on a Debian that debootstrap makes, without a registry.

It takes ten minutes, root, and the package servers of Debian and Python; without these it is
skipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import dist

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/debian:bookworm-slim"  # as the Containerfiles name it
MIRROR = "deb.debian.org"


def can_build() -> bool:
    try:
        socket.getaddrinfo(MIRROR, 80)
    except OSError:
        return False
    tools = all(shutil.which(tool) for tool in ("buildah", "debootstrap"))
    return tools and os.geteuid() == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not can_build(), reason=f"needs root, {MIRROR}, and apt-get install buildah debootstrap"
    ),
]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


class Builder:
    """buildah with images of its own below `folder`, and processes in a chroot."""

    def __init__(self, folder: Path) -> None:
        places = ["--root", str(folder / "images"), "--runroot", str(folder / "run")]
        self.buildah = ["buildah", *places, "--storage-driver", "vfs"]

    def __call__(self, command: str, *arguments: str) -> str:
        chroot = ["--isolation", "chroot"] if command in ("bud", "run") else []
        return run(*self.buildah, command, *chroot, *arguments)

    def base(self, folder: Path) -> None:
        """Debian's minimal system, under the name that the Containerfiles start from."""
        system = folder / "debian"
        run("debootstrap", "--variant=minbase", "bookworm", str(system), f"http://{MIRROR}/debian")
        container = self("from", "scratch")
        self("copy", "--quiet", container, str(system), "/")
        self("commit", "--quiet", container, BASE)
        self("rm", container)


def bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make dist` packs for the hub under the Python of Debian."""
    monkeypatch.setattr(dist, "PYTHONS", ("3.11",))
    monkeypatch.setattr(dist, "ROLES", {"hub": dist.ROLES["hub"]})
    hashes, needs = dist.locked_hashes(dist.LOCKED.read_text()), dist.resolve()
    dist.download(needs, folder / "wheels", hashes)
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--outdir",
        str(folder),
        str(ROOT),
    )
    (built,) = folder.glob("*.whl")
    wheel = built.rename(folder / "wheels" / built.name)
    version = dist.parse_wheel_filename(wheel.name)[1]
    first = dist._with_hashes(f"hdh-federation=={version}", [dist.digest(wheel)])
    (folder / "requirements-hub.txt").write_text(dist.requirements("hub", needs, hashes, first))


def test_the_image_of_the_hub_is_built_and_makes_a_hub_as_nobody_special(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "bundle"
    packed.mkdir()
    bundle(packed, monkeypatch)
    builder = Builder(tmp_path)
    builder.base(tmp_path)
    file = str(ROOT / "deploy" / "containers" / "Containerfile.hub")
    builder("bud", "--pull-never", "-f", file, "-t", "hdh-hub", str(packed))
    container = builder("from", "--pull-never", "localhost/hdh-hub")
    assert builder("run", container, "--", "id", "-u") == "10001"
    output = builder("run", container, "--", "hdh", "hub", "init", "/srv/hub")
    assert "Hub created in /srv/hub" in output
    report = builder("run", container, "--", "hdh", "doctor", "/srv/hub")
    assert "authority" in report
