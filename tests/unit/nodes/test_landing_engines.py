"""The engines that raw tables are landed from: each has its line in docs/mapping.md, and its
driver is an extra or Python's own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from nodes import engines

ROOT = Path(__file__).parents[3]
TESTED = {"postgresql", "sqlite"}  # by tests/flow/test_mapping.py


def test_the_table_of_engines_says_what_each_needs_and_which_are_tested() -> None:
    text = (ROOT / "docs" / "mapping.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `\w+://.*?` \| (.*?) \| (yes|no) \|$", text, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert {engine for engine, _, _ in rows} == set(engines.ENGINES)
    assert {engine for engine, _, tested in rows if tested == "yes"} == TESTED
    for engine, driver, _ in rows:
        package = engines.ENGINES[engine].package
        extra = re.fullmatch("extra `(.*)`", driver)
        assert driver == package if extra is None else extras[extra[1]][0].startswith(package)
    for imported in ("thrift", "thrift-sasl", "pure-sasl"):  # pyhive declares none of them itself
        assert any(each.startswith(f"{imported}>=") for each in extras["spark"])
