"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

Format = Literal["text", "json"]
Output = Annotated[Format, typer.Option("--format", help="What to print.")]
Site = Annotated[
    Path, typer.Option("--site", metavar="NODE.yaml", help="The node's configuration.")
]
HubDir = Annotated[Path, typer.Option("--hub-dir", metavar="DIR", help="The hub's folder.")]
Keys = Annotated[
    Optional[Path],
    typer.Option(
        "--keys", metavar="DIR", help="Where your keys lie; HDH_HOME or ~/.hdh, if left out."
    ),
]
LogFormat = Annotated[
    Format, typer.Option("--log-format", help="Of the log on the screen; the file is JSON lines.")
]
