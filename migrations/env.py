"""Alembic's environment: one SQLite file, transactions that also roll back DDL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from p104d.store.tables import metadata


def run() -> None:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(context.config.attributes["path"])))

    @sa.event.listens_for(engine, "connect")
    def _connect(dbapi, _record) -> None:
        # The driver's own transaction handling would commit before every DDL statement.
        dbapi.isolation_level = None
        dbapi.execute("PRAGMA journal_mode=WAL")
        dbapi.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
