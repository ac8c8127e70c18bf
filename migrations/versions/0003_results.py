"""The record: what every succeeded attempt measured, kept beyond its job, and what its cards ran under."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE attempt_cards ADD COLUMN driver TEXT",
    "ALTER TABLE attempt_cards ADD COLUMN vbios TEXT",
    "CREATE INDEX attempts_ended ON attempts (ended_at) WHERE ended_at IS NOT NULL",
    """
    CREATE TABLE results (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        job_id INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        name TEXT NOT NULL,
        model TEXT,
        user TEXT NOT NULL,
        uid INTEGER NOT NULL,
        cards INTEGER NOT NULL,
        card_uuid TEXT,
        card_uuids TEXT NOT NULL,
        seconds REAL,
        measure TEXT NOT NULL,
        value REAL NOT NULL,
        unit TEXT NOT NULL,
        driver TEXT,
        vbios TEXT
    )
     STRICT
    """,
    "CREATE INDEX results_name ON results (name, measure, at, card_uuid, cards, value, unit)",
    "CREATE INDEX results_model ON results (model, measure, at, card_uuid, cards, value, unit) WHERE model IS NOT NULL",
    "CREATE INDEX results_card ON results (card_uuid, measure, at)",
    "CREATE INDEX results_at ON results (at)",
    "CREATE INDEX results_job ON results (job_id, attempt)",
)


def upgrade() -> None:
    """Add the record, the two columns, and the index of ended attempts that reports go by."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """A backup is the way back."""
    raise NotImplementedError("restore a backup instead")
