"""Arguments and options of `hdh simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

DEFAULT_OUT = Path("out/simulate")

StudyOrPilot = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="A study.yaml, or the name of a pilot as `hdh pilots` lists it."
    ),
]
OneTable = Annotated[
    Optional[Path],
    typer.Option(
        "--data", metavar="FILE", help="One table, split into nodes by the column --split-by."
    ),
]
NodeColumn = Annotated[
    Optional[str],
    typer.Option("--split-by", metavar="COLUMN", help="The column of --data that names the node."),
]
NodeCount = Annotated[
    Optional[int],
    typer.Option(
        "--nodes",
        metavar="N",
        min=1,
        help="Group the values of --split-by into this many nodes.",
    ),
]
NodeTables = Annotated[
    Optional[list[str]],
    typer.Option(
        "--node",
        metavar="NAME=FILE",
        help="The name of one node and its table, or its node.yaml; repeatable.",
    ),
]
Readings = Annotated[
    Optional[list[str]],
    typer.Option(
        "--read",
        metavar="[NAME=]FILE",
        help="How the tables of --node are written, or that of one node: the `read:` keys that "
        "`hdh node draft` writes; repeatable.",
    ),
]
Variant = Annotated[
    str,
    typer.Option(
        "--variant",
        metavar="VARIANT",
        help="Study of a pilot: study (exact), private (with noise) or real (on real data).",
    ),
]
Size = Annotated[
    Literal["small", "full"],
    typer.Option("--size", help="How many synthetic people a pilot has: a few thousand, or all."),
]
Seed = Annotated[
    int,
    typer.Option("--seed", metavar="N", help="Seed of a pilot's generator of synthetic people."),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Nodes hide small cells from the hub, as real nodes do by default."
    ),
]
Engine = Annotated[
    Literal["local", "flower", "ray"],
    typer.Option(
        "--engine",
        help="local: in this process. flower: a SuperLink and one process per node. "
        "ray: Flower's Ray runtime.",
    ),
]
Workers = Annotated[
    Optional[int],
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Number of processes that train networks. Default: one per core.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", metavar="DIR", help="Folder for report.html, result.json and the tables."
    ),
]
