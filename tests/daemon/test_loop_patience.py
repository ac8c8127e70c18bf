"""A step that cannot be committed is tried again in a while, and everything else goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from p104d.core.errors import UnavailableError
from p104d.daemon.config import Config, settle
from p104d.daemon.events import StopJob
from p104d.daemon.loop import Loop


class Full:
    """A queue on a full disk, or one with a mistake in it."""

    def __init__(self, error: Exception) -> None:
        self.error, self.tries = error, 0

    @contextlib.contextmanager
    def write(self) -> Any:
        self.tries += 1
        raise self.error
        yield


class Clock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.mark.parametrize("error", [UnavailableError("the queue cannot be written"), RuntimeError("a mistake")])
def test_others_have_their_turn_while_nothing_can_be_written(error: Exception) -> None:
    async def run() -> tuple[int, int]:
        database = Full(error)
        loop = Loop(
            database=database,  # type: ignore[arg-type]
            rig=None,  # type: ignore[arg-type]
            supervisor=None,  # type: ignore[arg-type]
            proofs=lambda _: None,  # type: ignore[arg-type, return-value]
            models=lambda _: None,  # type: ignore[arg-type, return-value]
            servers=None,  # type: ignore[arg-type]
            settings=settle(Config()),
            clock=Clock(),
            boot_id="x",
            paused=False,
        )
        loop.post(StopJob(1, "why"))
        stopping, turns = asyncio.Event(), 0
        task = asyncio.create_task(loop.run(stopping))
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            await asyncio.sleep(0.01)
            turns += 1
        # A request is told so, and does not make the loop spin either.
        with pytest.raises(type(error)):
            loop.step(lambda *_: True)
        for _ in range(5):
            await asyncio.sleep(0.01)
        stopping.set()
        await asyncio.wait_for(task, 5)
        return turns, database.tries

    turns, tries = asyncio.run(run())
    assert turns > 20, "nobody else had a turn"
    assert tries <= 4, "it was tried again and again"
