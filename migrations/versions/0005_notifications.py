"""Notifications by user: a hundred thousand that are owed are no reason to read all of them for the next sixteen."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP INDEX notifications_owed",
    "CREATE INDEX notifications_owed ON notifications (uid, id) WHERE state = 'owed'",
    "CREATE INDEX notifications_sending ON notifications (uid) WHERE state = 'sending'",
)


def upgrade() -> None:
    """Change the indexes."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """A backup is the way back."""
    raise NotImplementedError("restore a backup instead")
