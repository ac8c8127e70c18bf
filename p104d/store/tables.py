"""The tables of queue.db. The migrations create them; a test holds both equal. docs/database.md explains them.

Times are Unix seconds, sizes bytes, flags 0 or 1.
"""

from __future__ import annotations

import sqlalchemy as sa

from p104d.store.columns import column as _column
from p104d.store.columns import metadata
from p104d.store.columns import table as _table
from p104d.store.model_tables import families, instance_cards, instances, pins

__all__ = ["families", "instance_cards", "instances", "metadata", "pins"]

settings = _table("settings", sa.Column("key", sa.TEXT, primary_key=True), _column("value", sa.TEXT))

requirements = _table(
    "requirements",
    sa.Column("id", sa.INTEGER, primary_key=True),
    sa.Column("requirement", sa.TEXT, nullable=False, unique=True),
)

#: One row a document of a submission; all jobs of its matrix share it. An id is never given again: ``needs`` of jobs
#: that are kept may still name a document that was forgotten.
documents = _table(
    "documents",
    sa.Column("id", sa.INTEGER, primary_key=True),
    _column("name", sa.TEXT),
    _column("spec", sa.TEXT),
    _column("env", sa.TEXT),
    _column("umask", sa.INTEGER),
    _column("time_limit_seconds", sa.REAL, null=True),
    autoincrement=True,
)

#: A document's jobs start only when these succeeded: one job, or all jobs of a document.
needs = _table(
    "needs",
    sa.Column("id", sa.INTEGER, primary_key=True),
    _column("document_id", sa.INTEGER, sa.ForeignKey("documents.id", ondelete="CASCADE")),
    _column("needs_job_id", sa.INTEGER, null=True),
    _column("needs_document_id", sa.INTEGER, null=True),
)
sa.Index("needs_of_document", needs.c.document_id)
sa.Index("needs_job", needs.c.needs_job_id, sqlite_where=needs.c.needs_job_id.is_not(None))
sa.Index("needs_document", needs.c.needs_document_id, sqlite_where=needs.c.needs_document_id.is_not(None))

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.INTEGER, primary_key=True),
    _column("document_id", sa.INTEGER, sa.ForeignKey("documents.id")),
    _column("schedule_id", sa.INTEGER, null=True),
    _column("name", sa.TEXT),
    _column("uid", sa.INTEGER),
    _column("user", sa.TEXT),
    _column("matrix", sa.TEXT, null=True),
    _column("state", sa.TEXT),
    _column("reason", sa.TEXT, null=True),
    _column("priority", sa.INTEGER),
    _column("requirement_id", sa.INTEGER, sa.ForeignKey("requirements.id")),
    _column("blocked", sa.INTEGER),
    _column("eligible_at", sa.REAL, null=True),
    _column("attempts", sa.INTEGER),
    _column("failures", sa.INTEGER),
    _column("submitted_at", sa.REAL),
    _column("started_at", sa.REAL, null=True),
    _column("ended_at", sa.REAL, null=True),
    _column("exit_code", sa.INTEGER, null=True),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)
_queued = jobs.c.state == sa.literal_column("'queued'")
#: The scheduler's own index: per requirement, the jobs that could start now, in order.
sa.Index(
    "jobs_ready",
    jobs.c.requirement_id,
    jobs.c.priority.desc(),
    jobs.c.id,
    sqlite_where=sa.and_(_queued, jobs.c.blocked == sa.literal_column("0"), jobs.c.eligible_at.is_(None)),
)
#: Who is first in line, whatever it asks for.
sa.Index(
    "jobs_order",
    jobs.c.priority.desc(),
    jobs.c.id,
    sqlite_where=sa.and_(_queued, jobs.c.blocked == sa.literal_column("0"), jobs.c.eligible_at.is_(None)),
)
sa.Index("jobs_timer", jobs.c.eligible_at, sqlite_where=sa.and_(_queued, jobs.c.eligible_at.is_not(None)))
sa.Index("jobs_state", jobs.c.state, jobs.c.id)
sa.Index("jobs_document", jobs.c.document_id, jobs.c.state)
sa.Index("jobs_name", jobs.c.name, jobs.c.id)
sa.Index("jobs_ended", jobs.c.ended_at, sqlite_where=jobs.c.ended_at.is_not(None))

