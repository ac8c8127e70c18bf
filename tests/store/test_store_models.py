"""Jobs on models: what each of a matrix needs, when it is submitted, and when a damaged queue is put together again."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
import pytest
from sqlalchemy.engine import Connection
from store_rig import ME, NOW, column, document, spec

from p104d.core.job import EngineSpec, JobSpec, ModelNeed, Requirement
from p104d.store import forgotten, reads, sql
from p104d.store.engine import Database
from p104d.store.forgotten import Found, Origin
from p104d.store.submit import NewDocument, Submitter, submit
from p104d.store.tidying import tidy

OTHER = Submitter(1001, "eva")


def engine_spec(model: str = "${matrix.model}.gguf", **changes: Any) -> JobSpec:
    engine = EngineSpec(model=model, input="/in.jsonl", output="${matrix.model}-${matrix.part}", context=2048)
    return spec("answers", command=(), cwd="/data", engine=engine, **changes)


COMBINATIONS = [{"model": model, "part": str(part)} for part in range(3) for model in ("a", "/x/b", "./a")]
PATHS = ["/data/a.gguf", "/x/b.gguf", "/data/a.gguf"] * 3


def needs(conn: Connection, ids: list[int]) -> list[Requirement]:
    return [reads.requirement(conn, column(conn, "requirement_id", number)) for number in ids]


def wanted(uid: int = ME.uid) -> list[Requirement]:
    return [Requirement(model=ModelNeed(path=path, uid=uid, context=2048)) for path in PATHS]


def test_each_job_of_a_matrix_needs_its_own_model(database: Database) -> None:
    with database.write() as conn:
        made = submit(conn, [NewDocument(spec=engine_spec(), combinations=COMBINATIONS)], ME, NOW).jobs
        ids = [number for number, _ in made]
        assert ids == list(range(1, 10)) and {name for _, name in made} == {"answers"}
        assert needs(conn, ids) == wanted()
        stored = [msgspec.json.decode(column(conn, "matrix", number)) for number in ids]
        assert stored == COMBINATIONS
        # Two models, so two requirements: jobs on the same one are interchangeable.
        assert len({column(conn, "requirement_id", number) for number in ids}) == 2


def test_a_requirement_is_its_submitters(database: Database) -> None:
    with database.write() as conn:
        for who in (ME, OTHER, ME):
            submit(conn, [NewDocument(spec=engine_spec(), combinations=COMBINATIONS)], who, NOW)
        assert needs(conn, [*range(10, 19)]) == wanted(OTHER.uid)
        assert sql.value(conn, "SELECT count(*) FROM requirements") == 4


def test_one_model_and_commands_have_one_requirement(database: Database) -> None:
    with database.write() as conn:
        fixed = NewDocument(spec=engine_spec("/m.gguf"), combinations=COMBINATIONS)
        submit(conn, [fixed, document("x", matrix=5)], ME, NOW)
        assert sql.value(conn, "SELECT count(*) FROM requirements") == 2
        assert needs(conn, [1, 9])[0] == needs(conn, [9])[0]
        assert needs(conn, [10]) == [Requirement()]


def test_a_forgotten_job_needs_its_model_again(database: Database) -> None:
    origin = Origin(
        name="answers", uid=7, user="eva", submitted_at=NOW, spec=engine_spec(), matrix={"model": "a", "part": "2"}
    )
    with database.write() as conn:
        forgotten.take_in(conn, 40, origin, {}, 0o022, [Found(number=1, boot_id="b", placed_at=NOW)])
        assert needs(conn, [40])[0].model == ModelNeed(path="/data/a.gguf", uid=7, context=2048)


@pytest.mark.parametrize("who", [ME, OTHER])
def test_lost_requirements_are_derived_again_for_each_job(database: Database, who: Submitter) -> None:
    with database.write() as conn:
        submit(conn, [NewDocument(spec=engine_spec(), combinations=COMBINATIONS), document("x", matrix=3)], who, NOW)
        path = sql.value(conn, "SELECT file FROM pragma_database_list WHERE name = 'main'")
    raw = sqlite3.connect(path)
    try:
        raw.execute("DELETE FROM requirements")
        tidy(raw, skipped_ids=0)
        raw.commit()
    finally:
        raw.close()
    with database.read() as conn:
        assert needs(conn, [*range(1, 13)]) == [*wanted(who.uid), *[Requirement()] * 3]
