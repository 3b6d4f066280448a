"""Invitations, parties, studies and what nodes said to them."""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None


def upgrade() -> None:
    op.create_table(
        "invitations",
        sa.Column("secret_hash", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("made", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("used", sa.Float),
    )
    op.create_table(
        "parties",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False, unique=True),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("flower_id", sa.String(24), nullable=False),
        sa.Column("former_flower_ids", sa.Text, nullable=False),
        sa.Column("enrolled", sa.Float, nullable=False),
        sa.Column("revoked", sa.Float),
        sa.Column("seen", sa.Float),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("holdings", sa.Text, nullable=False),
    )
    op.create_table(
        "studies",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("study", sa.String(64), nullable=False),
        sa.Column("study_hash", sa.String(64), nullable=False, index=True),
        sa.Column("coordinator", sa.String(64), nullable=False, index=True),
        sa.Column("written", sa.Text, nullable=False),
        sa.Column("contract", sa.Text, nullable=False),
        sa.Column("certificate", sa.Text, nullable=False),
        sa.Column("signature", sa.String(256), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("submitted", sa.Float, nullable=False),
        sa.Column("deadline", sa.Float, nullable=False),
        sa.Column("started", sa.Float),
        sa.Column("finished", sa.Float),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("flower_run", sa.String(24), nullable=False),
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.id")),
    )
    op.create_table(
        "decisions",
        sa.Column("number", sa.Integer, sa.ForeignKey("studies.number"), primary_key=True),
        sa.Column("node", sa.String(64), primary_key=True),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("by", sa.String(120), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
    )
