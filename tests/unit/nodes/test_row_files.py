"""Nothing of a person stays on a node's disk when its process ends, however it ends.

A process of its own reads a producer's file and is killed with SIGKILL; then every file that it
could have written is searched for a known identifier."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nodes import connectors, row_files
from nodes import site as sites
from nodes.site import Storage

IDENTIFIERS = b"1850399350123"  # every identifier of the file begins with it
ROWS = 400_000
CONTRACT = """dataset: people
version: 1
person: nir
columns:
  nir: {type: string}
  name: {type: string}
"""
NODE = """node: lyon
datasets:
  people: {contract: people.yaml, source: people.zip, read: {encoding: latin-1}}
"""
# Tells when its copy of the file is complete, or when it is in the middle of a query.
READER = """
import sys, time
from pathlib import Path
from nodes import connectors, daemon
from nodes import site as sites

def told(*_):
    print("now", flush=True)
    time.sleep(600)

site = sites.load(Path(sys.argv[1]))
(dataset,) = site.datasets.values()
if sys.argv[2] == "copy":
    connectors._make = told
connection = connectors.connect_to(dataset, site.storage)
connectors.open_rows(connection, dataset, ["nir", "name"])
connection.execute("CREATE TEMP TABLE longer AS SELECT *, nir || name AS both FROM source")
told()
"""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """node.yaml of a node whose producer's file is an archive in latin-1, so that it is copied."""
    folder = tmp_path / "node"
    folder.mkdir()
    rows = "\n".join(f"{IDENTIFIERS.decode()}{i:06d},n\xe9e {i * 7919 % ROWS}" for i in range(ROWS))
    with zipfile.ZipFile(folder / "people.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        out.writestr("people.csv", f"nir,name\n{rows}\n".encode("latin-1"))
    (folder / "people.yaml").write_text(CONTRACT)
    return folder / "node.yaml"


def killed(node: Path, moment: str) -> list[Path]:
    """The folders in which a reader that was killed at this moment could have left files."""
    folders = [node.parent / "state", *(node.parents[1] / name for name in ("cwd", "machine"))]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    surroundings = {
        **os.environ,
        "TMPDIR": str(folders[2]),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    arguments = [sys.executable, "-c", READER, str(node), moment]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, cwd=folders[1], env=surroundings
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"now\n"
        reader.send_signal(signal.SIGKILL)
    return folders


def left(folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def test_a_copy_of_a_source_is_gone_with_its_process(node: Path) -> None:
    node.write_text(NODE)
    folders = killed(node, "copy")
    assert not [path for path in left(folders) if IDENTIFIERS in path.read_bytes()]


def test_rows_that_went_to_the_disk_are_unreadable_after_a_kill_and_swept_at_the_next_start(
    node: Path,
) -> None:
    node.write_text(f"{NODE}storage: {{memory_limit: 30MB, max_temp_directory_size: 1GB}}\n")
    folders = killed(node, "query")
    files = left(folders)
    assert sum(path.stat().st_size for path in files) > ROWS  # it has written rows
    assert not [path for path in files if IDENTIFIERS in path.read_bytes()]
    storage = sites.load(node).storage
    assert storage.temp_directory == folders[0] / "tmp"
    assert row_files.sweep(storage.temp_directory) == 1
    assert not left(folders)


def test_no_row_goes_to_the_disk_unless_node_yaml_says_so(node: Path) -> None:
    node.write_text(f"{NODE}storage: {{memory_limit: 20MB}}\n")
    site = sites.load(node)
    (dataset,) = site.datasets.values()
    with pytest.raises(Exception, match=r"raise it in node\.yaml, or give") as refused:
        connectors.open_rows(connectors.connect_to(dataset, site.storage), dataset, ["nir", "name"])
    assert IDENTIFIERS.decode() not in str(refused.value)


def test_the_folder_of_an_engine_stays_as_long_as_its_process_lives(tmp_path: Path) -> None:
    mine = row_files.private_folder(tmp_path)
    other = tmp_path / f"{row_files.PREFIX}of-a-killed-process"
    other.mkdir()
    (other / row_files.LOCK).touch()
    (tmp_path / f"{row_files.PREFIX}of-nobody").mkdir()  # no lock: it is not ours
    assert row_files.sweep(tmp_path) == 1
    assert mine.exists() and not other.exists()
    assert (tmp_path / f"{row_files.PREFIX}of-nobody").exists()


def test_copies_free_their_files(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with row_files.folder(tmp_path) as folder:
        for number in range(5):
            copy = row_files.copy(folder / f"{number}.csv")
            copy.write_text("row")
            assert copy.read_text() == "row"
    assert not list(tmp_path.iterdir())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_source_without_copies_makes_no_folder(tmp_path: Path) -> None:
    with row_files.folder(tmp_path / "later") as folder:
        assert not folder.parent.exists()
        row_files.copy(folder / "0.csv").write_text("row")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not list((tmp_path / "later").iterdir())


def test_a_storage_of_a_simulation_may_write_rows_to_the_machines_folder() -> None:
    connection = connectors.connect(Storage())
    query = "SELECT current_setting('temp_directory'), current_setting('max_temp_directory_size')"
    ((folder, size),) = connection.execute(query).fetchall()
    assert Path(folder).name.startswith(row_files.PREFIX) and size == "18.6 GiB"
