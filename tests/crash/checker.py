"""Whether p104d kept its word: all the evidence held together.

Each check is named; the first word of what it says is the job it is about. ``check`` returns what is wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import asking
from evidence import Attempt, Check, Evidence, Hold, Job
from workload import ENGINE, KINDS, kind_of

ENDED = ("succeeded", "failed", "cancelled", "lost")
#: The attempt's outcome that a job's final state must rest on.
_OUTCOMES = {"succeeded": {"succeeded"}, "failed": {"failed"}, "lost": {"lost"}}

#: Why a job on a model begins again, without anybody having to say that it may.
SERVER_WORDS = ("its model server ended", "its model server stopped answering")
#: And why it fails when somebody kills its runner, or a server that is being loaded, maybe at its first token.
KILLED_WORDS = ("signal 9", "the server ended the connection", *SERVER_WORDS)

# --- the checks ----------------------------------------------------------------------------------------------------


def kept(e: Evidence) -> Iterator[str]:
    """What was acknowledged is there."""
    for job, name in e.acknowledged.items():
        if job not in e.jobs:
            yield f"{job} ({name}) was acknowledged and is gone"
        elif e.jobs[job].name != name:
            yield f"{job} was acknowledged as {name} and is {e.jobs[job].name}"


def final(e: Evidence) -> Iterator[str]:
    """Every job has one final state, and all of its attempts an end."""
    for job in e.jobs.values():
        if job.state not in ENDED:
            yield f"{job.id} ({job.name}) is {job.state} for ever"
            continue
        tried = e.of(job.id)
        if [each.number for each in tried] != list(range(1, job.attempts + 1)):
            yield f"{job.id} has attempts {[each.number for each in tried]} of {job.attempts}"
        if not tried and job.state != "cancelled":
            yield f"{job.id} is {job.state} without an attempt"
        wanted = _OUTCOMES.get(job.state)
        if tried and wanted and tried[-1].outcome not in wanted:
            yield f"{job.id} is {job.state}, its last attempt {tried[-1].outcome}"
    for each in e.attempts.values():
        if each.outcome is None or each.ended_at is None:
            yield f"{each.job} attempt {each.number} has no end"


def once(e: Evidence) -> Iterator[str]:
    """No attempt starts twice, and none that nobody knows or that was taken back."""
    for (job, number), count in sorted(e.starts.items()):
        made = e.attempts.get((job, number))
        if count > 1:
            yield f"{job} attempt {number} started {count} times"
        if made is None:
            yield f"{job} attempt {number} started, and the queue does not know it"
        elif made.outcome == "revoked":
            yield f"{job} attempt {number} started, and was taken back"
        elif made.exit_code in (126, 127):
            yield f"{job} attempt {number} started, and has {made.exit_code}"


def again(e: Evidence) -> Iterator[str]:
    """A job runs again only where its specification or its owner says so."""
    for job in e.jobs.values():
        failures, asked = 0, e.retried[job.id]
        for before, after in pairwise(e.of(job.id)):
            if before.ended_at is not None and after.placed_at < before.ended_at - 0.001:
                yield f"{job.id} attempt {after.number} was placed before attempt {before.number} ended"
            if before.outcome == "revoked" or (before.outcome == "lost" and job.idempotent):
                continue
            if kind_of(job.name) in ENGINE and before.outcome == "failed" and before.reason in SERVER_WORDS:
                continue
            if before.outcome == "failed" and failures < job.retries:
                failures += 1
            elif asked:
                asked, failures = asked - 1, 0
            else:
                yield f"{job.id} ran again after attempt {before.number}, which was {before.outcome}"


def runs(e: Evidence) -> Iterator[str]:
    """By the jobs' own notes alone: how often each ran. (After a loss, once more where it is idempotent.)"""
    ran: Counter[int] = Counter()
    for (job, _number), count in e.starts.items():
        ran[job] += count
    for job in e.jobs.values():
        lost = sum(each.outcome == "lost" for each in e.of(job.id)) if job.idempotent else 0
        most = (1 + e.retried[job.id]) * (1 + job.retries) + lost
        if ran[job.id] > most:
            yield f"{job.id} ran {ran[job.id]} times, which may run {most} times"


