"""A link in plain words, for those who approve it: who links whom, what goes where, and what each
party learns."""

from __future__ import annotations

from collections.abc import Sequence

from federation.linkage.table import LinkedColumn
from nodes.links import LinkPlan


def describe(plan: LinkPlan) -> list[str]:
    link, width = plan.link, len(plan.right) + 1
    how = f"by identifier {link.on}" if link.on else f"by a cascade of {len(link.cascade)} keys"
    those = "the linked ones" if link.keep == "linked" else "all of them"
    return [
        f"people of {link.left!r} are linked to {link.right!r} {how}, at {link.helper!r}",
        f"{link.left} sends {_names(plan.left)}",
        f"{link.right} sends {_names(plan.right)}: {width} words a row, of all its people, masked",
        f"{link.left} learns how many rows {link.right} has, and not who is among them",
        f"{link.right} learns about how many people {link.left} has, and not who they are nor how "
        "many are linked",
        f"{link.helper} learns how many people both have, and which rows are linked, not whose",
        f"{link.helper} opens the rows of {link.left}'s people, {those}, under pseudonyms of this "
        "study, answers for them, and deletes them at the end; it sees no row of anyone else",
        "the hub carries sealed messages and learns their sizes",
    ]


def _names(columns: Sequence[LinkedColumn]) -> str:
    return ", ".join(f"{column.name} ({column.column.type})" for column in columns) or "no column"
