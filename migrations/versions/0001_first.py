"""The first schema.

The statements are written out, not taken from the tables' definitions: what a migration does must not change when
the tables later do.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE cards (
        uuid TEXT NOT NULL,
        identity TEXT NOT NULL,
        driver TEXT,
        verdict TEXT NOT NULL,
        proven_bytes INTEGER,
        drained INTEGER NOT NULL,
        drained_by TEXT,
        suspect TEXT,
        first_seen_at REAL NOT NULL,
        last_seen_at REAL NOT NULL,
        PRIMARY KEY (uuid)
    )
     STRICT
    """,
    """
    CREATE TABLE documents (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        spec TEXT NOT NULL,
        env TEXT NOT NULL,
        umask INTEGER NOT NULL,
        time_limit_seconds REAL
    )
     STRICT
    """,
    """
    CREATE TABLE notifications (
        id INTEGER NOT NULL,
        job_id INTEGER,
        uid INTEGER NOT NULL,
        user TEXT NOT NULL,
        command TEXT NOT NULL,
        env TEXT NOT NULL,
        created_at REAL NOT NULL,
        tries INTEGER NOT NULL,
        state TEXT NOT NULL,
        error TEXT,
        PRIMARY KEY (id)
    )
     STRICT
    """,
    """
    CREATE INDEX notifications_owed ON notifications (id) WHERE state = 'owed'
    """,
    """
    CREATE TABLE requirements (
        id INTEGER NOT NULL,
        requirement TEXT NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (requirement)
    )
     STRICT
    """,
    """
    CREATE TABLE settings (
        "key" TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY ("key")
    )
     STRICT
    """,
    """
    CREATE TABLE state_counts (
        state TEXT NOT NULL,
        jobs INTEGER NOT NULL,
        PRIMARY KEY (state)
    )
     STRICT
    """,
    """
    CREATE TABLE jobs (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        document_id INTEGER NOT NULL,
        schedule_id INTEGER,
        name TEXT NOT NULL,
        uid INTEGER NOT NULL,
        user TEXT NOT NULL,
        matrix TEXT,
        state TEXT NOT NULL,
        reason TEXT,
        priority INTEGER NOT NULL,
        requirement_id INTEGER NOT NULL,
        blocked INTEGER NOT NULL,
        eligible_at REAL,
        attempts INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        submitted_at REAL NOT NULL,
        started_at REAL,
        ended_at REAL,
        exit_code INTEGER,
        FOREIGN KEY(document_id) REFERENCES documents (id),
        FOREIGN KEY(requirement_id) REFERENCES requirements (id)
    )
     STRICT
    """,
    """
    CREATE INDEX jobs_document ON jobs (document_id, state)
    """,
    """
    CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL
    """,
    """
    CREATE INDEX jobs_name ON jobs (name, id)
    """,
    """
    CREATE INDEX jobs_order ON jobs (priority DESC, id)
        WHERE state = 'queued' AND blocked = 0 AND eligible_at IS NULL
    """,
    """
    CREATE INDEX jobs_ready ON jobs (requirement_id, priority DESC, id)
        WHERE state = 'queued' AND blocked = 0 AND eligible_at IS NULL
    """,
    """
    CREATE INDEX jobs_state ON jobs (state, id)
    """,
    """
    CREATE INDEX jobs_timer ON jobs (eligible_at) WHERE state = 'queued' AND eligible_at IS NOT NULL
    """,
    """
    CREATE TABLE needs (
        id INTEGER NOT NULL,
        document_id INTEGER NOT NULL,
        needs_job_id INTEGER,
        needs_document_id INTEGER,
        PRIMARY KEY (id),
        FOREIGN KEY(document_id) REFERENCES documents (id) ON DELETE CASCADE
    )
     STRICT
    """,
    """
    CREATE INDEX needs_document ON needs (needs_document_id) WHERE needs_document_id IS NOT NULL
    """,
    """
    CREATE INDEX needs_job ON needs (needs_job_id) WHERE needs_job_id IS NOT NULL
    """,
    """
    CREATE INDEX needs_of_document ON needs (document_id)
    """,
    """
    CREATE TABLE schedules (
        id INTEGER NOT NULL,
        document_id INTEGER NOT NULL,
        name TEXT NOT NULL,
        uid INTEGER NOT NULL,
        user TEXT NOT NULL,
        cron TEXT NOT NULL,
        timezone TEXT,
        state TEXT NOT NULL,
        created_at REAL NOT NULL,
        next_run_at REAL,
        last_run_at REAL,
        last_job_id INTEGER,
        PRIMARY KEY (id),
        FOREIGN KEY(document_id) REFERENCES documents (id)
    )
     STRICT
    """,
    """
    CREATE TABLE attempts (
        job_id INTEGER NOT NULL,
        number INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        outcome TEXT,
        exit_code INTEGER,
        signal INTEGER,
        reason TEXT,
        stop_reason TEXT,
        pid INTEGER,
        placed_at REAL NOT NULL,
        started_at REAL,
        ended_at REAL,
        ends_by REAL,
        ram_bytes INTEGER NOT NULL,
        cards INTEGER NOT NULL,
        cpu_seconds REAL,
        max_rss_bytes INTEGER,
        log_bytes INTEGER,
        PRIMARY KEY (job_id, number),
        FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
    )
     STRICT
    """,
    """
    CREATE INDEX attempts_open ON attempts (job_id) WHERE outcome IS NULL
    """,
    """
    CREATE TABLE attempt_cards (
        job_id INTEGER NOT NULL,
        number INTEGER NOT NULL,
        position INTEGER NOT NULL,
        card_uuid TEXT NOT NULL,
        reserved_bytes INTEGER NOT NULL,
        "exclusive" INTEGER NOT NULL,
        PRIMARY KEY (job_id, number, position),
        FOREIGN KEY(job_id, number) REFERENCES attempts (job_id, number) ON DELETE CASCADE
    )
     STRICT
    """,
    """
    CREATE INDEX attempt_cards_card ON attempt_cards (card_uuid, job_id)
    """,
    """
    CREATE TABLE measurements (
        job_id INTEGER NOT NULL,
        number INTEGER NOT NULL,
        name TEXT NOT NULL,
        value REAL NOT NULL,
        unit TEXT NOT NULL,
        PRIMARY KEY (job_id, number, name),
        FOREIGN KEY(job_id, number) REFERENCES attempts (job_id, number) ON DELETE CASCADE
    )
     STRICT
    """,
)

STATES = ("held", "queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled", "lost")

TRIGGERS = (
    """
    CREATE TRIGGER jobs_counted_in AFTER INSERT ON jobs BEGIN
        UPDATE state_counts SET jobs = jobs + 1 WHERE state = NEW.state;
    END
    """,
    """
    CREATE TRIGGER jobs_counted_over AFTER UPDATE OF state ON jobs WHEN OLD.state <> NEW.state BEGIN
        UPDATE state_counts SET jobs = jobs - 1 WHERE state = OLD.state;
        UPDATE state_counts SET jobs = jobs + 1 WHERE state = NEW.state;
    END
    """,
    """
    CREATE TRIGGER jobs_counted_out AFTER DELETE ON jobs BEGIN
        UPDATE state_counts SET jobs = jobs - 1 WHERE state = OLD.state;
    END
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    for state in STATES:
        op.execute(f"INSERT INTO state_counts (state, jobs) VALUES ('{state}', 0)")
    for statement in TRIGGERS:
        op.execute(statement)
