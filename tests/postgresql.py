"""A real PostgreSQL server of the tests' own, on a socket in a private folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def running(home: Path) -> Iterator[str]:
    """Its URL; `home` is an empty folder."""
    programs = _programs()
    shutil.chown(home, "nobody") if os.getuid() == 0 else None
    for parent in home.parents:
        if parent != Path("/") and str(parent).startswith("/tmp/") and os.getuid() == 0:
            parent.chmod(0o755)
    as_user = (
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        if os.getuid() == 0
        else []
    )
    environment = {**os.environ, "HOME": str(home), "LC_ALL": "C.UTF-8"}
    run: dict[str, Any] = {
        "check": True,
        "env": environment,
        "cwd": str(home),
        "stdout": subprocess.DEVNULL,
    }
    subprocess.run(
        [
            *as_user,
            f"{programs}initdb",
            "-D",
            f"{home}/data",
            "-U",
            "hdh",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ],
        **run,
    )
    subprocess.run(
        [
            *as_user,
            f"{programs}pg_ctl",
            "-D",
            f"{home}/data",
            "-w",
            "-l",
            f"{home}/log",
            "-o",
            f"-k {home} -c listen_addresses=''",
            "start",
        ],
        **run,
    )
    try:
        yield f"postgresql:///postgres?host={home}&user=hdh"
    finally:
        subprocess.run(
            [*as_user, f"{programs}pg_ctl", "-D", f"{home}/data", "-m", "immediate", "stop"], **run
        )


def fresh_database(url: str) -> str:
    """The URL of a new, empty database of that server."""
    import psycopg

    name = f"d{os.urandom(6).hex()}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
    return url.replace("///postgres?", f"///{name}?")


def _programs() -> str:
    """The folder of initdb; installs Debian's postgresql where there is none."""
    if not shutil.which("initdb") and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        if os.getuid() != 0 or not shutil.which("apt-get"):
            pytest.fail(
                "no PostgreSQL server on this machine: install one (Debian:"
                " apt-get install postgresql)"
            )
        subprocess.run(
            [
                "sh",
                "-c",
                "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq"
                " postgresql",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return f"{programs[-1].parent}/" if programs else ""
