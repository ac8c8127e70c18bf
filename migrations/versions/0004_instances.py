"""Models on cards: one row a copy that was loaded, what its jobs took, and which models people have pinned."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE families (
        key TEXT NOT NULL,
        path TEXT NOT NULL,
        label TEXT NOT NULL,
        runs INTEGER NOT NULL,
        run_seconds REAL NOT NULL,
        PRIMARY KEY (key)
    )
     STRICT
    """,
    """
    CREATE TABLE instances (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        family TEXT NOT NULL,
        path TEXT NOT NULL,
        label TEXT NOT NULL,
        loaded TEXT NOT NULL,
        uid INTEGER,
        state TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        job_id INTEGER,
        ram_bytes INTEGER NOT NULL,
        slowness REAL NOT NULL,
        pid INTEGER,
        cpu_only INTEGER NOT NULL,
        created_at REAL NOT NULL,
        ready_at REAL,
        load_seconds REAL,
        last_used_at REAL NOT NULL,
        ended_at REAL,
        reason TEXT
    )
     STRICT
    """,
    "CREATE INDEX instances_open ON instances (id) WHERE state != 'gone'",
    "CREATE INDEX instances_path ON instances (path, id)",
    """
    CREATE TABLE instance_cards (
        instance_id INTEGER NOT NULL,
        position INTEGER NOT NULL,
        card_uuid TEXT NOT NULL,
        reserved_bytes INTEGER NOT NULL,
        estimated_bytes INTEGER NOT NULL,
        peak_bytes INTEGER,
        PRIMARY KEY (instance_id, position),
        FOREIGN KEY(instance_id) REFERENCES instances (id) ON DELETE CASCADE
    )
     STRICT
    """,
    """
    CREATE TABLE pins (
        path TEXT NOT NULL,
        pinned_by TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (path)
    )
     STRICT
    """,
    "ALTER TABLE attempts ADD COLUMN instance_id INTEGER",
)


def upgrade() -> None:
    """Add the tables of models, and to each attempt the copy that it ran on."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """A backup is the way back."""
    raise NotImplementedError("restore a backup instead")