#: How many jobs are in each state; kept by triggers inside the same transactions, so that a million jobs are counted
#: without being read.
state_counts = _table("state_counts", sa.Column("state", sa.TEXT, primary_key=True), _column("jobs", sa.INTEGER))

attempts = _table(
    "attempts",
    sa.Column("job_id", sa.INTEGER, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.INTEGER, primary_key=True),
    _column("boot_id", sa.TEXT),
    _column("outcome", sa.TEXT, null=True),
    _column("exit_code", sa.INTEGER, null=True),
    _column("signal", sa.INTEGER, null=True),
    _column("reason", sa.TEXT, null=True),
    _column("stop_reason", sa.TEXT, null=True),
    _column("pid", sa.INTEGER, null=True),
    _column("placed_at", sa.REAL),
    _column("started_at", sa.REAL, null=True),
    _column("ended_at", sa.REAL, null=True),
    _column("ends_by", sa.REAL, null=True),
    _column("ram_bytes", sa.INTEGER),
    _column("cards", sa.INTEGER),
    _column("cpu_seconds", sa.REAL, null=True),
    _column("max_rss_bytes", sa.INTEGER, null=True),
    _column("log_bytes", sa.INTEGER, null=True),
    _column("instance_id", sa.INTEGER, null=True),
)
sa.Index("attempts_open", attempts.c.job_id, sqlite_where=attempts.c.outcome.is_(None))
#: What ended in a while, for reports.
sa.Index("attempts_ended", attempts.c.ended_at, sqlite_where=attempts.c.ended_at.is_not(None))

attempt_cards = _table(
    "attempt_cards",
    sa.Column("job_id", sa.INTEGER, primary_key=True),
    sa.Column("number", sa.INTEGER, primary_key=True),
    sa.Column("position", sa.INTEGER, primary_key=True),
    _column("card_uuid", sa.TEXT),
    _column("reserved_bytes", sa.INTEGER),
    _column("exclusive", sa.INTEGER),
    _column("driver", sa.TEXT, null=True),
    _column("vbios", sa.TEXT, null=True),
    sa.ForeignKeyConstraint(["job_id", "number"], ["attempts.job_id", "attempts.number"], ondelete="CASCADE"),
)
sa.Index("attempt_cards_card", attempt_cards.c.card_uuid, attempt_cards.c.job_id)

measurements = _table(
    "measurements",
    sa.Column("job_id", sa.INTEGER, primary_key=True),
    sa.Column("number", sa.INTEGER, primary_key=True),
    sa.Column("name", sa.TEXT, primary_key=True),
    _column("value", sa.REAL),
    _column("unit", sa.TEXT),
    sa.ForeignKeyConstraint(["job_id", "number"], ["attempts.job_id", "attempts.number"], ondelete="CASCADE"),
)

#: The record, kept beyond the jobs: one row a measurement of an attempt that succeeded. Two of its indexes hold all
#: that a comparison reads, so that a million rows are compared without being fetched.
results = _table(
    "results",
    sa.Column("id", sa.INTEGER, primary_key=True),
    _column("at", sa.REAL),
    _column("job_id", sa.INTEGER),
    _column("attempt", sa.INTEGER),
    _column("name", sa.TEXT),
    _column("model", sa.TEXT, null=True),
    _column("user", sa.TEXT),
    _column("uid", sa.INTEGER),
    _column("cards", sa.INTEGER),
    _column("card_uuid", sa.TEXT, null=True),
    _column("card_uuids", sa.TEXT),
    _column("seconds", sa.REAL, null=True),
    _column("measure", sa.TEXT),
    _column("value", sa.REAL),
    _column("unit", sa.TEXT),
    _column("driver", sa.TEXT, null=True),
    _column("vbios", sa.TEXT, null=True),
    autoincrement=True,
)
_compared = (
    results.c.measure,
    results.c.at,
    results.c.card_uuid,
    results.c.cards,
    results.c.value,
    results.c.unit,
)
sa.Index("results_name", results.c.name, *_compared)
sa.Index("results_model", results.c.model, *_compared, sqlite_where=results.c.model.is_not(None))
sa.Index("results_card", results.c.card_uuid, results.c.measure, results.c.at)
sa.Index("results_at", results.c.at)
sa.Index("results_job", results.c.job_id, results.c.attempt)

