"""Copies of models: which state leads to which, as tried on real rows; docs/architecture.md shows the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from p104d.store import instances, sql
from p104d.store.engine import Database
from p104d.store.instances import InstanceState, Loaded, NewInstance, OnCard

ARCHITECTURE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
NEW = NewInstance(
    family="f",
    path="/m.gguf",
    label="m",
    loaded=Loaded(context=512, parallel=1, kv_cache="f16", cards=1),
    uid=None,
    job_id=7,
    ram_bytes=0,
    slowness=1.0,
    cards=(OnCard("GPU-1", 2, 1),),
)
#: What can happen to a copy, by the word in the diagram.
MOVES: dict[str, Callable[[Connection, int], object]] = {
    "answer": lambda conn, number: instances.ready(conn, number, at=2.0, seconds=1.0, cpu_only=False),
    "evict": lambda conn, number: instances.stop(conn, number, "its cards were needed"),
    "end": lambda conn, number: instances.gone(conn, number, at=3.0, reason="llama-server ended"),
}


def state(conn: Connection, number: int) -> str:
    return str(sql.value(conn, "SELECT state FROM instances WHERE id = ?", (number,)))


def tried(conn: Connection) -> set[tuple[str, str, str]]:
    """Every move from every state that changes it: (from, to, move)."""
    found = set()
    for before in InstanceState:
        for name, move in MOVES.items():
            number = instances.add(conn, NEW, now=1.0, boot_id="b")
            sql.run(conn, "UPDATE instances SET state = ? WHERE id = ?", (before.value, number))
            move(conn, number)
            after = state(conn, number)
            if after != before:
                found.add((before.value, after, name))
    return found


def drawn() -> set[tuple[str, str, str]]:
    """The arrows of the diagram, without the first."""
    blocks = re.findall(r"```mermaid\n(.*?)```", ARCHITECTURE.read_text(), re.S)
    [block] = [text for text in blocks if "loading" in text]
    return set(re.findall(r"^ +([a-z]+) --> ([a-z]+): ([a-z]+)$", block, re.M))


def test_states_of_a_copy_are_as_drawn(database: Database) -> None:
    with database.write() as conn:
        found = tried(conn)
    assert found == drawn()
    assert {name for arrow in found for name in arrow[:2]} == {each.value for each in InstanceState}


@pytest.mark.parametrize("first", ["evict", "end"])
def test_a_copy_that_goes_is_not_made_ready(database: Database, first: str) -> None:
    """The first token came too late; why it goes is what was said first."""
    with database.write() as conn:
        number = instances.add(conn, NEW, now=1.0, boot_id="b")
        MOVES[first](conn, number)
        assert MOVES["answer"](conn, number) is False
        assert instances.gone(conn, number, at=4.0, reason="later") in ("stopping", None)
        assert instances.open_instances(conn) == []
        reason = sql.value(conn, "SELECT reason FROM instances WHERE id = ?", (number,))
        assert reason == {"evict": "its cards were needed", "end": "llama-server ended"}[first]
