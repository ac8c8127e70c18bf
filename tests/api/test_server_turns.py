"""One of a user's requests at a turn of the loop, whatever is asked; everybody else's come in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from server_rig import Served

from p104d.api import server
from p104d.api.door import Shares
from p104d.api.service import Caller

MANY = 24
KINDS = {
    "status": b"GET /v1/status HTTP/1.1\r\n",
    "metrics": b"GET /metrics HTTP/1.1\r\n",
    "no route": b"GET /v1/nowhere HTTP/1.1\r\n",
    "wire": b"GET /v1/status HTTP/1.1\r\nP104-Wire: 9\r\n",
    "no filter": b"GET /v1/jobs?limit=x HTTP/1.1\r\n",
    "packed": b"POST /v1/submit HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n",
    "body": b"POST /v1/pause HTTP/1.1\r\nContent-Length: 2\r\n",
}


class Turns:
    """Counts the turns of a server's loop, and notes at which of them something was answered, and to whom."""

    def __init__(self, served: Served) -> None:
        self._loop, self.now, self._on = served.loop, 0, True
        self.answered: list[tuple[int, int]] = []
        self._loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self.now += 1
        if self._on:
            self._loop.call_soon(self._turn)

    def stop(self) -> None:
        self._on = False


@contextlib.contextmanager
def stuck(served: Served) -> Iterator[None]:
    """The loop stands still, so that what is sent meanwhile comes together."""
    still, free = threading.Event(), threading.Event()

    def stand() -> None:
        still.set()
        free.wait(10)

    served.loop.call_soon_threadsafe(stand)
    assert still.wait(10)
    try:
        yield
    finally:
        free.set()


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_a_users_requests_at_a_turn(served: Served, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, uids = Turns(served), itertools.cycle([1, 1, 1, 2])
    monkeypatch.setattr(served.server._gate, "caller", lambda _: Caller(next(uids), "x", admin=True))
    whose: dict[Any, int] = {}

    def noting(answer: Any) -> Any:
        def note(*arguments: Any, **options: Any) -> Any:
            uid = whose[asyncio.current_task()]
            turns.answered.append((turns.now, uid))
            return answer(*arguments, **options)

        return note

    ask = Shares.turn

    async def turn(shares: Shares, uid: int) -> None:
        whose[asyncio.current_task()] = uid
        await ask(shares, uid)

    monkeypatch.setattr(Shares, "turn", turn)
    monkeypatch.setattr(server, "answer", noting(server.answer))
    monkeypatch.setattr(server, "error_answer", noting(server.error_answer))
    monkeypatch.setattr(served.service, "metrics", noting(served.service.metrics))
    request = KINDS[kind] + b"Host: x\r\n\r\n" + (b"{}" if kind == "body" else b"")
    with contextlib.ExitStack() as closing:
        connections = [closing.enter_context(served.connect()) for _ in range(MANY)]
        with stuck(served):
            for each in connections:
                each.sendall(request)
        heads = [each.recv(65536)[:8] for each in connections]
        turns.stop()
    assert heads == [b"HTTP/1.1"] * MANY and len(turns.answered) == MANY
    assert len(set(turns.answered)) == MANY, "two of one user's requests at one turn of the loop"
    of_one = sorted(now for now, uid in turns.answered if uid == 1)
    of_two = sorted(now for now, uid in turns.answered if uid == 2)
    assert len(of_one) == 3 * len(of_two), "the callers are told apart"
    assert of_two[-1] < of_one[len(of_one) * 2 // 3], "the other one was not kept waiting"
