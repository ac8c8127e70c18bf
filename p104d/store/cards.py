"""What is known of the cards over restarts, by UUID; and the queue's own settings."""

from __future__ import annotations

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.card import CardIdentity, DueTest, Proof, Verdict
from p104d.store import sql


class CardRecord(msgspec.Struct, kw_only=True):
    """One card as remembered. ``suspect`` is the cause for which it took itself out of service, until cleared;
    ``proof`` what stands behind the verdict; ``due`` the memory test that is wanted."""

    identity: CardIdentity
    driver: str | None
    verdict: Verdict
    proven_bytes: int | None
    drained: bool
    drained_by: str | None
    suspect: str | None
    first_seen_at: float
    last_seen_at: float
    proof: Proof | None = None
    due: DueTest | None = None


_decode_identity = msgspec.json.Decoder(CardIdentity).decode
_decode_proof = msgspec.json.Decoder(Proof).decode
_decode_due = msgspec.json.Decoder(DueTest).decode


def load_cards(conn: Connection) -> dict[str, CardRecord]:
    """Every card ever seen."""
    rows = sql.rows(
        conn,
        "SELECT identity, driver, verdict, proven_bytes, drained, drained_by, suspect, first_seen_at, last_seen_at, "
        "proof, due FROM cards",
    )
    records = [
        CardRecord(
            identity=_decode_identity(row[0]),
            driver=row[1],
            verdict=Verdict(row[2]),
            proven_bytes=row[3],
            drained=bool(row[4]),
            drained_by=row[5],
            suspect=row[6],
            first_seen_at=row[7],
            last_seen_at=row[8],
            proof=_decode_proof(row[9]) if row[9] else None,
            due=_decode_due(row[10]) if row[10] else None,
        )
        for row in rows
    ]
    return {record.identity.uuid: record for record in records}


def save_card(conn: Connection, record: CardRecord) -> None:
    """Insert or replace one card's record."""
    sql.run(
        conn,
        "INSERT OR REPLACE INTO cards (uuid, identity, driver, verdict, proven_bytes, drained, drained_by, suspect, "
        "first_seen_at, last_seen_at, proof, due) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            record.identity.uuid,
            msgspec.json.encode(record.identity).decode(),
            record.driver,
            record.verdict.value,
            record.proven_bytes,
            int(record.drained),
            record.drained_by,
            record.suspect,
            record.first_seen_at,
            record.last_seen_at,
            _encoded(record.proof),
            _encoded(record.due),
        ),
    )


def _encoded(value: msgspec.Struct | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def get_setting(conn: Connection, key: str, default: str) -> str:
    """A setting's value, or ``default`` where it was never set."""
    value = sql.value(conn, "SELECT value FROM settings WHERE key = ?", (key,))
    return default if value is None else str(value)


def set_setting(conn: Connection, key: str, value: str) -> None:
    """Keep a setting."""
    sql.run(conn, "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value))


def settings_below(conn: Connection, prefix: str) -> dict[str, str]:
    """Every setting whose key begins with ``prefix``."""
    rows = sql.rows(conn, "SELECT key, value FROM settings WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
    return {str(row[0]): str(row[1]) for row in rows}
