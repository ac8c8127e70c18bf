"""Taking jobs in: documents, their jobs, what they wait for. One transaction a submission."""

from __future__ import annotations

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.errors import RefusedError
from p104d.core.job import ENDED, JobSpec, JobState, Requirement
from p104d.core.matrix import requirement_keys, requirement_of
from p104d.store import sql
from p104d.store import tables as t


class Submitter(msgspec.Struct, frozen=True):
    """Who submits, as the kernel says."""

    uid: int
    user: str


class NewDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One checked document. ``combinations`` has one entry a job ({} where there is no matrix); ``kept`` names the
    variables of ``spec.env`` that were copied from the caller and are never shown; ``limits`` are the resource limits,
    (soft, hard) by name, that its jobs run under."""

    spec: JobSpec
    combinations: list[dict[str, str]]
    kept: tuple[str, ...] = ()
    umask: int = 0o022
    where: str = ""
    limits: dict[str, tuple[int, int]] = {}


class Submitted(msgspec.Struct, kw_only=True):
    """What a submission became: (id, name) pairs in the order written."""

    jobs: list[tuple[int, str]] = []
    schedules: list[tuple[int, str]] = []


class StoredEnv(msgspec.Struct, frozen=True, omit_defaults=True):
    """How what a document's jobs find around them is kept: apart from the spec, for the environment holds secrets."""

    env: dict[str, str]
    kept: tuple[str, ...] = ()
    limits: dict[str, tuple[int, int]] = {}


def submit(conn: Connection, documents: list[NewDocument], who: Submitter, now: float) -> Submitted:
    """Store ``documents``. Raises RefusedError for an ``after`` that cannot be waited for."""
    result = Submitted()
    rows = [(new, insert_document(conn, new)) for new in documents]
    by_name = {new.spec.name: document_id for new, document_id in rows}
    for new, document_id in rows:
        _insert_needs(conn, document_id, new, by_name)
    for new, document_id in rows:
        if new.spec.schedule is None:
            result.jobs += insert_jobs(conn, document_id, new, who, now)
        else:
            result.schedules.append((_insert_schedule(conn, document_id, new.spec, who, now), new.spec.name))
    return result


def insert_document(conn: Connection, new: NewDocument) -> int:
    """Store the part that all jobs of a matrix share; returns its id."""
    spec = new.spec
    # A schedule makes its jobs from here again and again; others have theirs, each with its own combination.
    stored = msgspec.structs.replace(spec, env={}, matrix=spec.matrix if spec.schedule else {})
    return int(
        sql.value(
            conn,
            "INSERT INTO documents (name, spec, env, umask, time_limit_seconds) VALUES (?, ?, ?, ?, ?) RETURNING id",
            (
                spec.name,
                _json(stored),
                _json(StoredEnv(spec.env, new.kept, new.limits)),
                new.umask,
                spec.time_limit_seconds,
            ),
        )
    )


def insert_jobs(
    conn: Connection, document_id: int, new: NewDocument, who: Submitter, now: float, schedule_id: int | None = None
) -> list[tuple[int, str]]:
    """Store one queued job per combination; returns (id, name) pairs."""
    spec = new.spec
    first = next_job_id(conn)
    needed = _requirement_ids(conn, spec, new.combinations, who.uid)
    values = {
        "first": first,
        "document_id": document_id,
        "schedule_id": schedule_id,
        "name": spec.name,
        "uid": who.uid,
        "user": who.user,
        "priority": spec.priority,
        "requirement_id": needed if isinstance(needed, int) else None,
        "blocked": int(_blocked_at_first(conn, document_id, spec)),
        "eligible_at": spec.not_before if spec.not_before is not None and spec.not_before > now else None,
        "now": now,
    }
    if isinstance(needed, int):
        count = sql.run(conn, _INSERT_JOBS, values | {"combinations": _json(new.combinations)})
    else:
        pairs = [*zip(needed, new.combinations, strict=True)]
        count = sql.run(conn, _INSERT_DIFFERING_JOBS, values | {"combinations": _json(pairs)})
    return [(first + n, spec.name) for n in range(count)]


