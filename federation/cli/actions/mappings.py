"""`hdh node map`: a dataset's rows written from raw tables, checked,
and recorded in the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from federation import audit, errors
from federation.cli.actions import node_data
from federation.cli.console import Console
from federation.cli.screen import print
from nodes import mapping, source_checks, state_folder
from nodes import site as sites
from nodes.mapping import Mapped
from nodes.site import Dataset, Site


def run(path: Path, only: str | None) -> None:
    """DataError if the rows of a mapping break the contract; then those of before stay."""
    site = sites.load(path)
    chosen = node_data.datasets_of(site, path, only)
    mapped = {name: dataset for name, dataset in chosen.items() if dataset.mapping}
    if not mapped:
        raise errors.SiteError(
            f"{path}: no dataset has a `mapping`; write `mapping: FILE.sql` and `sources:` in "
            "place of `source`"
        )
    broken = [name for name, each in mapped.items() if _written(site, name, each).findings]
    if broken:
        raise errors.DataError(
            f"{', '.join(broken)}: the rows of the mapping break the contract, and replace "
            "nothing: correct the SQL or the contract"
        )


def _written(site: Site, name: str, dataset: Dataset) -> Mapped:
    mapped = mapping.run(dataset, site.storage, datetime.now(UTC))
    console = Console(highlight=False, soft_wrap=True)
    node_data.show(
        node_data.DatasetReport(name, dataset, mapped.counts, mapped.findings, mapped.findings),
        console,
    )
    if not mapped.findings:
        assert site.state is not None
        source_checks.record(site.state, dataset.contract.dataset, dataset, passed=True)
        audit.write(
            state_folder.create(site.state) / state_folder.AUDIT,
            "mapped",
            dataset=name,
            contract_hash=mapped.manifest.contract,
            sql_hash=mapped.manifest.sql,
            inputs={each: entry.content for each, entry in mapped.manifest.inputs.items()},
        )
        print(
            f"{name}: written from {', '.join(mapped.manifest.inputs)}; studies now read these "
            "rows."
        )
    return mapped


def lines(site: Site, name: str) -> Sequence[str]:
    """The origin of a dataset's rows, for someone who decides on a study; empty for a dataset with
    a source."""
    dataset = site.datasets.get(name)
    if dataset is None or dataset.mapping is None:
        return []
    manifest = mapping.manifest(dataset)
    if manifest is None:
        return [f"dataset {name}: its mapping has not been run (hdh node map {name})"]
    reason = mapping.stale(dataset)
    return [
        f"dataset {name}: mapped by {dataset.mapping.sql.name} (SHA-256 {manifest.sql[:12]}) "
        f"on {manifest.written[:16]}"
        f" from {', '.join(manifest.inputs)}" + (f"; {reason}" if reason else "")
    ]
