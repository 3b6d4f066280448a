"""What happened: every run of a study and its result, in SQLite or PostgreSQL."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from aggregator.release import Document

metadata = sa.MetaData()
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.String(64), nullable=False),
    sa.Column("study_hash", sa.String(64), nullable=False, index=True),
    sa.Column("engine", sa.String(16), nullable=False),
    sa.Column("started", sa.String(40), nullable=False),
    sa.Column("finished", sa.String(40), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("result", sa.Text, nullable=False),
)
happenings = sa.Table(
    "happenings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey("runs.id"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("node", sa.String(64), nullable=False),
    sa.Column("what", sa.Text, nullable=False),
)


def open_registry(url: str) -> sa.Engine:
    engine = sa.create_engine(url)
    metadata.create_all(engine)
    return engine


def write(engine: sa.Engine, document: Document) -> int:
    """The number of the run."""
    provenance = document.provenance
    statuses = {found.status for found in document.analyses.values()}
    status = "complete" if statuses == {"released"} else "failed" if statuses == {"failed"} else "partial"
    text = json.dumps(document.model_dump(mode="json"), ensure_ascii=False)
    row = {
        "study": document.study,
        "study_hash": document.study_hash,
        "engine": provenance["engine"],
        "started": provenance["started"],
        "finished": provenance["finished"],
    }
    with engine.begin() as connection:
        run = int(connection.execute(runs.insert().values(**row, status=status, result=text)).inserted_primary_key[0])  # type: ignore[index]
        events: list[dict[str, Any]] = [{"run": run, **happened} for happened in provenance["happened"]]
        if events:
            connection.execute(happenings.insert(), events)
    engine.dispose()
    return run