cards = _table(
    "cards",
    sa.Column("uuid", sa.TEXT, primary_key=True),
    _column("identity", sa.TEXT),
    _column("driver", sa.TEXT, null=True),
    _column("verdict", sa.TEXT),
    _column("proven_bytes", sa.INTEGER, null=True),
    _column("drained", sa.INTEGER),
    _column("drained_by", sa.TEXT, null=True),
    _column("suspect", sa.TEXT, null=True),
    _column("first_seen_at", sa.REAL),
    _column("last_seen_at", sa.REAL),
    _column("proof", sa.TEXT, null=True),
    _column("due", sa.TEXT, null=True),
)

#: Every memory test that began. Written before its process is started, ended in the transaction that judges it.
memory_tests = _table(
    "memory_tests",
    sa.Column("id", sa.INTEGER, primary_key=True),
    _column("card_uuid", sa.TEXT),
    _column("depth", sa.TEXT),
    _column("cause", sa.TEXT),
    _column("asked_by", sa.TEXT, null=True),
    _column("state", sa.TEXT),
    _column("verdict", sa.TEXT, null=True),
    _column("text", sa.TEXT, null=True),
    _column("started_at", sa.REAL),
    _column("ended_at", sa.REAL, null=True),
    _column("driver", sa.TEXT, null=True),
    _column("vbios", sa.TEXT, null=True),
    _column("total_bytes", sa.INTEGER, null=True),
    _column("cuda_bytes", sa.INTEGER, null=True),
    _column("tested_bytes", sa.INTEGER, null=True),
    _column("proven_bytes", sa.INTEGER, null=True),
    _column("errors", sa.INTEGER, null=True),
    _column("write_bytes_per_second", sa.REAL, null=True),
    _column("read_bytes_per_second", sa.REAL, null=True),
    _column("copy_bytes_per_second", sa.REAL, null=True),
    _column("host_to_device_bytes_per_second", sa.REAL, null=True),
    _column("device_to_host_bytes_per_second", sa.REAL, null=True),
    _column("temperature_max_celsius", sa.INTEGER, null=True),
    _column("sm_clock_min_mhz", sa.INTEGER, null=True),
    _column("sm_clock_max_mhz", sa.INTEGER, null=True),
    _column("result", sa.TEXT, null=True),
    autoincrement=True,
)
sa.Index("memory_tests_card", memory_tests.c.card_uuid, memory_tests.c.id)
sa.Index(
    "memory_tests_running",
    memory_tests.c.id,
    sqlite_where=memory_tests.c.state == sa.literal_column("'running'"),
)

schedules = _table(
    "schedules",
    sa.Column("id", sa.INTEGER, primary_key=True),
    _column("document_id", sa.INTEGER, sa.ForeignKey("documents.id")),
    _column("name", sa.TEXT),
    _column("uid", sa.INTEGER),
    _column("user", sa.TEXT),
    _column("cron", sa.TEXT),
    _column("timezone", sa.TEXT, null=True),
    _column("state", sa.TEXT),
    _column("created_at", sa.REAL),
    _column("next_run_at", sa.REAL, null=True),
    _column("last_run_at", sa.REAL, null=True),
    _column("last_job_id", sa.INTEGER, null=True),
)

#: Notifications owed: written in the transaction that ends the job, done when their process has ended.
notifications = _table(
    "notifications",
    sa.Column("id", sa.INTEGER, primary_key=True),
    _column("job_id", sa.INTEGER, null=True),
    _column("uid", sa.INTEGER),
    _column("user", sa.TEXT),
    _column("command", sa.TEXT),
    _column("env", sa.TEXT),
    _column("created_at", sa.REAL),
    _column("tries", sa.INTEGER),
    _column("state", sa.TEXT),
    _column("error", sa.TEXT, null=True),
)
_notification = notifications.c
sa.Index(
    "notifications_owed",
    _notification.uid,
    _notification.id,
    sqlite_where=_notification.state == sa.literal_column("'owed'"),
)
sa.Index("notifications_sending", _notification.uid, sqlite_where=_notification.state == sa.literal_column("'sending'"))