def cards(e: Evidence) -> Iterator[str]:
    """No card is promised beyond what it has, or to another beside an exclusive job."""
    by_card: dict[str, list[tuple[float, int, Hold]]] = defaultdict(list)
    for hold in e.holds:
        made = e.attempts.get((hold.job, hold.number))
        if made is None:
            continue
        end = made.ended_at if made.ended_at is not None else float("inf")
        # An end sorts before a beginning at the same moment: one step ends an attempt and places the next.
        if end > made.placed_at:
            by_card[hold.card] += [(made.placed_at, 1, hold), (end, -1, hold)]
    for card, moments in by_card.items():
        held: list[Hold] = []
        for at, direction, hold in sorted(moments, key=lambda moment: (moment[0], moment[1])):
            if direction < 0:
                if hold in held:
                    held.remove(hold)
                continue
            held.append(hold)
            names = [f"{each.job}-{each.number}" for each in held]
            if len(held) > 1 and any(each.exclusive for each in held):
                yield f"{hold.job}: card {card} held by {names} at {at}, one of them alone"
            if sum(each.reserved for each in held) > e.capacity.get(card, 0):
                yield f"{hold.job}: card {card} over-reserved by {names} at {at}"


def alone(e: Evidence) -> Iterator[str]:
    """By the jobs' own locks: no two processes on a card that was promised to one."""
    for each in e.effects:
        if each.what == "conflict":
            yield f"{each.job} attempt {each.attempt} met another job's processes on its card ({','.join(each.cards)})"
    holds: dict[Check, set[str]] = defaultdict(set)
    for hold in e.holds:
        holds[hold.job, hold.number].add(hold.card)
    for each in e.effects:
        if each.what == "start" and (each.job, each.attempt) in e.attempts:
            planned = holds[each.job, each.attempt]
            if set(each.cards) != planned:
                yield f"{each.job} attempt {each.attempt} ran on {each.cards}, not on {sorted(planned)}"


def codes(e: Evidence) -> Iterator[str]:
    """Each job ended as its kind ends, and as it said itself; a loss needs a dead shim."""
    for key, made in e.attempts.items():
        yield from _losses(e, key, made)
        if kind_of(e.jobs[key[0]].name) not in ENGINE:
            yield from _own_words(e, key, made)
    blamed = {job for job, needed in e.needs if e.jobs[needed].state != "succeeded"}
    for job in e.jobs.values():
        if kind_of(job.name) in ENGINE:
            yield from _asked(e, job)
        elif job.state in ("succeeded", "failed") and job.id not in blamed:
            yield from _as_its_kind(job)
        elif job.state == "cancelled" and job.id not in blamed and not _may_be_cancelled(e, job):
            yield f"{job.id} ({job.name}) is cancelled ({job.reason}), and nobody asked"


def _losses(e: Evidence, key: Check, made: Attempt) -> Iterator[str]:
    if made.outcome == "lost" and e.shims.get(key) not in e.killed:
        yield f"{key[0]} attempt {key[1]} is lost ({made.reason}), and nobody killed its shim"


def _own_words(e: Evidence, key: Check, made: Attempt) -> Iterator[str]:
    said = [each.what for each in e.effects if (each.job, each.attempt) == key and each.what.startswith("end:")]
    if not said:
        # It never came so far: there is no such success, and no code that it could have had.
        if made.outcome == "succeeded" or (made.exit_code is not None and made.exit_code not in (126, 127)):
            yield f"{key[0]} attempt {key[1]} has {made.outcome} {made.exit_code}, and never said that it ended"
        return
    told = said[-1].removeprefix("end:")
    if made.outcome in ("succeeded", "failed") and made.stop_reason is None:
        recorded = "segv" if made.signal == 11 else str(made.exit_code)
        if told != recorded:
            yield f"{key[0]} attempt {key[1]} ended with {told}, and {recorded} is on record"


def _as_its_kind(job: Job) -> Iterator[str]:
    kind = KINDS[kind_of(job.name)]
    state, code, reason = kind.state, kind.code, kind.reason
    if job.code is not None:  # of a matrix
        state, code, reason = ("failed" if job.code else "succeeded"), job.code, f"exit code {job.code}"
    if state == "cancelled":
        yield f"{job.id} ({job.name}) is {job.state} ({job.reason}), and never ends by itself"
    elif (job.state, job.exit_code if code is not None else None) != (state, code):
        yield f"{job.id} ({job.name}) is {job.state} {job.exit_code} ({job.reason}), not {state} {code}"
    elif reason and not (job.reason or "").startswith(reason):
        yield f"{job.id} ({job.name}) is {job.state} because of {job.reason!r}, not {reason!r}"


