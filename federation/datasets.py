"""The contract on which a study's analyses run: that of its dataset; of linked people; or of
several datasets side by side, where each node answers for the one that it holds.

Side by side, `dataset` is a column whose levels are the datasets, so that a term can count the rows
of one of them: `dataset = 'reports'`. Columns that two datasets describe alike are one column; a
column that a dataset lacks is missing there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from federation import contract as contracts
from federation import errors
from federation.contract import Column, Contract
from federation.linkage import table
from federation.study import DatasetEntry, Study, joint_name
from federation.yaml_source import Source

DATASET, PERSON = "dataset", "person"


def load(
    study: Study, folder: Path, source: Source, given: Path | None = None
) -> dict[str, Contract]:
    """The contract of each dataset of a study: NAME.yaml in the folder, or the one `given`."""
    names = sorted(study.datasets) or [study.dataset]
    loaded = {}
    for name in names:
        path = given if given is not None and len(names) == 1 else folder / f"{name}.yaml"
        key = ("datasets", name) if study.datasets else ("dataset",)
        if not path.exists():
            raise errors.StudyError(
                f"{source.at(*key)}: no contract {path} for dataset {name!r}; "
                "put it there, or give --contract FILE"
            )
        loaded[name] = contracts.load(path)
        if study.datasets and loaded[name].dataset != name:
            raise errors.StudyError(
                f"{source.at(*key)}: {path} is the contract of {loaded[name].dataset!r}; rename "
                "the file"
            )
    return loaded


def contract_of(
    study: Study, loaded: Mapping[str, Contract], source: Source | None = None
) -> Contract:
    """The contract on which the analyses run. StudyError where the datasets do not fit together."""
    if study.link is not None:
        return table.linked(study, loaded, source).contract
    if study.datasets:
        return side_by_side(study, loaded, source)
    return next(iter(loaded.values()))


def side_by_side(
    study: Study, loaded: Mapping[str, Contract], source: Source | None = None
) -> Contract:
    source = source or Source(f"study {study.study}", {}, {})
    people = {contract.person is None for contract in loaded.values()}
    units = {contract.unit for contract in loaded.values()}
    if len(people) > 1 or len(units) > 1:
        raise errors.StudyError(
            f"{source.at('datasets')}: datasets: side by side, the datasets must protect one unit, "
            "which all of them identify or none; their producers agree on `unit` and `person`"
        )
    columns = {DATASET: Column(type="category", levels=tuple(sorted(loaded)))}
    if people == {False}:
        columns[PERSON] = Column(type="string")
    for name in sorted(loaded):
        for column, given in view(study.datasets[name], loaded[name]).items():
            if column in (PERSON, DATASET):
                continue
            described = loaded[name].columns[given]
            same_name = columns.get(column)
            if same_name is not None and _essence(same_name) != _essence(described):
                raise errors.StudyError(
                    f"{source.at('datasets', name)}: datasets.{name}: {column!r} is another column "
                    "in another dataset; give it another name with `rename`"
                )
            columns[column] = described.model_copy(
                update={"may_be_empty": True, "max_missing": 1.0}
            )
    return Contract(
        dataset=joint_name(loaded),
        version=1,
        unit=units.pop(),
        person=PERSON if people == {False} else None,
        rows_per_person=max(contract.rows_per_person for contract in loaded.values()),
        nodes_per_person=_most_nodes([contract.nodes_per_person for contract in loaded.values()]),
        columns=columns,
    )


def _most_nodes(stated: Sequence[int | None]) -> int | None:
    """None, which counts every node, where a contract is silent."""
    limits = [number for number in stated if number is not None]
    return max(limits) if len(limits) == len(stated) else None


def view(entry: DatasetEntry, contract: Contract) -> dict[str, str]:
    """The contract's own column behind each column of the datasets side by side."""
    seen = {
        entry.rename.get(name, name): name
        for name in contract.columns
        if name not in contract.closed_columns and name != contract.person
    }
    return seen if contract.person is None else seen | {PERSON: contract.person}


def _essence(column: Column) -> Mapping[str, object]:
    """What two datasets must say alike of a column that they share."""
    return column.model_dump(
        exclude={"description", "may_be_empty", "max_missing", "missing", "use"}
    )
