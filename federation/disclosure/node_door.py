"""The first door: the rules that cohorts and parts must pass to leave a node in exact mode.

Sources: the hospital-data rule of the French secure data centre (no cell under 11 people);
DataSHIELD's filters (parameters at most a third of the people).
"""

from __future__ import annotations

from federation.disclosure.rules import Rules, is_small
from federation.messages import Part, Refusal

# counts of the whole cohort, which are no cells of a table
TOTALS = ("people", "rows", "missing", "off_grid", "no_time")


def check_cohort(
    people: int, people_in_dataset: int, rules: Rules, *, written: bool = False
) -> Refusal | None:
    """Refuses a cohort of fewer than `min_cell` people, and one that leaves out fewer but not
    nobody.

    `written`: the study has a condition of its own. Then a cohort that leaves out nobody is refused
    too, because the refusal would otherwise tell whether somebody is outside. Under a secure sum
    the people outside are counted over all nodes."""
    k = rules.min_cell
    if people < k:
        return Refusal(
            "cohort_size",
            f"fewer than {k} people of this node are in the cohort: widen `where`, or leave this "
            "node out",
        )
    outside = people_in_dataset - people
    if (outside < k and not rules.in_secure_sum) if written else 0 < outside < k:
        return Refusal(
            "cohort_complement",
            f"the cohort leaves out fewer than {k} people of this node: widen or narrow `where`",
        )
    return None


def check_difference(people: int, rules: Rules) -> Refusal | None:
    """Refuses a cohort that differs from an earlier one in few `people`, whom a subtraction would
    reveal."""
    if not 0 < people < rules.min_cell:
        return None
    return Refusal(
        "differencing",
        "the cohort is almost the same as an earlier one: choose the same cohort, or one that "
        "differs clearly",
    )


def check_part(part: Part, rules: Rules) -> Refusal | None:
    people, k = int(part.cells["people"][0]), rules.min_cell
    if people < k:
        return Refusal(
            "cohort_size",
            f"fewer than {k} people of this node have no missing value in the columns used: use "
            "fewer columns",
        )
    if part.parameters > rules.max_parameters_per_person * people:
        return Refusal(
            "parameters",
            f"{part.parameters} coefficients are more than {rules.max_parameters_per_person:g} of "
            "this node's people: use fewer terms",
        )
    if rules.hub_sees_cells:
        return None
    small = small_cells(part, k)
    if not small:
        return None
    return Refusal(
        "small_cells",
        f"cells under {k} people in {', '.join(small)}, and this site shows none to the hub: "
        "write `secure_sum: true` in the study's privacy, use mode dp, merge levels, coarsen the "
        "grid, or keep strata within nodes",
    )


def small_cells(part: Part, k: int) -> list[str]:
    """The names of the counts of a part in which a cell is small."""
    return [
        name
        for name, counts in part.cells.items()
        if name not in TOTALS and is_small(counts, k).any()
    ]
