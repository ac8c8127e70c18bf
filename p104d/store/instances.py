"""Copies of models on cards: loaded, used, unloaded. Every change of a state is one guarded UPDATE, as of jobs."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from sqlalchemy.engine import Connection

from p104d.store import sql

#: Copies that are gone are kept as a record of what loading took.
KEPT = 1000


class InstanceState(StrEnum):
    """``loading`` and ``ready`` are of use, ``stopping`` and ``gone`` are not."""

    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    GONE = "gone"


class Loaded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a copy was loaded: what it takes to start the same again, and to tell people. Sizes in bytes.

    ``fits`` are the cards that could have taken it. ``load_seconds`` is what was expected on the fastest link.
    ``parts`` are its files as they were: path, size, device, inode, time of change in ns.
    """

    context: int
    parallel: int
    kv_cache: str
    cards: int
    fits: tuple[str, ...] = ()
    tensor_split: tuple[int, ...] = ()
    embeddings: bool = False
    file_bytes: int = 0
    load_seconds: float = 0.0
    user: str | None = None
    shared: bool = False
    socket: str = ""
    parts: tuple[tuple[str, int, int, int, int], ...] = ()


class OnCard(msgspec.Struct, frozen=True):
    """A copy's share of one card: what it reserves there, and what the sum from the file's header said."""

    uuid: str
    reserved_bytes: int
    estimated_bytes: int


class NewInstance(msgspec.Struct, frozen=True, kw_only=True):
    """A copy that is to be loaded. ``uid`` None: by the shared user of models, or the daemon's own."""

    family: str
    path: str
    label: str
    loaded: Loaded
    uid: int | None
    job_id: int | None
    ram_bytes: int
    slowness: float
    cards: tuple[OnCard, ...]


class Instance(msgspec.Struct, kw_only=True):
    """A copy that is not gone. Times are Unix seconds; ``job_id`` is the job that asked for it."""

    id: int
    family: str
    path: str
    label: str
    loaded: Loaded
    uid: int | None
    state: InstanceState
    boot_id: str
    job_id: int | None
    ram_bytes: int
    slowness: float
    pid: int | None
    cpu_only: bool
    created_at: float
    ready_at: float | None
    load_seconds: float | None
    last_used_at: float
    cards: list[OnCard]

    @property
    def uuids(self) -> tuple[str, ...]:
        """Its cards, in order."""
        return tuple(card.uuid for card in self.cards)

    @property
    def usable(self) -> bool:
        """Loading or loaded, and not told to go."""
        return self.state in (InstanceState.LOADING, InstanceState.READY)


_decode_loaded = msgspec.json.Decoder(Loaded).decode
_OPEN = """
    SELECT id, family, path, label, loaded, uid, state, boot_id, job_id, ram_bytes, slowness, pid, cpu_only, created_at,
           ready_at, load_seconds, last_used_at
    FROM instances INDEXED BY instances_open WHERE state != 'gone' ORDER BY id
"""
_OPEN_CARDS = """
    SELECT c.instance_id, c.card_uuid, c.reserved_bytes, c.estimated_bytes
    FROM instances i INDEXED BY instances_open CROSS JOIN instance_cards c ON c.instance_id = i.id
    WHERE i.state != 'gone' ORDER BY c.instance_id, c.position
"""


def open_instances(conn: Connection) -> list[Instance]:
    """Every copy that is not gone, oldest first."""
    fields = Instance.__struct_fields__[:-1]
    found: dict[int, Instance] = {}
    for row in sql.rows(conn, _OPEN):
        values = dict(zip(fields, row, strict=True))
        values |= {
            "loaded": _decode_loaded(row.loaded),
            "state": InstanceState(row.state),
            "cpu_only": bool(row.cpu_only),
        }
        found[row.id] = Instance(**values, cards=[])
    if found:
        for number, *card in sql.rows(conn, _OPEN_CARDS):
            found[number].cards.append(OnCard(*card))
    return list(found.values())


def find(conn: Connection, number: int) -> Instance | None:
    """One copy; None where it is gone, or never was."""
    return next((each for each in open_instances(conn) if each.id == number), None)


