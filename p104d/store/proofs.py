"""Memory tests: begun before their process is started, ended in the transaction that judges them."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.card import DueTest
from p104d.store import sql


class EndedTest(msgspec.Struct, frozen=True, kw_only=True):
    """How a test ended: ``finished``, ``preempted``, ``stopped`` or ``interrupted``; the columns of ``memory_tests``.

    ``result`` is the whole finding as JSON. Sizes in bytes, speeds in bytes a second, None for what is not known.
    """

    state: str
    ended_at: float
    verdict: str | None = None
    text: str | None = None
    cuda_bytes: int | None = None
    tested_bytes: int | None = None
    proven_bytes: int | None = None
    errors: int | None = None
    write_bytes_per_second: float | None = None
    read_bytes_per_second: float | None = None
    copy_bytes_per_second: float | None = None
    host_to_device_bytes_per_second: float | None = None
    device_to_host_bytes_per_second: float | None = None
    temperature_max_celsius: int | None = None
    sm_clock_min_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    result: str | None = None


_ENDED_COLUMNS = EndedTest.__struct_fields__
_SET = ", ".join(f"{name} = ?" for name in _ENDED_COLUMNS)
_END = f"UPDATE memory_tests SET {_SET} WHERE id = ? AND state = 'running'"  # noqa: S608 - this module's own names


def begin(
    conn: Connection,
    uuid: str,
    due: DueTest,
    now: float,
    *,
    driver: str | None,
    vbios: str | None,
    total_bytes: int | None,
) -> int:
    """Note that a test of the card is to start; its id."""
    found = sql.value(
        conn,
        "INSERT INTO memory_tests (card_uuid, depth, cause, asked_by, state, started_at, driver, vbios, total_bytes) "
        "VALUES (?,?,?,?,'running',?,?,?,?) RETURNING id",
        (uuid, due.depth, due.cause, due.asked_by, now, driver, vbios, total_bytes),
    )
    return int(found)


def end(conn: Connection, test_id: int, ended: EndedTest) -> bool:
    """Write how a running test ended; False where it has ended already."""
    values = tuple(getattr(ended, name) for name in _ENDED_COLUMNS)
    return sql.run(conn, _END, (*values, test_id)) > 0


def interrupt_all(conn: Connection, now: float) -> int:
    """Tests that a daemon of before left behind: their processes died with it. How many there were."""
    return sql.run(
        conn,
        "UPDATE memory_tests SET state = 'interrupted', ended_at = ?, text = 'p104d ended' WHERE state = 'running'",
        (now,),
    )


_COLUMNS = "id, card_uuid, depth, cause, asked_by, started_at, driver, vbios, total_bytes, " + ", ".join(_ENDED_COLUMNS)


def tests(conn: Connection, uuid: str | None = None, limit: int = 50) -> list[Any]:
    """The newest tests, of one card or of all, newest first."""
    if uuid is None:
        return sql.rows(conn, f"SELECT {_COLUMNS} FROM memory_tests ORDER BY id DESC LIMIT ?", (limit,))  # noqa: S608
    return sql.rows(
        conn,
        f"SELECT {_COLUMNS} FROM memory_tests WHERE card_uuid = ? ORDER BY id DESC LIMIT ?",  # noqa: S608
        (uuid, limit),
    )


def test(conn: Connection, test_id: int) -> Any | None:
    """One test."""
    return sql.row(conn, f"SELECT {_COLUMNS} FROM memory_tests WHERE id = ?", (test_id,))  # noqa: S608
