"""Attacks of a coordinator in exact mode through the later words of the language and the later
analyses: dates and their months, ages and differences, beginnings of codes, groups and recoded
levels, `wilcoxon`. (`sccs` and `pathways` need several rows a person, which these people lack.)

The target is the only one seen in December, and, where she is ill, the only one whose diagnosis
begins with B20."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.privacy.exact_variants import Studies, asked, glm

LAST_SEEN = "month(seen) = 12"
DATES = {  # each is true for the target alone
    "month": LAST_SEEN,
    "year and month": "year(seen) * 100 + month(seen) = 202512",
    "a remainder of the month": "month(seen) % 12 = 0",
    "a power of the month": "(month(seen) / 12) ^ 200 > 0.5",
    "a day": "seen = '2025-12-24'",
    "two days": "seen between '2025-12-01' and '2025-12-31'",
    "after a day": "seen > '2025-11-30'",
    "not before a day": "not (seen < '2025-12-01')",
    "age at another date": "age_at(birth, seen) = 92 and sex = 'F'",
    "age at two dates": "age_at(birth, '2026-06-15') - age_at(birth, '1950-06-15') > 76",
    "days between": "(seen - birth) / 33700 > 1",
    "years between": "floor((seen - birth) / 365.25) = 92",
    "days to the end": "('2026-01-01' - seen) < 20",
    "a group of months": "group(month(seen), 11.5, 'early', 'late') = 'late'",
    "a group of days": "group('2026-01-01' - seen, 20) = '<20'",
    "a recoded ward": "recode(ward, 'w3', 'x') = 'x' and age > 91.5",
    "a level that many share": "recode(ward, 'w1', 'x', 'w3', 'x') = 'x' and age > 91.5",
}
CODES = {  # each is true for the target alone where she is ill, and else for nobody
    "a beginning": "starts_with(diagnosis, 'B20')",
    "a short beginning": "starts_with(diagnosis, 'B')",
    "a whole code": "starts_with(diagnosis, 'B20.1')",
    "no beginning of others": "not starts_with(diagnosis, 'I', 'E', 'C', 'J')",
    "a range": "in_codes(diagnosis, 'B20-B24')",
    "two ranges": "in_codes(diagnosis, 'A00-A09', 'B15-B24')",
    "a beginning or a trait": "starts_with(diagnosis, 'B20') or age > 200",
}


def columns() -> Iterator[tuple[str, Studies]]:
    for name, text in {**DATES, **CODES}.items():
        yield f"late column: {name}", [asked(glm("income ~ x"), x=text)]


def cohorts() -> Iterator[tuple[str, Studies]]:
    """All people, and then all but the target, by a word that the rules on cohorts could miss."""
    whole = asked(glm("income ~ 1"))
    for name in ("month", "two days", "days between", "a group of months"):
        without = asked(glm("income ~ 1"), where=f"not ({DATES[name]})")
        yield f"late cohort: {name}", [whole, without]
    for name, first, then in (
        ("a code more", "starts_with(diagnosis, 'E')", "starts_with(diagnosis, 'E', 'B20')"),
        ("a range more", "in_codes(diagnosis, 'E10-E14')", "in_codes(diagnosis, 'E10-E14','B20')"),
        ("a month more", "month(seen) >= 7 and month(seen) <= 11", "month(seen) >= 7"),
    ):
        two = [asked(glm("income ~ 1"), where=where) for where in (first, then)]
        yield f"late cohort: {name}", two
        beside = {"a": glm("income ~ x"), "b": glm("income ~ y")}
        derived = {"derive": {"x": first, "y": then}}
        yield f"late columns: {name}", [{"analyses": beside, "cohort": derived}]


def analyses() -> Iterator[tuple[str, Studies]]:
    late = "group(month(seen), 11.5)"
    amount = f"if({LAST_SEEN}, income, 0)"
    ranks = {"run": "wilcoxon", "value": "income", "by": "sex", "step": 1000}
    alone: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
        "wilcoxon by it": ({**ranks, "by": "x"}, {"x": LAST_SEEN}),
        "wilcoxon by its group": ({**ranks, "by": "x"}, {"x": late}),
        "wilcoxon of an amount": ({**ranks, "value": "x"}, {"x": amount}),
        "wilcoxon in fine steps": ({**ranks, "step": 1}, {}),
        "rates": (
            {"run": "rates", "events": "visits", "time": "time", "by": ["x"]},
            {"x": late},
        ),
        "curves": ({"run": "kaplan_meier", "model": "Surv(time, event) ~ x"}, {"x": late}),
        "pairs": ({"run": "disproportionality", "drug": "x", "event": "treated"}, {"x": late}),
        "weights": (glm("income ~ 1", weights="x"), {"x": f"if({LAST_SEEN}, 1, 1e-9)"}),
        "a missing month": (glm("x ~ 1"), {"x": "income + 0 * log(12 - month(seen))"}),
        "a month within": (glm("x ~ 1"), {"x": "income + 0 * within(month(seen), 1, 11)"}),
        "a division by a month": (glm("x ~ 1"), {"x": "income + 0 / (month(seen) - 12)"}),
    }
    for name, (analysis, derived) in alone.items():
        yield f"late analysis: {name}", [asked(analysis, **derived)]
    without = f"not ({LAST_SEEN})"
    yield "late analysis: wilcoxon, then without her", [asked(ranks), asked(ranks, where=without)]
    yield (
        "late analysis: glm, then wilcoxon without her",
        [asked(glm("income ~ sex")), asked(ranks, where=without)],
    )


def guesses() -> Iterator[tuple[str, Studies]]:
    """Two wide conditions between which only the target can be: they hold for the same people,
    unless her dose is 18. Refused for one person more and answered for none, they would tell."""
    below, up_to = "dose < 18", "dose <= 18"
    income, ranks = glm("income ~ 1"), {"run": "anova", "value": "income", "by": "sex"}
    yield "late guess: cohorts", [asked(income, where=below), asked(income, where=up_to)]
    yield "late guess: cohorts, wider first", [asked(income, where=w) for w in (up_to, below)]
    yield "late guess: other analyses", [asked(income, where=below), asked(ranks, where=up_to)]
    yield "late guess: columns", [asked(glm("income ~ x + y"), x=below, y=up_to)]
    beside = {"a": glm("income ~ x"), "b": glm("income ~ y")}
    derived = {"derive": {"x": below, "y": up_to}}
    yield "late guess: columns of two analyses", [{"analyses": beside, "cohort": derived}]
    column = asked(glm("income ~ x"), x=below)
    yield "late guess: a column of each study", [column, asked(glm("income ~ y"), y=up_to)]
    yield "late guess: a column, then a cohort", [column, asked(income, where=up_to)]
    later = asked(glm("income ~ y"), y=f"{up_to} and age > 0")
    yield "late guess: with another condition", [column, later]


def variants() -> Iterator[tuple[str, Studies]]:
    for family in (columns, cohorts, analyses, guesses):
        yield from family()