def add(conn: Connection, new: NewInstance, *, now: float, boot_id: str) -> int:
    """Write down a copy that is about to be loaded; its id."""
    number = int(
        sql.value(
            conn,
            "INSERT INTO instances (family, path, label, loaded, uid, state, boot_id, job_id, ram_bytes, slowness, "
            "cpu_only, created_at, last_used_at) VALUES (?,?,?,?,?,'loading',?,?,?,?,0,?,?) RETURNING id",
            (
                new.family,
                new.path,
                new.label,
                msgspec.json.encode(new.loaded).decode(),
                new.uid,
                boot_id,
                new.job_id,
                new.ram_bytes,
                new.slowness,
                now,
                now,
            ),
        )
    )
    for position, card in enumerate(new.cards):
        sql.run(
            conn,
            "INSERT INTO instance_cards (instance_id, position, card_uuid, reserved_bytes, estimated_bytes) "
            "VALUES (?,?,?,?,?)",
            (number, position, card.uuid, card.reserved_bytes, card.estimated_bytes),
        )
    return number


def set_loaded(conn: Connection, number: int, loaded: Loaded) -> None:
    """How it is loaded, with what follows from its number."""
    text = msgspec.json.encode(loaded).decode()
    sql.run(conn, "UPDATE instances SET loaded = ? WHERE id = ?", (text, number))


def started(conn: Connection, number: int, pid: int | None) -> None:
    """Its process is there."""
    sql.run(conn, "UPDATE instances SET pid = ? WHERE id = ? AND state != 'gone'", (pid, number))


def ready(conn: Connection, number: int, *, at: float, seconds: float, cpu_only: bool) -> bool:
    """Loading -> ready, after ``seconds``. False where it was told to go meanwhile."""
    statement = (
        "UPDATE instances SET state = 'ready', ready_at = ?, load_seconds = ?, cpu_only = ?, last_used_at = ? "
        "WHERE id = ? AND state IN ('loading') RETURNING id"
    )
    return sql.row(conn, statement, (at, seconds, int(cpu_only), at, number)) is not None


def stop(conn: Connection, number: int, reason: str) -> bool:
    """Loading or ready -> stopping: it takes no job from now on. False where it was told before, or is gone."""
    statement = (
        "UPDATE instances SET state = 'stopping', reason = ? "
        "WHERE id = ? AND state IN ('loading', 'ready') RETURNING id"
    )
    return sql.row(conn, statement, (reason, number)) is not None


def gone(conn: Connection, number: int, *, at: float, reason: str) -> str | None:
    """Any state -> gone; the reason that it was told to stop for goes before ``reason``. Returns the state that it was
    in, None where it was gone before."""
    before = sql.value(conn, "SELECT state FROM instances WHERE id = ? AND state != 'gone'", (number,))
    if before is None:
        return None
    statement = (
        "UPDATE instances SET state = 'gone', ended_at = ?, reason = COALESCE(reason, ?) "
        "WHERE id = ? AND state IN ('loading', 'ready', 'stopping')"
    )
    sql.run(conn, statement, (at, reason, number))
    return str(before)


def used(conn: Connection, number: int, at: float) -> None:
    """A job began or ended on it."""
    sql.run(conn, "UPDATE instances SET last_used_at = max(last_used_at, ?) WHERE id = ?", (at, number))


def peaked(conn: Connection, number: int, uuid: str, most: int) -> None:
    """The most that its process was seen to use on a card, in bytes."""
    statement = (
        "UPDATE instance_cards SET peak_bytes = max(COALESCE(peak_bytes, 0), ?) WHERE instance_id = ? AND card_uuid = ?"
    )
    sql.run(conn, statement, (most, number, uuid))


class Served(msgspec.Struct, frozen=True):
    """The copy that an attempt ran on."""

    number: int
    family: str
    path: str
    label: str


def of_attempt(conn: Connection, job_id: int, number: int) -> Served | None:
    """The copy that an attempt ran on; None where it ran on none."""
    row = sql.row(
        conn,
        "SELECT i.id, i.family, i.path, i.label FROM attempts a JOIN instances i ON i.id = a.instance_id "
        "WHERE a.job_id = ? AND a.number = ?",
        (job_id, number),
    )
    return None if row is None else Served(*row)


def forget(conn: Connection, keep: int = KEPT) -> int:
    """Drop all but the newest ``keep`` of the copies that are gone; how many."""
    statement = (
        "DELETE FROM instances WHERE state = 'gone' AND id <= "
        "(SELECT id FROM instances WHERE state = 'gone' ORDER BY id DESC LIMIT 1 OFFSET ?)"
    )
    return sql.run(conn, statement, (keep,))
