"""The tables of models on cards; part of ``tables``."""

from __future__ import annotations

import sqlalchemy as sa

from p104d.store.columns import column as _column
from p104d.store.columns import table as _table

#: Model families: one file, loaded in one way. What its jobs took so far.
families = _table(
    "families",
    sa.Column("key", sa.TEXT, primary_key=True, nullable=False),
    _column("path", sa.TEXT),
    _column("label", sa.TEXT),
    _column("runs", sa.INTEGER),
    _column("run_seconds", sa.REAL),
)

#: Copies of models on cards, each a server of its own: written before it is started, kept as the record of what
#: loading took. ``loaded`` is how it was loaded, as JSON; ``job_id`` the job that asked for it.
instances = _table(
    "instances",
    sa.Column("id", sa.INTEGER, primary_key=True),
    _column("family", sa.TEXT),
    _column("path", sa.TEXT),
    _column("label", sa.TEXT),
    _column("loaded", sa.TEXT),
    _column("uid", sa.INTEGER, null=True),
    _column("state", sa.TEXT),
    _column("boot_id", sa.TEXT),
    _column("job_id", sa.INTEGER, null=True),
    _column("ram_bytes", sa.INTEGER),
    _column("slowness", sa.REAL),
    _column("pid", sa.INTEGER, null=True),
    _column("cpu_only", sa.INTEGER),
    _column("created_at", sa.REAL),
    _column("ready_at", sa.REAL, null=True),
    _column("load_seconds", sa.REAL, null=True),
    _column("last_used_at", sa.REAL),
    _column("ended_at", sa.REAL, null=True),
    _column("reason", sa.TEXT, null=True),
    autoincrement=True,
)
sa.Index("instances_open", instances.c.id, sqlite_where=instances.c.state != sa.literal_column("'gone'"))
sa.Index("instances_path", instances.c.path, instances.c.id)

instance_cards = _table(
    "instance_cards",
    sa.Column("instance_id", sa.INTEGER, sa.ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.INTEGER, primary_key=True),
    _column("card_uuid", sa.TEXT),
    _column("reserved_bytes", sa.INTEGER),
    _column("estimated_bytes", sa.INTEGER),
    _column("peak_bytes", sa.INTEGER, null=True),
)

pins = _table(
    "pins",
    sa.Column("path", sa.TEXT, primary_key=True, nullable=False),
    _column("pinned_by", sa.TEXT),
    _column("at", sa.REAL),
)
