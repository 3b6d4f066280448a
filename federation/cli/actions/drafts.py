"""`hdh node draft`: a contract from data or from a Table Schema file,
and the `read:` keys of the source."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

from federation import errors, message_texts
from federation.cli.actions import tables
from federation.cli.screen import print
from nodes import draft as drafts
from nodes import draft_yaml, samples, table_schema
from nodes import site as sites
from nodes.draft import Draft
from nodes.site import Storage


def write(source: str | None, table: str | None, schema: Path | None, out: Path) -> None:
    """Writes the contract and, if the source needs keys, OUT.read.yaml.
    InputError if one exists already."""
    if (source is None) == (schema is None):
        raise errors.InputError("give a SOURCE, or --table-schema FILE.json; not both")
    keys = out.with_suffix(".read.yaml")
    if standing := [path for path in (out, keys) if path.exists()]:
        raise errors.InputError(
            f"{standing[0]} exists already; move it away, or choose another --out"
        )
    name = _name(out)
    today = date.today()
    if schema is not None:
        draft, origin = table_schema.draft(schema, name), schema.name
    else:
        draft, origin = _of_source(name, str(source), table, today), Path(str(source)).name
    contract = message_texts.comments(draft_yaml.contract(draft, origin, today))
    out.write_text(contract, encoding="utf-8")
    print(
        f"{out}: {tables.counted(len(draft.columns), 'column', 'columns')}. Read every note in it."
    )
    if draft.read:
        keys.write_text(draft_yaml.read_keys(draft), encoding="utf-8")
        print(f"{keys}: how the source is written.")
    read = f" --read {keys}" if draft.read else ""
    print(f"Next:\n  hdh node dataset add {out} --source {source or 'SOURCE'}{read}")


def _of_source(name: str, source: str, table: str | None, today: date) -> Draft:
    dataset = sites.dataset_of(drafts.placeholder(), source, table)
    return drafts.of_source(name, dataset, Storage(), today)


def _name(out: Path) -> str:
    """The dataset's name, from that of the file."""
    name = samples.slug(out.stem)
    if not re.fullmatch("[a-z][a-z0-9_-]{0,62}", name):
        raise errors.InputError(
            f"--out {out}: the file's name must begin with a letter, since the dataset is named"
            " after it"
        )
    return name
