"""What is known of a rig after its end: the client's ledger, the jobs' own notes, the database, the folders."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import asking
from workload import read_ledger

from p104d.processes import attempt as folders
from p104d.processes.attempt import Key

#: A job and the number of its attempt.
Check = tuple[int, int]


class Effect(NamedTuple):
    """A line that a job wrote."""

    what: str
    job: int
    attempt: int
    cards: tuple[str, ...]


class Job(NamedTuple):
    id: int
    name: str
    state: str
    reason: str | None
    exit_code: int | None
    attempts: int
    code: int | None = None
    """Of a job of a matrix: the code it is to end with."""
    retries: int = 0
    idempotent: bool = False


class Attempt(NamedTuple):
    job: int
    number: int
    outcome: str | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    placed_at: float
    ended_at: float | None
    stop_reason: str | None = None


class Hold(NamedTuple):
    job: int
    number: int
    card: str
    reserved: int
    exclusive: bool


class Copy(NamedTuple):
    """A copy of a model that was loaded, or was to be."""

    id: int
    label: str
    state: str
    reason: str | None


@dataclass
class Evidence:
    """All that is known after the end. ``shims`` says which process ran an attempt, ``killed`` which were killed by us;
    ``left`` is what was found that should be gone."""

    acknowledged: dict[int, str] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    retried: Counter[int] = field(default_factory=Counter)
    refused_wrongly: list[str] = field(default_factory=list)
    jobs: dict[int, Job] = field(default_factory=dict)
    attempts: dict[Check, Attempt] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    capacity: dict[str, int] = field(default_factory=dict)
    needs: list[tuple[int, int]] = field(default_factory=list)
    """(a job, a job it waits for)"""
    counts: dict[str, int] | None = None
    integrity: str = "ok"
    effects: list[Effect] = field(default_factory=list)
    shims: dict[Check, tuple[int, int]] = field(default_factory=dict)
    killed: set[tuple[int, int]] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    log: str = ""
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    """By the name of a job that asked a model, how often each request has an answer."""
    copies: list[Copy] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    """What model servers noted of cards that somebody else held."""
    stopped: set[int] = field(default_factory=set)
    """Jobs that somebody wanted to cancel, acknowledged or not."""
    blows: Counter[str] = field(default_factory=Counter)
    """How many processes of each kind were killed."""

    @property
    def starts(self) -> Counter[Check]:
        return Counter((each.job, each.attempt) for each in self.effects if each.what == "start")

    def of(self, job: int) -> list[Attempt]:
        """Its attempts in order."""
        return [self.attempts[key] for key in sorted(self.attempts) if key[0] == job]


# --- gathering -----------------------------------------------------------------------------------------------------


def read_effects(path: Path) -> list[Effect]:
    """The jobs' notes, in the order in which they were written."""
    found = []
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        for line in file:
            what, job, number, cards = line.rstrip("\n").split(" ")
            found.append(Effect(what, int(job), int(number), tuple(filter(None, cards.split(",")))))
    return found


def gather(ledger: Path, effects: Path, store: Path) -> Evidence:
    """Read everything there is of a rig whose daemon has stopped."""
    e = Evidence(effects=read_effects(effects))
    e.answers, e.conflicts = asking.answers(effects.parent), list(asking.conflicts(effects.parent))
    for entry in read_ledger(ledger):
        _take_entry(e, entry)
    connection = sqlite3.connect(f"file:{store}/queue.db?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        _take_database(e, connection)
    finally:
        connection.close()
    for key in e.attempts:
        folder = folders.folder_of(str(store / "jobs"), Key("job", *key))
        look = folders.look(folder)
        if look.pid is not None and look.start is not None:
            e.shims[key] = (look.pid, look.start)
        if look.kind is folders.LookKind.RUNNING or _is_locked(folder):
            e.left.append(f"{key[0]} attempt {key[1]}: its lock is held")
    return e


def _is_locked(folder: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(f"{folder}/exit", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return folders._locked(descriptor)
        finally:
            os.close(descriptor)
    return False


def _take_entry(e: Evidence, entry: Mapping[str, Any]) -> None:
    match entry["what"]:
        case "submitted":
            e.acknowledged |= {int(job): name for job, name in entry["jobs"].items()}
        case "cancelled":
            e.cancelled.add(entry["job"])
        case "retry asked":
            e.retried[entry["job"]] += 1
        case "killed":
            e.killed.add((entry["pid"], entry["start"]))
            e.blows[entry.get("kind", "shim")] += 1
        case "cancel asked":
            e.stopped.add(entry["job"])
        case "wrong":
            e.refused_wrongly.append(entry["text"])


_JOBS = """
SELECT j.id, j.name, j.state, j.reason, j.exit_code, j.attempts, json_extract(j.matrix, '$.code') AS code,
       COALESCE(json_extract(d.spec, '$.retries'), 0) AS retries,
       COALESCE(json_extract(d.spec, '$.idempotent'), 0) AS idempotent
FROM jobs j JOIN documents d ON d.id = j.document_id
"""
_NEEDS = """
SELECT j.id, COALESCE(n.needs_job_id, other.id) FROM needs n JOIN jobs j ON j.document_id = n.document_id
LEFT JOIN jobs other ON other.document_id = n.needs_document_id
"""


def _take_database(e: Evidence, connection: sqlite3.Connection) -> None:
    e.integrity = _integrity(connection)
    for row in connection.execute(_JOBS):
        code = int(row["code"]) if row["code"] is not None else None
        e.jobs[row["id"]] = Job(
            *tuple(row)[:6], code=code, retries=int(row["retries"]), idempotent=bool(row["idempotent"])
        )
    columns = "job_id, number, outcome, exit_code, signal, reason, placed_at, ended_at, stop_reason"
    for row in connection.execute(f"SELECT {columns} FROM attempts"):
        e.attempts[row["job_id"], row["number"]] = Attempt(*row)
    for row in connection.execute("SELECT job_id, number, card_uuid, reserved_bytes, exclusive FROM attempt_cards"):
        e.holds.append(Hold(*tuple(row)[:4], exclusive=bool(row["exclusive"])))
    e.capacity = dict(map(tuple, connection.execute("SELECT uuid, proven_bytes FROM cards")))
    e.needs = list(map(tuple, connection.execute(_NEEDS)))
    e.copies = [Copy(*row) for row in connection.execute("SELECT id, label, state, reason FROM instances")]
    e.counts = dict(map(tuple, connection.execute("SELECT state, jobs FROM state_counts")))


def _integrity(connection: sqlite3.Connection) -> str:
    rows: Sequence[Any] = connection.execute("PRAGMA integrity_check").fetchall()
    rows = [*(row[0] for row in rows if row[0] != "ok"), *map(tuple, connection.execute("PRAGMA foreign_key_check"))]
    return "; ".join(map(str, rows)) or "ok"
