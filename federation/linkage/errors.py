"""The error with which a party ends a linkage."""

from __future__ import annotations


class LinkError(Exception):
    """`rule` names the fault, `remedy` the action for its reader. Neither holds an identifier or a
    count of rows."""

    def __init__(self, rule: str, remedy: str) -> None:
        self.rule, self.remedy = rule, remedy
        super().__init__(f"{rule}: {remedy}")
