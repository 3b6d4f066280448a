"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

Format = Literal["text", "json"]
Output = Annotated[
    Format, typer.Option("--format", help="Print text for people or JSON for programs.")
]
Site = Annotated[
    Path, typer.Option("--site", metavar="NODE.yaml", help="The node's configuration file.")
]
HubDir = Annotated[Path, typer.Option("--hub-dir", metavar="DIR", help="The hub's folder.")]
Keys = Annotated[
    Optional[Path],
    typer.Option(
        "--keys",
        metavar="DIR",
        help="The folder that holds your keys. Default: the folder HDH_HOME, or ~/.hdh.",
    ),
]
LogFormat = Annotated[
    Format,
    typer.Option(
        "--log-format", help="Format of the log on the screen; the log file is always JSON lines."
    ),
]
MaxEntries = Annotated[
    int,
    typer.Option(
        "--max-entries", metavar="N", min=1, help="Show at most this many entries, the latest ones."
    ),
]
StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study.")]
ContractFile = Annotated[
    Optional[Path],
    typer.Option(
        "--contract",
        metavar="FILE",
        help="The contract of the study's dataset. Default: DATASET.yaml beside the study.",
    ),
]
EnrolmentHub = Annotated[
    str,
    typer.Option(
        "--hub", metavar="HOST:PORT", help="Address of the hub's enrolment port, usually 8445."
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token", metavar="TOKEN", help="The invitation that the hub's operator sent you."
    ),
]
