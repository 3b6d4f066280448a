"""What mkdocs adds to docs/: the reference from the code, and the documents of the repository."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from docs.site import reference  # noqa: E402 - found through the line above
from federation import __version__  # noqa: E402

CODE = re.compile(r"(<(pre|code|script|style)\b.*?</\2>|<[^>]*>)", re.DOTALL)
OF_THE_REPOSITORY = (
    "CHANGELOG",
    "CONTRIBUTING",
    "DECISIONS",
    "GLOSSARY.fr",
    "GLOSSARY",
    "SECURITY",
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Assembles the pages beside the site: the plugin of languages takes files on disk only.

    mkdocs calls it once for each language, with the configuration of the one before."""
    site = Path(config.site_dir)
    config.docs_dir = str(assemble(site.with_name(f"{site.name}-pages")))
    config.site_name = f"{config.site_name.removesuffix(__version__).strip()} {__version__}"
    return config


def assemble(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("site", "__pycache__"))
    for path, text in (reference.pages() | _of_the_repository()).items():
        page = folder / path
        page.parent.mkdir(exist_ok=True)
        page.write_text(text, encoding="utf-8")
    return folder


def _of_the_repository() -> dict[str, str]:
    return {
        f"project/{name.lower()}.md": _moved((ROOT / f"{name}.md").read_text(encoding="utf-8"))
        for name in OF_THE_REPOSITORY
    }


def _moved(text: str) -> str:
    """The links of a document of the root, as they are from project/."""
    text = re.sub(r"\]\(docs/", "](../", text)
    return re.sub(rf"\]\(({'|'.join(OF_THE_REPOSITORY)})\.md", _lowered, text)


def _lowered(link: re.Match[str]) -> str:
    return f"]({link[1].lower()}.md"


def on_page_content(html: str, **_: object) -> str:
    """A line does not break before the signs that French writes behind a space, nor within its
    quotation marks."""
    parts = CODE.split(html)
    for at in range(0, len(parts), 3):  # text, the code or tag behind it, its name
        parts[at] = re.sub(r" ([;:?!%»])", "\u00a0\\1", parts[at]).replace("« ", "«\u00a0")
        if at + 2 < len(parts):
            parts[at + 2] = ""
    return "".join(part or "" for part in parts)
