"""Proven memory: the tests of every card, what stands behind its verdict, and the test that is due."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE cards ADD COLUMN proof TEXT",
    "ALTER TABLE cards ADD COLUMN due TEXT",
    """
    CREATE TABLE memory_tests (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        card_uuid TEXT NOT NULL,
        depth TEXT NOT NULL,
        cause TEXT NOT NULL,
        asked_by TEXT,
        state TEXT NOT NULL,
        verdict TEXT,
        text TEXT,
        started_at REAL NOT NULL,
        ended_at REAL,
        driver TEXT,
        vbios TEXT,
        total_bytes INTEGER,
        cuda_bytes INTEGER,
        tested_bytes INTEGER,
        proven_bytes INTEGER,
        errors INTEGER,
        write_bytes_per_second REAL,
        read_bytes_per_second REAL,
        copy_bytes_per_second REAL,
        host_to_device_bytes_per_second REAL,
        device_to_host_bytes_per_second REAL,
        temperature_max_celsius INTEGER,
        sm_clock_min_mhz INTEGER,
        sm_clock_max_mhz INTEGER,
        result TEXT
    )
     STRICT
    """,
    "CREATE INDEX memory_tests_card ON memory_tests (card_uuid, id)",
    "CREATE INDEX memory_tests_running ON memory_tests (id) WHERE state = 'running'",
)


def upgrade() -> None:
    """Add the tests and the two columns."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """A backup is the way back."""
    raise NotImplementedError("restore a backup instead")
