"""The extensions that are installed on this machine."""

from __future__ import annotations

from federation.cli import screen
from federation.cli.screen import print
from federation.extensions import Extension
from strategies import installed

SHOWN = ("key", "distribution", "version", "digest", "problem")


def show(output: str) -> None:
    extensions = installed.every()
    if output == "json":
        documents = [{name: getattr(each, name) for name in SHOWN} for each in extensions]
        screen.document(documents)
        return
    if not extensions:
        print("No network, analysis or strategy is installed here beside those of hdh.")
    for extension in extensions:
        for line in _lines(extension):
            print(line)


def _lines(extension: Extension) -> list[str]:
    lines = [str(extension)]
    if extension.digest:
        lines.append(f"  hash {extension.digest}")
    return [*lines, f"  cannot be used: {extension.problem}"] if extension.problem else lines
