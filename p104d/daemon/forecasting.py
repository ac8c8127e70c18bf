"""``p104ctl plan``: what the forecast reads, in one transaction, and what it comes to, as people are told it.

The policy plays in a thread: a long queue takes it a second or two, and everybody else is answered meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from p104d.api.forecast import Forecast, ForecastJob, NeverStarts
from p104d.core.units import iso
from p104d.daemon.forecast_input import Input, read
from p104d.daemon.loop import Loop
from p104d.policy.forecast import foretell
from p104d.policy.forecast_view import Foretold, Planned
from p104d.policy.forecast_words import waits_for

#: Models that nobody has looked at since the start are looked at first, if that does not take longer.
_LOOK_SECONDS = 10.0


async def forecast(loop: Loop, cards: int | None, limit: int) -> Forecast:
    """When the queue will be done, on this rig's cards or on so many like its best; at most ``limit`` jobs told."""
    given = _read(loop, cards)
    if given.unlooked:
        # What cannot be looked at in time is told as such.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await asyncio.gather(*(loop.models.look(path, uid) for path, uid in given.unlooked))
        given = _read(loop, cards)
    told = await asyncio.to_thread(foretell, given.question)
    return _answer(given, told, limit)


def _read(loop: Loop, cards: int | None) -> Input:
    with loop.database.read() as conn:
        return read(loop, conn, cards)


def _answer(given: Input, told: Foretold, limit: int) -> Forecast:
    now = given.question.snapshot.now
    jobs = [*sorted(given.running, key=lambda job: (job.starts_at or "", job.id)), *_planned(given, told)]
    ends = [each.ends for each in told.planned] + [each.ends_at for each in given.question.underway]
    # Of a queue that was not played to its end nobody knows the end.
    done = max(ends) if ends and not told.left and not given.left_out else None
    never = [NeverStarts(id=each.id, name=given.jobs[each.id].name, reason=each.reason) for each in told.never]
    notes = list(given.notes)
    if told.left:
        notes.append(f"{len(told.left)} jobs are left out: to play this queue to its end would take too long")
    return Forecast(
        at=iso(now) or "",
        cards=len(given.question.snapshot.cards),
        hypothetical=given.imagined,
        done_at=iso(done),
        makespan_seconds=None if done is None else round(max(0.0, done - now), 3),
        loads=told.loads,
        jobs=jobs[:limit],
        never=never[:limit],
        left_out=max(0, len(jobs) - limit) + max(0, len(never) - limit) + len(told.left) + given.left_out,
        notes=notes,
    )


def _planned(given: Input, told: Foretold) -> list[ForecastJob]:
    places = {card.uuid: card.index for card in given.question.snapshot.cards}
    names = {uuid: str(index) for uuid, index in places.items()}
    ahead = {each.job.id: each for each in given.question.ahead}
    running = {each.id for each in given.question.underway}
    found = []
    for each in told.planned:
        job = ahead[each.id]
        needs = given.question.needs.get(job.document, ()) if job.document is not None else ()
        words = waits_for(each, job, needs, given.question.snapshot.now, names, running)
        found.append(_job(given, each, places, words))
    return found


def _job(given: Input, planned: Planned, places: Mapping[str, int], words: str | None) -> ForecastJob:
    job = given.jobs[planned.id]
    return ForecastJob(
        id=planned.id,
        name=job.name,
        model=job.model,
        state=job.state,
        starts_at=iso(planned.starts),
        ends_at=iso(planned.ends),
        cards=[] if given.imagined else list(planned.cards),
        waits_for=words,
        guessed=job.guessed,
        places=[places[uuid] for uuid in planned.cards] if given.imagined else [],
    )
