"""Attacks of a coordinator in exact mode on people with several rows each: pathways, and case
series. The target makes six transitions from surgery to home, and their delays depend on whether
she is ill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.privacy.exact_variants import Studies, asked
from tests.privacy.thin_variants import SUMMED

OPEN: Mapping[str, Any] = {"policy": {"hub_sees_cells": True}}
PATHS = {"run": "pathways", "step": "step", "time": "day", "beginnings": 0}
SERIES = {"run": "sccs", "model": "events ~ exposed + offset(log(days))"}
T = "age = 93"
REACHED = {"home": {"first": "surgery", "then": "home", "within": 60}}
PAIRS: Mapping[str, Studies] = {
    "beginnings of two lengths": [asked({**PATHS, "beginnings": n}) for n in (2, 3)],
    "beginnings, the longer first": [asked({**PATHS, "beginnings": n}) for n in (2, 1)],
    "beginnings of a part": [
        asked({**PATHS, "beginnings": 2}), asked({**PATHS, "beginnings": 1}, where="age >= 50")],
    "weeks, then days": [
        asked({**PATHS, "time": "x"}, x="floor(day / 7)"), asked(PATHS)],
    "days, then weeks of the parts": [
        asked(PATHS),
        *(asked({**PATHS, "time": "x"}, where=w, x="floor(day / 7)")
          for w in ("age < 62", "age >= 62"))],
    "two lengths": [asked({**PATHS, "max_steps": n}) for n in (4, 5)],
    "two lengths, one of them long": [asked({**PATHS, "max_steps": n}) for n in (5, 12)],
    "merged steps": [
        asked(PATHS),
        asked({**PATHS, "step": "x"}, x="recode(step, 'home', 'out', 'doctor', 'out')")],
    "limits": [
        asked({**PATHS, "indicators": {"home": {**REACHED["home"], "within": n}}})
        for n in (60, 61)],
    "all, then without her": [asked(PATHS), asked(PATHS, where=f"not ({T})")],
    "all, then younger ones": [asked(PATHS), asked(PATHS, where="age < 88")],
    "younger ones by indicators": [
        asked({**PATHS, "indicators": REACHED}),
        asked({**PATHS, "indicators": REACHED}, where="age < 88")],
}  # fmt: skip
ALONE: Mapping[str, tuple[dict[str, Any], dict[str, str]]] = {
    "her time": ({**PATHS, "time": "x"}, {"x": f"if({T}, day, 0)"}),
    "her time, smoothly": ({**PATHS, "time": "x"}, {"x": "day * exp(4 * (age - 93))"}),
    "her step": ({**PATHS, "step": "x"}, {"x": f"group(if({T}, 1, 0), 1, 'no', 'yes')"}),
    "her group": ({**PATHS, "by": "x", "indicators": REACHED}, {"x": "group(age, 92.5)"}),
    "a power of the time": ({**PATHS, "time": "x"}, {"x": "(day / 4000) ^ 60"}),
}
CASES: Mapping[str, Studies] = {
    "hers": [asked({**SERIES, "model": "events ~ x + offset(log(days))"}, x=f"{T} and exposed")],
    "her events": [asked({**SERIES, "model": "x ~ exposed + offset(log(days))"},
                         x=f"if({T}, events, 0)")],
    "her offset": [asked({**SERIES, "model": "events ~ exposed + offset(x)"},
                         x=f"if({T}, 5, 0)")],
    "without her": [asked(SERIES), asked(SERIES, where=f"not ({T})")],
    "younger ones": [asked(SERIES), asked(SERIES, where="age < 88")],
    "two near conditions": [
        asked({**SERIES, "model": "events ~ x + offset(log(days))"}, x=f"exposed and age < {n}")
        for n in (92, 94)],
    "an interaction": [
        asked(SERIES),
        asked({**SERIES, "model": "events ~ exposed + exposed:x + offset(log(days))"},
              x="age < 88")],
}  # fmt: skip


def variants() -> Iterator[tuple[str, Studies]]:
    for name, studies in PAIRS.items():
        yield f"pathways: {name}", studies
        yield f"pathways, summed: {name}", [{**study, **SUMMED} for study in studies]
        yield f"pathways, at open nodes: {name}", [{**study, **OPEN} for study in studies]
    for name, (analysis, columns) in ALONE.items():
        yield f"pathways: {name}", [asked(analysis, **columns)]
        yield f"pathways, summed: {name}", [{**asked(analysis, **columns), **SUMMED}]
    for name, studies in CASES.items():
        yield f"series: {name}", studies
        yield f"series, summed: {name}", [{**study, **SUMMED} for study in studies]
