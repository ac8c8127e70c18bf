"""What every table is made of: STRICT, its columns NOT NULL unless said otherwise."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


def table(name: str, *items: sa.schema.SchemaItem, autoincrement: bool = False) -> sa.Table:
    """A STRICT table. ``autoincrement``: an id is never given again."""
    return sa.Table(name, metadata, *items, sqlite_strict=True, sqlite_autoincrement=autoincrement)


def column(
    name: str, kind: type[sa.types.TypeEngine[Any]], *items: sa.schema.SchemaItem, null: bool = False
) -> sa.Column[Any]:
    """A column; ``null``: it may be absent."""
    return sa.Column(name, kind, *items, nullable=null)
