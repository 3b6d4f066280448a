"""What a study with a link is about: the contracts of its datasets, and the role of each node."""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "0003", "0002", None, None


def upgrade() -> None:
    op.add_column("studies", sa.Column("link", sa.Text, nullable=False, server_default=""))