def _asked(e: Evidence, job: Job) -> Iterator[str]:
    """A job on a model succeeds, unless somebody cancels it, or kills its runner, or a server that is being loaded."""
    if job.state == "cancelled":
        if job.id not in e.stopped:
            yield f"{job.id} ({job.name}) is cancelled ({job.reason}), and nobody asked"
    elif job.state == "failed":
        killed = e.blows["server"] + e.blows["runner"] + e.blows["shim"]
        if not killed or not any(words in (job.reason or "") for words in KILLED_WORDS):
            yield f"{job.id} ({job.name}) is failed ({job.reason}), and nobody killed its runner or its server"
    elif job.state == "lost":
        yield f"{job.id} ({job.name}) is lost ({job.reason}), and may run again"


def answered(e: Evidence) -> Iterator[str]:
    """Each request has one answer on file where its job succeeded, and never two."""
    for job in e.jobs.values():
        if kind_of(job.name) not in ENGINE:
            continue
        found = e.answers.get(job.name, Counter())
        if job.state == "succeeded" and found != Counter(asking.IDS):
            yield f"{job.id} ({job.name}) succeeded, and its requests have {dict(found)} answers"
        elif any(count > 1 for count in found.values()):
            yield f"{job.id} ({job.name}) has answers twice: {dict(found)}"


def copies(e: Evidence) -> Iterator[str]:
    """Every copy of a model is gone after the end, and none ever was on a card with somebody else."""
    for copy in e.copies:
        if copy.state != "gone":
            yield f"0: copy {copy.id} of {copy.label} is {copy.state} for ever ({copy.reason})"
    for line in e.conflicts:
        yield f"0: a model server met somebody else on its card: {line}"


def _may_be_cancelled(e: Evidence, job: Job) -> bool:
    return KINDS[kind_of(job.name)].long or job.id in e.cancelled


def promised(e: Evidence) -> Iterator[str]:
    """A cancel that was acknowledged holds."""
    for job in sorted(e.cancelled):
        found = e.jobs.get(job)
        if found is not None and found.state != "cancelled" and not e.retried[job]:
            yield f"{job} was cancelled, as was acknowledged, and is {found.state} ({found.reason})"
    yield from e.refused_wrongly


def dependents(e: Evidence) -> Iterator[str]:
    """Who waits for another starts after its success, or never."""
    order = {(each.what, each.job): at for at, each in enumerate(e.effects) if each.what in ("start", "end:0")}
    for job, needed in e.needs:
        waiting, first = e.jobs[job], e.jobs[needed]
        started = order.get(("start", job))
        if first.state != "succeeded":
            if waiting.state != "cancelled":
                yield f"{job} is {waiting.state}, and {needed}, which it needed, is {first.state}"
            if started is not None:
                yield f"{job} started, and {needed}, which it needed, is {first.state}"
        elif started is not None and started < order.get(("end:0", needed), len(e.effects)):
            yield f"{job} started before {needed}, which it needed, ended"


def whole(e: Evidence) -> Iterator[str]:
    """The database is sound, and its counts are right."""
    if e.integrity != "ok":
        yield f"the database: {e.integrity}"
    counted = Counter(job.state for job in e.jobs.values())
    if e.counts is not None and {state: n for state, n in e.counts.items() if n} != dict(counted):
        yield f"state_counts says {e.counts}, the jobs {dict(counted)}"


def gone(e: Evidence) -> Iterator[str]:
    """No process, cgroup, lock or socket is left."""
    yield from e.left


def quiet(e: Evidence) -> Iterator[str]:
    """The daemon met nothing that it did not expect."""
    for mark in ("Traceback", "a step failed", "action=taken_in"):
        if mark in e.log:
            at = e.log.index(mark)
            yield f"{mark!r} in the daemon's log: {e.log[at : at + 3000]}"


CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    kept, final, once, again, runs, cards, alone, codes, answered, copies, promised, dependents, whole, gone, quiet,
)  # fmt: skip


class Broken(NamedTuple):
    """What is wrong, and which check says so."""

    check: str
    text: str


def check(evidence: Evidence) -> list[Broken]:
    """All that is wrong; empty where every promise was kept."""
    return [Broken(each.__name__, text) for each in CHECKS for text in each(evidence)]
