"""Waiting for jobs: what one who waits may take of the daemon, and when they are answered."""

from __future__ import annotations

import asyncio
import tracemalloc
from types import SimpleNamespace

import pytest
from store_rig import add, bring, document

from p104d.api.messages import WaitedJobs
from p104d.api.service import Caller
from p104d.core.errors import NotFoundError, UnavailableError
from p104d.core.job import JobState
from p104d.daemon import waiters as w
from p104d.daemon.reading import Readings
from p104d.daemon.waiters import Waiters
from p104d.store.engine import Database

ANNA, BERT = Caller(1000, "anna", admin=False), Caller(1001, "bert", admin=False)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_all_have_to_end() -> None:
    async def play() -> None:
        waiters = Waiters()
        waiting = asyncio.create_task(waiters.all_ended([1, 2, 3], None))
        await turns()
        for job in (1, 1, 2, 4, 1):
            waiters.ended(job)
        await turns()
        assert not waiting.done()
        waiters.ended(3)
        await asyncio.wait_for(waiting, 10)
        await waiters.all_ended([5, 6], 0.001)
        followers = [asyncio.create_task(waiters.next_start(7)) for _ in range(3)]
        await turns()
        followers[0].cancel()
        waiters.started(7)
        await turns()
        assert all(each.done() for each in followers)
        follower = asyncio.create_task(waiters.next_start(7))
        await turns()
        waiters.ended(7)
        await asyncio.wait_for(follower, 10)
        assert waiters._ends == {} and waiters._starts == {} and not waiters._awaited

    asyncio.run(play())


def test_one_who_waits_for_many_is_one() -> None:
    """No future for each job: 36,000 of them took 50 MB a request."""

    async def play() -> int:
        waiters, ids = Waiters(), list(range(36_000))
        first = asyncio.create_task(waiters.all_ended(ids, None))
        await turns()
        tracemalloc.start()
        others = [asyncio.create_task(waiters.all_ended(ids, None)) for _ in range(5)]
        await turns()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for each in (first, *others):
            each.cancel()
        await turns()
        assert waiters._ends == {}
        return size

    assert asyncio.run(play()) < 30_000_000


def readings(database: Database) -> Readings:
    """No more of them than a wait needs."""
    made = Readings.__new__(Readings)
    made._loop = SimpleNamespace(waiters=Waiters(), database=database)  # type: ignore[assignment]
    return made


def ask(database: Database, *ids: int, timeout: float | None = None, caller: Caller = ANNA) -> WaitedJobs:
    return asyncio.run(readings(database).wait(caller, list(ids), timeout))


def test_what_has_ended_is_not_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.write() as conn:
        jobs = add(conn, document("one"), document("two"))
        bring(conn, jobs[0], JobState.CANCELLED)
    awaited: list[list[int]] = []

    async def all_ended(_self: Waiters, ids: list[int], _timeout: float | None) -> None:
        awaited.append(ids)

    monkeypatch.setattr(Waiters, "all_ended", all_ended)
    one, two = jobs
    assert [each.id for each in ask(database, two, one, two).jobs] == [two, one, two]
    assert awaited == [[two]]
    ask(database, one, one)
    ask(database, one, two, timeout=0)
    assert awaited == [[two]]
    with pytest.raises(NotFoundError):
        ask(database, one, 99)


def test_a_user_waits_for_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    monkeypatch.setattr(w, "MOST_AWAITED", 5)
    with database.write() as conn:
        [job] = add(conn, document("one"))

    async def play() -> None:
        made = readings(database)
        waiting = [asyncio.create_task(made.wait(ANNA, [job] * 2, None)) for _ in range(2)]
        await turns()
        with pytest.raises(UnavailableError, match="waited for already"):
            await made.wait(ANNA, [job] * 2, 0)
        await made.wait(BERT, [job] * 2, 0)
        made._loop.waiters.ended(job)
        await asyncio.gather(*waiting)
        await made.wait(ANNA, [job] * 5, 0)

    asyncio.run(play())
