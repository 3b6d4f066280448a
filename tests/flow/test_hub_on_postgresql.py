"""The hub on a real PostgreSQL: enrolment, a study, and the result after a restart of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator import database
from simulations import flower
from tests import deployments, postgresql


@pytest.mark.slow
def test_a_hub_on_postgresql(tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    folder: Path = tmp_path_factory.mktemp("hub")
    sites = deployments.sites(tmp_path_factory.mktemp("data"), "brest", "lyon")
    with postgresql.running(tmp_path_factory.mktemp("postgresql")) as url:
        with flower.deployed(sites, folder, database=url, say=lambda _: None) as deployment:
            assert deployment.engine.dialect.name == "postgresql"
            document = flower.submit(
                deployment,
                deployments.study("on-postgresql"),
                deployments.CONTRACT,
                say=lambda _: None,
            )
            deployment.processes["hub"].terminate()
            deployment.processes["hub"].wait(30)
            deployment.start_hub()
            with deployment.connect() as hub:
                assert (
                    hub.run("on-postgresql").result().document["analyses"]
                    == document.model_dump(mode="json")["analyses"]
                )
            assert not (deployment.hub.folder / "registry.db").exists()
        engine = database.open_registry(url)
        assert [run.state for run in database.newest(engine, None, 5)] == ["complete"]
        engine.dispose()
