"""A job on a model as ``show`` prints it: the keys of job.yaml, with the files of this one job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from p104d.api.service import Caller
from p104d.api.spec import Context, Document, parse_submission
from p104d.daemon import views
from p104d.store import lists
from p104d.store.engine import Database
from p104d.store.submit import NewDocument, StoredEnv, Submitter, submit

TEXT = """\
name: answers
engine: llama.cpp
model: ${matrix.model}.gguf
input: in.jsonl
output: out/${matrix.model}.jsonl
ram: 2GiB
labels: {project: words}
matrix: {model: [a, /x/b]}
"""


@pytest.fixture
def conn(database: Database) -> Iterator[Connection]:
    with database.write() as connection:
        yield connection


def shown(conn: Connection, text: str, job_id: int = 1, uid: int = 1000) -> dict[str, Any] | None:
    parsed = parse_submission([Document("job.yaml", text)], Context(cwd="/home/me"))
    submit(conn, [NewDocument(spec=each.spec, combinations=each.jobs) for each in parsed], Submitter(1000, "me"), 1.0)
    [row] = lists.job_rows(conn, [job_id])
    [(_, spec)] = lists.specs(conn, [row.document_id])
    return views.full_job(
        row,
        caller=Caller(uid=uid, user="x", admin=False),
        because=None,
        attempts=[],
        cards={},
        measurements=[],
        spec=spec,
        env=StoredEnv({"A": "1"}),
        after=[],
    ).spec


def test_keys_are_those_of_job_yaml(conn: Connection) -> None:
    found = shown(conn, TEXT, 2)
    assert found == {
        "name": "answers",
        "engine": "llama.cpp",
        "model": "/x/b.gguf",
        "context": 4096,
        "kv_cache": "f16",
        "parallel": 1,
        "input": "/home/me/in.jsonl",
        "output": "/home/me/out/x/b.jsonl",
        "cwd": "/home/me",
        "ram_bytes": 2 * 2**30,
        "labels": {"project": "words"},
        "idempotent": True,
        "env": {"A": "1"},
        "matrix": {"model": "/x/b"},
    }


@pytest.mark.parametrize("cards", [1, 3])
def test_cards_are_told_where_they_were_asked_for(conn: Connection, cards: int) -> None:
    found = shown(conn, TEXT + f"cards: {cards}\nkv_cache: q8_0")
    assert found is not None
    assert (found["cards"], found["kv_cache"], found["model"]) == (cards, "q8_0", "/home/me/a.gguf")


def test_it_is_for_its_owner(conn: Connection) -> None:
    assert shown(conn, TEXT, uid=1001) is None
