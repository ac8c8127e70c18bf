"""What is known of models: bounded for each user, so that one with thousands of models is no trouble to others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from p104d.core.job import ModelNeed
from p104d.daemon import models as module
from p104d.daemon.model_prober import Probed, Prober
from p104d.daemon.models import FRESH_SECONDS, MOST_A_MINUTE, Models

OTHER = os.getuid() + 70_000


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def need(path: str, uid: int) -> ModelNeed:
    return ModelNeed(path=path, context=512, kv_cache="f16", parallel=1, uid=uid)


def played(monkeypatch: pytest.MonkeyPatch, play: Callable[[Models, Clock, list[str]], object]) -> None:
    """``play`` with Models whose looks are noted and find nothing, in a running loop."""
    looked: list[str] = []

    async def probe(_prober: Prober, path: str, _source: str | None, **_who: object) -> Probed:
        looked.append(path)
        return Probed(error="nothing")

    monkeypatch.setattr(Prober, "probe", probe)

    async def run() -> None:
        clock = Clock()
        models = Models(system=True, user="", units_in=None, monotonic=clock, wake=lambda: None)
        try:
            await play(models, clock, looked)  # type: ignore[misc]
        finally:
            await models.close()

    asyncio.run(run())


async def asked(models: Models, count: int, uid: int) -> int:
    """How many of so many models are known after they were asked for."""
    wanted = [need(f"/{n}", uid) for n in range(count)]
    for each in wanted:
        models.fresh(each)
    while models._tasks:
        await asyncio.sleep(0)
    return sum(models.fresh(each) for each in wanted)


def test_looks_of_one_user_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(models: Models, clock: Clock, looked: list[str]) -> None:
        assert await asked(models, MOST_A_MINUTE + 30, OTHER) == MOST_A_MINUTE == len(looked)
        assert await asked(models, 5, os.getuid()) == 5, "nobody else waits"
        clock.now += 60
        assert await asked(models, MOST_A_MINUTE + 30, OTHER) == MOST_A_MINUTE

    played(monkeypatch, play)


def test_of_one_user_so_much_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KNOWN", 10)

    async def play(models: Models, _clock: Clock, _looked: list[str]) -> None:
        await asked(models, 3, os.getuid())
        await asked(models, 30, OTHER)
        assert sum(key[1] == OTHER for key in models._looks) == 10
        assert all(models.fresh(need(f"/{n}", os.getuid())) for n in range(3))

    played(monkeypatch, play)


def test_a_look_of_long_ago_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(models: Models, clock: Clock, looked: list[str]) -> None:
        await asked(models, 1, OTHER)
        clock.now += FRESH_SECONDS + 1
        assert not models.fresh(need("/0", OTHER))
        assert await asked(models, 1, OTHER) == 1 and len(looked) == 2

    played(monkeypatch, play)
