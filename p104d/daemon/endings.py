"""What becomes of a job whose attempt has ended: read from its folder, judged by the policy, written in one piece."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import ENDED, JobState, Measurement, Outcome
from p104d.core.lifecycle import Move, target
from p104d.core.matrix import expand_engine
from p104d.daemon.notify import owe_for_job
from p104d.daemon.work import Work
from p104d.engines.gpu_errors import complaint
from p104d.engines.measure import OutputParser
from p104d.engines.model_probe import label_of
from p104d.policy.retry import After, Ending, How, Stop, after_end, backoff_seconds
from p104d.processes import logs
from p104d.processes.attempt import ExitRecord, Key, Look, LookKind
from p104d.store import dependents, instances, lists, model_facts, moves, reads, results
from p104d.store.reads import JobFacts

#: Of a longer log only its beginning (where engines tell what they loaded) and its end are read for measurements.
_HEAD_BYTES = 64 * 1024
_TAIL_BYTES = 192 * 1024
#: All other ends, and questions, wait meanwhile. The first is for what p104d itself looks for, and is enough for the
#: densest output of that size; the other for a user's patterns, which may be slow.
_READ_SECONDS, _PATTERN_SECONDS = 0.15, 0.05
#: An error of CUDA ends a program: it is found near the end of its output.
_COMPLAINT_BYTES = 16 * 1024
#: One line, with the mend, is what a batch runner says last.
_LAST_WORD_BYTES = 600
#: A claim that is taken back again and again means that shims cannot start here; its job waits longer each time.
_PATIENT_REVOKES = 3
#: What a batch runner ends with when its server does not give a single token any more (engines.batch).
_NO_SERVER = 75
#: Of those that waited for one that has ended, a step settles so many: some 30 ms.
MOST_SETTLED = 500
_SERVERS = (Stop.SERVER_ENDED.value, Stop.SERVER_SILENT.value)


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's end as its folder tells it, with what was measured; all reading of files is done by now.

    ``never_seen`` tells that its processes were looked for on its cards and never found; ``complaint`` is an error in
    its output that may be its card's fault; ``model`` is what it said it loaded; ``said`` why a batch of requests has
    failed; ``note`` why nothing was started, where that is not the job's own fault (``failure``).
    """

    key: Key
    look: Look | None
    failure: str | None = None
    note: str | None = None
    host_died: bool = False
    never_seen: bool = False
    measurements: tuple[Measurement, ...] = ()
    complaint: str | None = None
    model: str | None = None
    said: str | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What the output of an ended attempt told. ``model`` is what it said it loaded; ``whole`` that every line of it
    was read, so that what it counted is all there was."""

    measurements: tuple[Measurement, ...] = ()
    model: str | None = None
    whole: bool = False


def against_card(folder: str, look: Look | None) -> str | None:
    """What the end of a failed attempt's output says against its card. Never raises."""
    if look is None or look.exit is None or not look.exit.log_bytes or look.exit.exit_code == 0:
        return None
    try:
        return complaint(logs.read(folder, tail=_COMPLAINT_BYTES))
    except OSError:
        return None


def last_word(folder: str, job: JobFacts | None, look: Look | None) -> str | None:
    """Why a batch runner has failed, as the last line of its output tells. Never raises."""
    record = look.exit if look is not None else None
    if job is None or job.spec.engine is None or record is None or record.exit_code in (None, 0):
        return None
    try:
        lines = logs.read(folder, tail=_LAST_WORD_BYTES).decode("utf-8", "replace").strip().split("\n")
    except OSError:
        return None
    return lines[-1].removeprefix("error: ").strip()[:_LAST_WORD_BYTES] or None


