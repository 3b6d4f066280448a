"""The hub's database: the same over SQLite and a real PostgreSQL,
and migrated from every older schema."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from aggregator import database
from federation import errors
from tests import federations, postgresql

CONTRACT = federations.contract_of(
    "dataset: d\nversion: 1\nunit: visit\ncolumns:\n  x: {type: boolean}\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgresql.running(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        f"sqlite:///{tmp_path / 'registry.db'}"
        if request.param == "sqlite"
        else postgresql.fresh_database(request.getfixturevalue("server"))
    )


def values(study: str, coordinator: str = "alice", number: int = 1) -> dict[str, object]:
    return {
        "number": number,
        "study": study,
        "study_hash": "ab" * 32,
        "coordinator": coordinator,
        "written": "{}",
        "contract": "{}",
        "certificate": "c",
        "signature": "00",
        "submitted": 1.5,
        "deadline": 2.5,
    }


def test_an_invitation_is_used_once(url: str) -> None:
    engine = database.open_registry(url, new=True)
    database.invite(engine, "h1", "lyon", "node", 0.0, 100.0)
    assert (
        database.invitation(engine, "h1", 50.0) == ("lyon", "node")
        and database.invitation(engine, "h1", 101.0) is None
    )
    assert database.use_invitation(engine, "h1", 50.0) and not database.use_invitation(
        engine, "h1", 50.0
    )
    database.invite(engine, "h2", "lyon", "node", 0.0, 100.0)
    database.invite(engine, "h3", "lyon", "node", 0.0, 100.0)
    assert database.invitation(engine, "h2", 50.0) is None  # the newer one has replaced it
    engine.dispose()


def test_a_new_key_leaves_the_former_id_to_be_taken_off(url: str) -> None:
    engine = database.open_registry(url, new=True)
    database.enrol(engine, "lyon", "node", "k1", "ab", 2**63 + 5, "0.1", 1.0)
    database.enrol(engine, "lyon", "node", "k2", "ab", 7, "0.1", 2.0)
    party = database.party(engine, "lyon")
    assert party is not None and party.flower_id == 7 and party.former_flower_ids == [2**63 + 5]
    assert (
        database.party_by_key(engine, "k1") is None and database.party_by_key(engine, "k2") == party
    )
    database.revoke(engine, "lyon", 3.0)
    party = database.party(engine, "lyon")
    assert party is not None and party.revoked == 3.0 and party.former_flower_ids == [2**63 + 5, 7]
    with pytest.raises(errors.InputError, match="nobody called 'nice'"):
        database.revoke(engine, "nice", 3.0)
    engine.dispose()


def test_a_node_holds_several_versions_and_what_an_earlier_release_stored_is_read(
    url: str,
) -> None:
    engine = database.open_registry(url, new=True)
    for name, stored in (
        ("lyon", {"d": [{"contract": CONTRACT.hash, "people": 5}, {"contract": "b", "people": 7}]}),
        ("nice", {"d": {"contract": CONTRACT.hash, "people": 5}}),
    ):
        database.enrol(engine, name, "node", name, "ab", 7, "0.1", 1.0)
        database.seen(engine, name, 1.0, "0.1", stored)
    lyon, nice = database.dataset_holders(engine, "node")
    assert lyon.holds(CONTRACT) and nice.holds(CONTRACT)
    assert not nice.holds(CONTRACT.model_copy(update={"unit": "stay"}))
    assert (lyon.people("d"), nice.people("d"), nice.people("e")) == (7, 5, 0)
    engine.dispose()


def test_studies_are_found_by_number_hash_and_name_and_only_ones_own(url: str) -> None:
    engine = database.open_registry(url, new=True)
    first, two = (database.submit(engine, values("s", number=n), ["lyon"]) for n in (1, 2))
    other = database.submit(engine, values("s", "bob", 4), ["lyon"])
    assert database.newest_number(engine) == 4
    with pytest.raises(errors.RefusalError, match="submit yours again"):
        database.submit(engine, values("s", number=2), ["lyon"])
    assert (
        database.find(engine, str(first.number), "alice") == first
        and database.find(engine, str(other.number), "alice") is None
    )
    assert (
        database.find(engine, "s", "alice") == two
        and database.find(engine, "ababab", None) == other
    )
    for too_few in ("", "abab"):  # an empty name would be the beginning of every hash
        assert database.find(engine, too_few, None) is None
    assert database.find(engine, "%", None) is None  # no pattern of the database's
    assert [run.number for run in database.newest(engine, "alice", 10)] == [
        two.number,
        first.number,
    ]
    engine.dispose()


def test_a_study_moves_once_and_a_word_counts_if_it_is_news(url: str) -> None:
    engine = database.open_registry(url, new=True)
    number = database.submit(engine, values("s"), ["lyon"])
    assert database.move(
        engine, number.number, "running", out_of=("waiting",)
    ) and not database.move(engine, number.number, "running", out_of=("waiting",))
    word = database.Decided(number.number, "lyon", "approved", "", "policy", "now", "00")
    assert database.decide(engine, word) and not database.decide(engine, word)
    # was not asked
    assert not database.decide(
        engine, database.Decided(number.number, "nice", "approved", "", "policy", "now", "00")
    )
    assert database.decided(engine, number.number) == [word]
    engine.dispose()


def test_the_migrations_lead_to_the_schema(url: str) -> None:
    """From a database of the version before there were numbers."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        database.metadata.create_all(connection, tables=[database.runs, database.event_rows])
        connection.execute(
            database.runs.insert().values(
                study="s",
                study_hash="h",
                engine="local",
                started="",
                finished="",
                status="complete",
                result="kept",
            )
        )
    engine.dispose()
    opened = database.open_registry(url)
    with opened.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), database.metadata) == []
    assert database.result(opened, 1) == "kept"
    opened.dispose()


def test_a_newer_database_is_not_touched(url: str) -> None:
    database.open_registry(url, new=True).dispose()
    engine = database.open_registry(url)
    with engine.begin() as connection:
        connection.execute(database.version.update().values(version_num="9999"))
    engine.dispose()
    with pytest.raises(errors.SetupError, match="a newer hdh wrote"):
        database.open_registry(url)


# psycopg drops the connection that it could not open
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
def test_a_database_that_is_away_is_named_without_its_password() -> None:
    started = time.monotonic()
    with pytest.raises(errors.SetupError, match="cannot be used") as failure:
        database.open_registry("postgresql://hdh:secret@127.0.0.1:1/none?connect_timeout=2")
    assert "secret" not in str(failure.value) and time.monotonic() - started < 20
    del failure
    gc.collect()  # what is dropped is dropped here, not in another test
