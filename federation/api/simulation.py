"""Nodes that this process simulates, each with a data frame."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from federation import errors, loading
from federation import study as studies
from federation.api.federations import Given, Say, contract_of, shown
from federation.api.plan import StudyPlan
from federation.api.result import Result
from federation.api.spoken import spoken
from federation.api.study import Study
from federation.yaml_source import Source

if TYPE_CHECKING:
    import pandas

    from simulations.answering import Holders
    from simulations.whole_run import OpenNodes


@spoken()
def simulate(
    frames: Mapping[str, Any],
    contract: Given | Sequence[Given],
    *,
    read: Mapping[str, Any] | None = None,
    strict: bool = False,
    processes: int | None = None,
) -> Simulation:
    """Nodes in this process, each with its own rows.

    `frames`: by the name of a node, a pandas or polars frame, an Arrow table, or the path of a
    file. `contract`: of the rows, as a path, a Contract, or its content as a mapping; of a study of
    several datasets a list, where each node has a pair (dataset, frame). `read`: how the values are
    written, by the `read:` keys of node.yaml, such as {"decimal": ",", "date": "dd/mm/yyyy"}, for
    all nodes or by the name of a node. `strict`: the nodes are as careful as real ones are by
    default. `processes`: how many share the nodes."""
    return Simulation(frames, contract, read=read, strict=strict, processes=processes)


class Simulation:
    """Nodes in this process. Their rows are copied to a private folder, which `close` removes, or
    at the latest the end of the process."""

    def __init__(
        self,
        frames: Mapping[str, Any],
        contract: Given | Sequence[Given],
        *,
        read: Mapping[str, Any] | None = None,
        strict: bool = False,
        processes: int | None = None,
    ) -> None:
        with loading.uncollected():
            from federation.api import frames as tables
            from nodes import row_files
            from simulations import whole_run  # here, so that the first study need not wait for it

        if not isinstance(frames, Mapping):
            raise errors.InputError(
                f"the nodes are a {type(frames).__name__}: give each by name with its rows, as in"
                " {'lyon': frame, 'nice': other}"
            )
        listed = contract if isinstance(contract, list | tuple) else [contract]
        self.contracts = {loaded.dataset: loaded for loaded in map(contract_of, listed)}
        self.strict, self.processes = strict, processes
        self._folder = row_files.private_folder(Path(tempfile.gettempdir()))
        self._remove = weakref.finalize(self, row_files.remove, self._folder)
        with loading.seldom_collected():
            self.datasets = tables.datasets(frames, self.contracts, self._folder, read)
        self._are_copies = tables.are_copies(self.datasets.values(), self._folder)
        self._open: OpenNodes | None = None
        if self._are_copies and processes in (None, 1):
            self._open = whole_run.OpenNodes(self.datasets.values())

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.datasets)

    @spoken()
    def run(self, study: Study, *, progress: bool | Say = True) -> Result:
        """The result of a study. It holds what a hub would release, and nothing else; an error
        about an analysis adds what `check` says of your rows."""
        from simulations import own_rows, whole_run

        checked, source = study.checked(own_rows=True)
        holders = self._holders(checked, source)
        with (
            loading.seldom_collected(),
            tempfile.TemporaryDirectory(prefix="hdh-") as scratch,
            shown(progress) as say,
        ):
            whole_run.check(holders)
            settings = whole_run.Settings(
                Path(scratch),
                Path(scratch),
                strict=self.strict,
                processes=self.processes,
                nodes=self._open,
            )
            document = whole_run.run(holders, source, settings, say)
        content = document.model_dump(mode="json")
        return Result(content, own_rows.below_error(content, self.datasets))

    @spoken()
    def check(self) -> pandas.DataFrame:
        """What breaks the contract in your rows, a row for each `node`, `column` and `rule`, with
        a `remedy` that shows values: as `hdh node check` does for a producer. The first row of a
        frame is line 2, as in a file with a header."""
        import pandas

        from simulations import own_rows

        columns = ["node", "column", "rule", "rows", "remedy"]
        return pandas.DataFrame(own_rows.spoken_findings(self.datasets), columns=columns)

    @spoken()
    def plan(self, study: Study) -> StudyPlan:
        """What the study costs, and who would refuse, with the true number of rows of each node."""
        from federation.api import sizes
        from simulations import planning

        checked, source = study.checked(own_rows=True)
        holders = self._holders(checked, source)
        nodes = sizes.planned(holders, strict=self.strict)
        return StudyPlan(planning.of(checked, holders.contract, nodes))

    def _holders(self, study: studies.Study, source: Source) -> Holders:
        from federation import datasets
        from simulations.answering import Holders

        names = sorted(study.datasets) or [study.dataset]
        for name in names:
            if name not in self.contracts:
                raise errors.StudyError(
                    f"study {study.study}: the nodes hold {', '.join(self.contracts)}, and no "
                    f"dataset {name!r}; name theirs with `dataset`"
                )
        loaded = {name: self.contracts[name] for name in names}
        several = loaded if study.datasets else {}
        return Holders(study, datasets.contract_of(study, loaded, source), self.datasets, several)

    def close(self) -> None:
        """Removes the copies of the rows."""
        self._open = None
        self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Simulation of {len(self.datasets)} nodes: {', '.join(self.datasets)}>"