def read_output(folder: str, job: JobFacts | None, look: Look | None) -> Output:
    """What the output of an ended attempt tells. Never raises: a log that cannot be read tells nothing."""
    if job is None or not job.spec.measure or look is None or look.exit is None or not look.exit.log_bytes:
        return Output(whole=look is not None and look.exit is not None and not look.exit.log_bytes)
    try:
        parser = OutputParser(job.spec.measure)
        total = logs.size(folder)
        head = min(_HEAD_BYTES, total)
        text = logs.read(folder, limit=head)
        if total > head + _TAIL_BYTES:
            text += b"\n"  # what is left out must not join two lines into one
        text += logs.read(folder, tail=min(_TAIL_BYTES, total - head))
        parser.read(text, seconds=_READ_SECONDS, pattern_seconds=_PATTERN_SECONDS)
    except (OSError, ValueError):
        return Output()
    kept = total >= look.exit.log_bytes and not look.exit.dropped_bytes
    return Output(
        measurements=tuple(parser.result()),
        model=parser.model,
        whole=kept and total <= head + _TAIL_BYTES and not parser.skipped_bytes,
    )


def together(read: Sequence[Measurement], used: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """What was read from the output with what was used of the cards, each name once: a pattern of a user's may have
    had a name before it meant something here."""
    taken = {each.name for each in read}
    return (*read, *(each for each in used if each.name not in taken))


def finish(conn: Connection, done: Finished, work: Work, now: float) -> None:
    """Close the attempt and move its job; free or cancel those that waited for it; note what is to be told."""
    job = reads.facts(conn, done.key.id)
    if job is None:
        return
    ending = _ending(conn, done, job)
    after = after_end(
        ending,
        job_id=job.id,
        retries=job.spec.retries,
        failures=job.failures,
        idempotent=job.spec.idempotent,
        losses=reads.losses(conn, job.id) if job.attempts > 1 else 0,
        servers=reads.servers_lost(conn, job.id, _SERVERS) if job.attempts > 1 else 0,
    )
    revoked_before = after.outcome is Outcome.REVOKED and job.attempts > 1
    ended = _record(done, job, ending, after, now, revokes=reads.revokes(conn, job.id) if revoked_before else 0)
    if not moves.end(conn, ended):
        return
    work.dirty = True
    work.running_changed |= job.spec.cards > 0
    copy = instances.of_attempt(conn, job.id, done.key.number) if job.spec.engine is not None else None
    if copy is not None:
        _leave_copy(conn, copy, ended, ending, work)
    state = target(after.move)
    if state is JobState.SUCCEEDED and done.measurements:
        _keep(conn, done, job, ended, work)
    if state in ENDED:
        record = done.look.exit if done.look is not None else None
        settle(conn, job, state, after.reason, work, now, record.wall_seconds if record is not None else None)
    elif doomed := dependents.wait_again(conn, job.id, job.document_id, now):
        settle(conn, job, JobState.CANCELLED, doomed, work, now)


def _leave_copy(conn: Connection, copy: instances.Served, ended: moves.Ended, ending: Ending, work: Work) -> None:
    """Its copy is free for the next job, and the family's mean has one more run; a copy that fell silent goes."""
    instances.used(conn, copy.number, ended.at)
    if ending.stop is Stop.SERVER_SILENT:
        work.sick.append(copy.number)
    if ended.outcome is Outcome.SUCCEEDED and ended.started_at is not None:
        model_facts.ran(conn, copy.family, copy.path, copy.label, max(0.0, ended.at - ended.started_at))


def _keep(conn: Connection, done: Finished, job: JobFacts, ended: moves.Ended, work: Work) -> None:
    """Put what it measured on record. The label ``model`` goes before what the output said."""
    ran = done.look.exit if done.look is not None else None
    result = results.Result(
        at=ended.at,
        job_id=job.id,
        attempt=done.key.number,
        name=job.name,
        model=job.spec.labels.get("model") or done.model or _model_of(job),
        user=job.user,
        uid=job.uid,
        card_uuids=tuple(lists.cards_of(conn, [job.id]).get((job.id, done.key.number), ())),
        seconds=ran.wall_seconds if ran is not None else None,
        measurements=done.measurements,
    )
    if results.record(conn, result):
        work.results.append(result)


def _model_of(job: JobFacts) -> str | None:
    return label_of(expand_engine(job.spec, job.matrix).model) if job.spec.engine is not None else None


def settle(
    conn: Connection, job: JobFacts, state: JobState, reason: str, work: Work, now: float, ran: float | None = None
) -> None:
    """What follows from a job's final state, for others and for those who want to be told."""
    work.ended[job.id] = state
    work.ends.append((state, reason, ran))
    work.notify |= owe_for_job(conn, job, state, reason, now)
    work.unsettled += dependents.of(conn, job.id, job.document_id)


def settle_dependents(conn: Connection, work: Work, now: float, most: int = MOST_SETTLED) -> None:
    """Free or cancel those that waited for what has ended, ``most`` of them; the others stay in ``work``."""
    if not work.unsettled:
        return
    done = dependents.settle(conn, work.unsettled, now, most)
    work.unsettled = done.left
    work.dirty |= bool(done.freed or done.cancelled)
    for each in done.cancelled:
        _cancelled(conn, each, work, now)


def _cancelled(conn: Connection, some: dependents.Cancelled, work: Work, now: float) -> None:
    for job_id in some.ids:
        work.ended[job_id] = JobState.CANCELLED
        work.ends.append((JobState.CANCELLED, f"job {some.need}, which it needed, ended", None))
    wanted = reads.document(conn, some.document_id).spec.notify
    if wanted is None or JobState.CANCELLED.value not in wanted.on:
        return
    for job_id in some.ids:
        job = reads.facts(conn, job_id)
        if job is not None:
            why = f"job {some.need}, which it needed, {some.past}"
            work.notify |= owe_for_job(conn, job, JobState.CANCELLED, why, now)


def _ending(conn: Connection, done: Finished, job: JobFacts) -> Ending:
    stop = _stop(reads.stop_reason(conn, job.id, done.key.number))
    if done.failure is not None:
        return Ending(how=How.NOT_STARTED, stop=stop, note=done.failure)
    if done.look is None or done.look.kind in (LookKind.UNCLAIMED, LookKind.REVOKED):
        return Ending(how=How.REVOKED, stop=stop, note=done.note)
    if done.look.exit is None:
        return Ending(how=How.HOST_DIED if done.host_died else How.SHIM_DIED, stop=stop)
    found = _exited(done.look.exit, stop)
    if found.stop is None and found.exit_code == _NO_SERVER and job.spec.engine is not None:
        return msgspec.structs.replace(found, stop=Stop.SERVER_SILENT)
    if found.exit_code and found.note is None and done.said:
        # Others are told what is before the colon: the words after it name files.
        found = msgspec.structs.replace(found, note=f"the batch failed: {done.said}")
    if found.exit_code == 0 and found.stop is None and done.never_seen and job.spec.gpu_required:
        return msgspec.structs.replace(found, stop=Stop.NEVER_ON_CARD)
    return found


def _exited(record: ExitRecord, stop: Stop | None) -> Ending:
    note = record.reason
    if note == "time limit":
        stop, note = stop or Stop.TIME_LIMIT, None
    elif note == "stopped" and stop is None:
        # Not the daemon asked its shim to stop: the host is going down, or somebody killed the shim politely.
        return Ending(how=How.SHIM_DIED)
    elif note == "stopped":
        note = None
    return Ending(how=How.EXITED, exit_code=record.exit_code, signal=record.signal, stop=stop, note=note)


def _stop(text: str | None) -> Stop | None:
    return next((stop for stop in Stop if stop.value == text), None)


def _record(done: Finished, job: JobFacts, ending: Ending, after: After, now: float, *, revokes: int) -> moves.Ended:
    record = done.look.exit if done.look is not None else None
    wait = after.wait_seconds
    if after.outcome is Outcome.REVOKED and revokes >= _PATIENT_REVOKES:
        wait = backoff_seconds(job.id, revokes - _PATIENT_REVOKES + 1)
    move = Move.REQUEUE if after.move is Move.REVOKE and wait else after.move
    return moves.Ended(
        job_id=job.id,
        number=done.key.number,
        move=move,
        outcome=after.outcome,
        at=record.ended_at if record else now,
        reason=None if move is Move.REVOKE else after.reason,
        attempt_reason=after.reason,
        exit_code=ending.exit_code,
        signal=ending.signal,
        eligible_at=now + wait if wait else None,
        failed=after.uses_retry,
        cpu_seconds=record.user_seconds + record.system_seconds if record else None,
        max_rss_bytes=record.max_rss_bytes if record else None,
        log_bytes=record.log_bytes if record else None,
        started_at=record.started_at if record else None,
        measurements=done.measurements,
    )
