"""Long questions: beside the loop, a few at a time."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.engine import Connection
from store_rig import add, document

from p104d.core.errors import UnavailableError
from p104d.daemon.aside import Aside
from p104d.store import sql
from p104d.store.engine import Database


def count(conn: Connection) -> int:
    return int(sql.value(conn, "SELECT count(*) FROM jobs"))


def test_the_loop_goes_on_and_others_wait_their_turn(database: Database) -> None:
    with database.write() as conn:
        add(conn, document("one"))
    free, inside = threading.Event(), threading.Semaphore(0)

    def slow(conn: Connection) -> int:
        assert threading.current_thread() is not threading.main_thread()
        before = count(conn)
        inside.release()
        assert free.wait(20) and count(conn) == before
        return before

    async def ask() -> list[int]:
        aside = Aside(database)
        asked = [asyncio.create_task(aside.ask(slow)) for _ in range(3)]
        for _ in range(2):
            assert await asyncio.to_thread(inside.acquire, timeout=20)
        with database.write() as conn:  # the queue is written to meanwhile
            add(conn, document("two"))
        assert not inside.acquire(blocking=False), "three at once"
        free.set()
        return await asyncio.gather(*asked)

    # Each sees the queue as it was when its question began.
    assert sorted(asyncio.run(ask())) == [1, 1, 2]


def test_damage_is_told(database: Database) -> None:
    told: list[str] = []
    database.on_damage = told.append
    with database.write() as conn:
        add(conn, document("one"))
        root = int(sql.value(conn, "SELECT rootpage FROM sqlite_schema WHERE name = 'jobs'"))
        size = int(sql.value(conn, "PRAGMA page_size"))
    database.close()
    with database.path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    with pytest.raises(UnavailableError):
        asyncio.run(Aside(database).ask(lambda conn: sql.rows(conn, "SELECT name FROM jobs NOT INDEXED")))
    assert len(told) == 1
