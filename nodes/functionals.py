"""How many numbers a node has given about each column: to a study, and to a coordinator in a year.

Linear reconstruction reads a table of n people from about n numbers that a column takes part in
(Dinur & Nissim 2003), whatever each of them looks like. So a node counts, over all answers, the
coefficients and the cells that depend on a column, and limits them to a share of its people. A
repeated question costs nothing. A question refused for its support costs one number a column, since
a refusal is an answer too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from federation.contract import Contract
from federation.disclosure.rules import Rules
from federation.messages import Refusal
from federation.schema import Schema
from federation.study import Study
from nodes import ledger
from nodes.answered import Memory
from nodes.ledger import Ledger
from strategies import budget, support
from strategies.protocol import AnyTask

KIND = "functionals"
COUNTS = (
    "events",
    "exits",
    "entries",
    "people_by_group",
)  # sums of counts whose cells have another name
Numbers = Mapping[str, int]


def question(study: Study, contract: Contract, task: AnyTask) -> str:
    """The name of what a task asks, whatever the study that asks it is called. Another version of
    the dataset is another question, because its rows may differ."""
    entry = study.analyses[task.name].model_dump(mode="json")
    cohort = study.cohort.model_dump(mode="json")
    asked = [study.coordinator, study.dataset, contract.hash, entry, cohort]
    asked += [task.chosen.sql] if task.chosen else []
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def of_task(task: AnyTask, people: int, k: int) -> int:
    """Numbers that one answer gives about each of its columns: the coefficients of a model, or the
    cells of a table. A cell holds nobody or at least `k` people, so the number of people limits the
    number of informative cells."""
    part = budget.zero(task, task.analysis.start(task))
    if part.parameters:
        return part.parameters
    size = sum(array.size for array in part.sums.values())
    if support.roles_of(task).apart:
        size = math.ceil(size / len(task.fields))
    return min(size, math.ceil(people / k))


def check(
    memory: Memory, task: AnyTask, numbers: int, columns: Iterable[str], limits: tuple[float, float]
) -> Refusal | None:
    """Charges an answer of so many numbers about each of `columns`, or returns the reason for a
    refusal. `limits`: the most numbers about one column for a study,
    and for a coordinator in a year."""
    name = question(memory.study, memory.contract, task)
    if ledger.recalled(memory.ledger, KIND, name) is not None:
        return None
    _charge_link(memory)
    by_study, by_year = _given(memory)
    named = sorted(columns)
    for given, limit, where in ((by_study, limits[0], "one study"), (by_year, limits[1], "a year")):
        if any(given[column] + numbers > limit for column in named):
            return _too_many(where)
    _keep(memory, name, dict.fromkeys(named, numbers))
    return None


def forecast(
    study: Study, tasks: Mapping[str, AnyTask], schema: Schema, people: int, rules: Rules
) -> Refusal | None:
    """The refusal of a whole study at a node of so many people,
    as far as it can be known beforehand."""
    where = schema.columns_of(study.cohort.where) if study.cohort.where else frozenset()
    numbers = Counter[str]()
    for task in tasks.values():
        columns = where.union(*(schema.columns_of(field.name) for field in task.fields))
        answers = of_task(task, people, rules.min_cell) * (1 + len(task.by_step))
        numbers.update(dict.fromkeys(columns, answers))
    most = max(numbers.values(), default=0)
    return _too_many("one study") if most > rules.max_parameters_per_person * people else None


def _too_many(where: str) -> Refusal:
    return Refusal(
        "functionals",
        f"the numbers asked of one column in {where} are more than this site gives of so many "
        "people: ask for fewer terms, cells or analyses, or use mode dp",
    )


def charge_refusal(memory: Memory, task: AnyTask, columns: Iterable[str]) -> None:
    """A refusal for its support is one number about each column."""
    name = f"{question(memory.study, memory.contract, task)}:refused"
    if ledger.recalled(memory.ledger, KIND, name) is None:
        _keep(memory, name, dict.fromkeys(sorted(columns), 1))


def _charge_link(memory: Memory) -> None:
    """The table `linkage` of a linked study is an answer too: it tells the linked people by
    column."""
    if not memory.link_numbers:
        return
    study = memory.study
    link = None if study.link is None else study.link.model_dump(mode="json", by_alias=True)
    asked = [study.coordinator, study.dataset, link, sorted(memory.link_numbers.items())]
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    if ledger.recalled(memory.ledger, KIND, name) is None:
        _keep(memory, name, memory.link_numbers)


def _keep(memory: Memory, name: str, numbers: Numbers) -> None:
    study, account = memory.study, memory.account
    content = {
        "coordinator": study.coordinator,
        "numbers": numbers,
        "year": account.year,
        "study": study.hash,
    }
    memory.keep(KIND, name, json.dumps(content).encode())


class Totals:
    """By study, and by coordinator and year: the numbers given about each column."""

    def __init__(self) -> None:
        self.by_study: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.by_year: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)

    def add(self, seq: int, content: bytes) -> None:
        entry = json.loads(content)
        self.by_study[entry["study"]].update(entry["numbers"])
        self.by_year[entry["coordinator"], entry["year"]].update(entry["numbers"])


def _given(memory: Memory) -> tuple[Counter[str], Counter[str]]:
    """By column, what this study and its coordinator's year have been given."""
    study, account = memory.study, memory.account
    totals = ledger.gathered(memory.ledger, KIND, account, Totals)
    return totals.by_study[study.hash], totals.by_year[study.coordinator, account.year]


def given(book: Ledger, dataset: str, year: int) -> dict[str, Counter[str]]:
    """By coordinator and column, what a year has given. For the producer's eyes."""
    by_coordinator: dict[str, Counter[str]] = {}
    for content in ledger.remembered(book, KIND, dataset):
        entry = json.loads(content)
        if entry["year"] == year:
            by_coordinator.setdefault(entry["coordinator"], Counter()).update(entry["numbers"])
    return by_coordinator