#: One statement however many jobs: their combinations come as one JSON array, which SQLite takes apart itself.
_INSERT_JOBS = """
    INSERT INTO jobs (id, document_id, schedule_id, name, uid, user, matrix, state, priority, requirement_id, blocked,
                      eligible_at, attempts, failures, submitted_at)
    SELECT :first + c.key, :document_id, :schedule_id, :name, :uid, :user, nullif(c.value, '{}'), 'queued', :priority,
           :requirement_id, :blocked, :eligible_at, 0, 0, :now
    FROM json_each(:combinations) c ORDER BY c.key
"""
#: The same for jobs that do not all need the same: an array of [requirement, combination].
_INSERT_DIFFERING_JOBS = _INSERT_JOBS.replace("nullif(c.value, '{}')", "json_extract(c.value, '$[1]')").replace(
    ":requirement_id", "json_extract(c.value, '$[0]')"
)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _requirement_ids(conn: Connection, spec: JobSpec, combinations: list[dict[str, str]], uid: int) -> int | list[int]:
    """The requirement of all jobs of a document, or of each where the matrix makes them differ."""
    keys = requirement_keys(spec)
    if not keys:
        return requirement_id(conn, requirement_of(spec, {}, uid))
    found: dict[tuple[str, ...], int] = {}
    needed = []
    for combination in combinations:
        values = tuple(combination[key] for key in keys)
        if values not in found:
            found[values] = requirement_id(conn, requirement_of(spec, combination, uid))
        needed.append(found[values])
    return needed


def _blocked_at_first(conn: Connection, document_id: int, spec: JobSpec) -> bool:
    # A name means a document of this same submission, whose jobs may not even be stored yet.
    return any(isinstance(need, str) for need in spec.after) or (bool(spec.after) and is_blocked(conn, document_id))


def next_job_id(conn: Connection) -> int:
    """The id the next job gets; ids of deleted jobs are never used again."""
    seq = sql.value(conn, "SELECT seq FROM sqlite_sequence WHERE name = 'jobs'")
    return int(seq or 0) + 1


def requirement_id(conn: Connection, requirement: Requirement) -> int:
    """The row of ``requirement``, made where it is new."""
    text = _json(requirement)
    found = sql.value(conn, "SELECT id FROM requirements WHERE requirement = ?", (text,))
    if found is None:
        found = sql.value(conn, "INSERT INTO requirements (requirement) VALUES (?) RETURNING id", (text,))
    return int(found)


def _insert_needs(conn: Connection, document_id: int, new: NewDocument, by_name: dict[str, int]) -> None:
    for need in new.spec.after:
        job_id, needed_document = (need, None) if isinstance(need, int) else (None, by_name[need])
        if job_id is not None:
            _check_waitable(conn, job_id, new.where)
        conn.execute(
            t.needs.insert(),
            {"document_id": document_id, "needs_job_id": job_id, "needs_document_id": needed_document},
        )


def _check_waitable(conn: Connection, job_id: int, where: str) -> None:
    state = sql.value(conn, "SELECT state FROM jobs WHERE id = ?", (job_id,))
    prefix = f"{where or 'after'}: "
    if state is None:
        raise RefusedError(f"{prefix}there is no job {job_id}", mend="p104ctl list --state all shows the ids")
    if state in ENDED and state != JobState.SUCCEEDED:
        raise RefusedError(
            f"{prefix}job {job_id} has {state if state != 'lost' else 'been lost'}, so this job could never start",
            mend=f"p104ctl retry {job_id} first, or leave it out",
        )


#: Is any need of a document not (yet) met? A need for a document is met when all of its jobs succeeded. A needed job
#: that is not there any more was forgotten long after it ended; a retry does not wait for it.
_BLOCKED = """
    SELECT EXISTS (
        SELECT 1 FROM needs n JOIN jobs j ON j.id = n.needs_job_id
        WHERE n.document_id = :document_id AND j.state <> 'succeeded'
    ) OR EXISTS (
        SELECT 1 FROM needs n JOIN jobs j ON j.document_id = n.needs_document_id
        WHERE n.document_id = :document_id
            AND j.state IN ('held', 'queued', 'starting', 'running', 'stopping', 'failed', 'cancelled', 'lost')
    )
"""


def is_blocked(conn: Connection, document_id: int) -> bool:
    """Does this document still wait for another job? (Whether that can succeed is another question.)"""
    return bool(sql.value(conn, _BLOCKED, {"document_id": document_id}))


def _insert_schedule(conn: Connection, document_id: int, spec: JobSpec, who: Submitter, now: float) -> int:
    assert spec.schedule is not None
    row = conn.execute(
        t.schedules.insert().returning(t.schedules.c.id),
        {
            "document_id": document_id,
            "name": spec.name,
            "uid": who.uid,
            "user": who.user,
            "cron": spec.schedule.cron,
            "timezone": spec.schedule.timezone,
            "state": "active",
            "created_at": now,
        },
    )
    return int(row.scalar_one())
