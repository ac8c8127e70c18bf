"""Rows of the queue as messages, with what a caller may not see left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.engine import Row

from p104d.api import messages as m
from p104d.api.service import Caller
from p104d.core.errors import NotFoundError
from p104d.core.job import JobSpec
from p104d.core.matrix import expand_engine
from p104d.core.units import iso
from p104d.daemon.progress import Current
from p104d.store.submit import StoredEnv

_decode_json = msgspec.json.Decoder().decode
KEPT = "(kept from the caller)"
#: A reason says what, and after a colon what of: a command, a folder.
_PARTICULARS = re.compile(r": .*?(?= \(exit code [^()]*\)$|$)", re.DOTALL)


def may_see(caller: Caller, uid: int) -> bool:
    """Spec, env, labels and logs are for the owner and root alone."""
    return caller.uid in (uid, 0)


def public_reason(reason: str | None) -> str | None:
    """An end's reason as everybody may know it: ``command not found: foo (exit code 127)`` without the command."""
    return _PARTICULARS.sub("", reason) if reason else reason


def listed_job(
    row: Row[Any],
    cards: Sequence[str],
    caller: Caller,
    because: str | None,
    labels: Mapping[str, str],
    current: Current | None = None,
) -> m.ListedJob:
    """A row of ``lists.job_rows`` as ``list`` shows it; ``current`` of a running job, where it was looked at."""
    return m.ListedJob(**_common(row, cards, caller, because, labels), **_running(current))


def _running(current: Current | None) -> dict[str, Any]:
    """How a running job is doing; nothing for others."""
    if current is None:
        return {}
    return {
        "measurements": [m.Measurement(name=e.name, value=e.value, unit=e.unit) for e in current.measurements],
        "progress_percent": current.percent,
        "estimated_end_at": iso(current.ends_at),
    }


def _common(
    row: Row[Any], cards: Sequence[str], caller: Caller, because: str | None, labels: Mapping[str, str]
) -> dict[str, Any]:
    seen = may_see(caller, row.uid)
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "reason": row.reason if seen else public_reason(row.reason),
        "waiting_because": because,
        "priority": row.priority,
        "user": row.user,
        "labels": labels if seen else None,
        "submitted_at": iso(row.submitted_at),
        "started_at": iso(row.started_at),
        "ended_at": iso(row.ended_at),
        "exit_code": row.exit_code,
        "cards": list(cards),
        "matrix": _decode_json(row.matrix) if row.matrix and seen else None,
        "attempt_count": row.attempts,
        "schedule_id": row.schedule_id,
    }


def full_job(
    row: Row[Any],
    *,
    caller: Caller,
    because: str | None,
    attempts: Sequence[Row[Any]],
    cards: Mapping[tuple[int, int], Sequence[str]],
    measurements: Sequence[Row[Any]],
    spec: str,
    env: StoredEnv | None,
    after: list[int],
    current: Current | None = None,
) -> m.Job:
    """A row with its attempts and ``spec`` (as JSON) as ``show`` prints it; ``current`` of a running job, where it was
    looked at."""
    seen, told = may_see(caller, row.uid), dict[str, Any](_decode_json(spec))
    measured = [m.Measurement(name=each.name, value=each.value, unit=each.unit) for each in measurements]
    return m.Job(
        **_common(row, cards.get((row.id, row.attempts), ()), caller, because, told.get("labels", {})),
        **{"measurements": measured, **_running(current)},
        attempts=[_attempt(each, cards.get((row.id, each.number), ()), seen) for each in attempts],
        spec=_spec(told, row, env) if seen else None,
        after=after,
    )


def _attempt(row: Row[Any], cards: Sequence[str], seen: bool) -> m.Attempt:
    return m.Attempt(
        number=row.number,
        outcome=row.outcome,
        exit_code=row.exit_code,
        signal=row.signal,
        reason=row.reason if seen else public_reason(row.reason),
        cards=list(cards),
        started_at=iso(row.started_at),
        ended_at=iso(row.ended_at),
        placed_at=iso(row.placed_at),
        cpu_seconds=row.cpu_seconds,
        max_rss_bytes=row.max_rss_bytes,
        log_bytes=row.log_bytes,
    )


def _spec(spec: dict[str, Any], row: Row[Any], env: StoredEnv | None) -> dict[str, Any]:
    if spec.get("engine"):
        spec = _with_engine(spec, _decode_json(row.matrix) if row.matrix else {})
    if env is not None and env.env:
        spec["env"] = {name: KEPT if name in env.kept else value for name, value in env.env.items()}
    if row.matrix:
        spec["matrix"] = _decode_json(row.matrix)
    return spec


def _with_engine(spec: dict[str, Any], combination: dict[str, str]) -> dict[str, Any]:
    """The engine's keys as job.yaml has them, with the files of this one job."""
    engine = expand_engine(msgspec.convert(spec, JobSpec), combination)
    flat = {
        "engine": engine.name,
        "model": engine.model,
        "context": engine.context,
        "kv_cache": engine.kv_cache,
        "parallel": engine.parallel,
        "input": engine.input,
        "output": engine.output,
    }
    asked = {} if engine.cards is None else {"cards": engine.cards}
    others = {key: value for key, value in spec.items() if key not in ("name", "command", "engine")}
    return {"name": spec["name"]} | flat | asked | others


def schedule(row: Row[Any]) -> m.ListedSchedule:
    """A row of ``schedules`` as people see it."""
    return m.ListedSchedule(
        id=row.id,
        name=row.name,
        cron=row.cron,
        timezone=row.timezone,
        state=row.state,
        next_run_at=iso(row.next_run_at),
        last_run_at=iso(row.last_run_at),
        last_job_id=row.last_job_id,
        user=row.user,
    )


def no_such_job(job_id: int) -> NotFoundError:
    """The error of every verb for an id that was never given, or whose job has been forgotten."""
    return NotFoundError(f"there is no job {job_id}", mend="p104ctl list --state all shows the ids")
