"""`make docs`: the site builds without a warning, and its reference has what the code has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.site import hooks
from federation import __version__
from strategies import registry

ROOT = Path(__file__).parents[2]


def build(site: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    done = build(folder, HDH_SITE_LANGUAGE="en")
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_the_site_has_its_version_and_a_search_and_loads_nothing_from_elsewhere(
    site: Path,
) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert f"hdh-federation {__version__}" in home
    assert (
        re.findall(r'(?:<script[^>]*src|<link[^>]*rel="stylesheet"[^>]*href)="https?:', home) == []
    )
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"privacy.html", "reference/commands.html", "tutorials/laptop.html"} <= places


def test_no_line_breaks_before_a_sign_that_french_sets_off() -> None:
    """Nor inside quotation marks; code stays as it is."""
    html = (
        '<p>Ici : <code>a : b</code> « x » 5 % ?</p><pre><code>k : v</code></pre><a title="a : b">'
    )
    assert hooks.on_page_content(html) == (
        "<p>Ici\u00a0: <code>a : b</code> «\u00a0x\u00a0» 5\u00a0%\u00a0?</p>"
        '<pre><code>k : v</code></pre><a title="a : b">'
    )


def test_the_reference_has_every_command_analysis_verb_key_and_refusal(site: Path) -> None:
    pages = {
        path.stem: path.read_text(encoding="utf-8")
        for path in (site.with_name("site-pages") / "reference").glob("*.md")
    }
    assert [name for name in registry.ANALYSES if f"\n## {name}\n" not in pages["analyses"]] == []
    for page, heading in (
        ("commands", "## hdh simulate"),
        ("commands", "## hdh node dataset add"),
        ("commands", "| `--split-by COLUMN` |"),
        ("python", "## fed.simulate"),
        ("python", "### Study.cox"),
        ("yaml", "## hub.yaml"),
        ("yaml", "| `max_epsilon` | number, more than 0 | `1.0` |"),
        ("refusals", "| `cohort_size` |"),
        ("refusals", "ReceiptError   8"),
    ):
        assert f"\n{heading}" in pages[page] or heading in pages[page], heading


@pytest.mark.slow
def test_both_languages_build_without_a_warning(tmp_path: Path) -> None:
    done = build(tmp_path / "site")
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    french = (tmp_path / "site" / "fr" / "index.html").read_text(encoding="utf-8")
    assert 'lang="fr"' in french and "Tutoriels" in french
    assert f"- hdh-federation {__version__}</title>" in french
