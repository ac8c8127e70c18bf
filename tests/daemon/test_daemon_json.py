"""What programs read: every --json is what its shipped schema says, and the exported file is SQL for people."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from daemon_rig import Rig, eventually

from p104d.api.schemas import FOLDER, schemas, text


@pytest.fixture
def variety(rig: Rig) -> dict[str, int]:
    """A job of every kind of state that stands still."""
    found = {
        "failed": rig.sh("echo x; exit 3", retries=0, labels={"a": "b"}),
        "succeeded": rig.submit({"name": "m", "matrix": {"s": [1]}, "command": "echo '30/30 [00:12<00:00, 2.50it/s]'"})[
            0
        ],
        "signalled": rig.sh("kill -9 $$"),
    }
    rig.wait(*found.values())
    found["running"] = rig.sh("exec sleep 60", cards=2)
    rig.until(found["running"], "running")
    found["queued"] = rig.sh("true", cards=4)
    rig.json("pause")
    found["held"] = rig.sh("true")
    rig.json("hold", found["held"])
    rig.ctl("submit", "-", stdin="name: s\ncommand: 'true'\nschedule: '0 3 * * *'\n")
    return found


def schema(rig: Rig, name: str) -> Any:
    """As people get it."""
    found = rig.ctl("schema", name)
    assert found.code == 0, found
    return json.loads(found.out)


def check(rig: Rig, name: str, value: Any) -> None:
    made = schema(rig, name)
    jsonschema.Draft202012Validator.check_schema(made)
    jsonschema.Draft202012Validator(made).validate(value)
    if isinstance(value, dict) and value:
        # A schema that would take anything proves nothing.
        broken = {key: entry for key, entry in value.items() if key != next(iter(value))}
        assert not jsonschema.Draft202012Validator(made).is_valid(broken), name


def test_every_reading_verb_keeps_to_its_schema(rig: Rig, variety: dict[str, int]) -> None:
    ids = list(variety.values())
    check(rig, "status", rig.json("status"))
    check(rig, "cards", rig.json("cards"))
    check(rig, "list", rig.json("list"))
    check(rig, "schedules", rig.json("schedules"))
    check(rig, "doctor", rig.ctl("doctor", "--json").json)
    for job in ids:
        check(rig, "show", rig.json("show", job))
        check(rig, "explain", rig.json("explain", job))
    for job in rig.json("show", *ids)["jobs"]:
        check(rig, "show", job)
    for job in rig.json("explain", *ids)["jobs"]:
        check(rig, "explain", job)
    check(rig, "wait", rig.ctl("wait", "--json", variety["failed"], variety["signalled"]).json)


def test_every_acting_verb_keeps_to_its_schema(rig: Rig, variety: dict[str, int]) -> None:
    check(rig, "submit", rig.json("submit", "-", stdin="command: 'true'\n"))
    check(rig, "submit", rig.ctl("run", "--detach", "--json", "--", "true").json)
    check(rig, "verbs", rig.json("release", variety["held"]))
    check(rig, "verbs", rig.json("hold", variety["held"]))
    check(rig, "verbs", rig.json("priority", variety["held"], 3))
    check(rig, "verbs", rig.json("retry", variety["failed"]))
    check(rig, "verbs", rig.json("cancel", variety["failed"], variety["running"]))
    check(rig, "cards", rig.json("drain", 0))
    check(rig, "cards", rig.json("undrain", 0))
    check(rig, "pause", rig.json("resume"))
    check(rig, "pause", rig.json("pause"))


def test_absent_is_null_and_times_have_offsets(rig: Rig, variety: dict[str, int]) -> None:
    waiting = rig.show(variety["queued"])
    assert waiting["started_at"] is None and waiting["ended_at"] is None and waiting["exit_code"] is None
    ended = rig.show(variety["failed"])
    for key in ("submitted_at", "started_at", "ended_at"):
        assert ended[key].endswith("+00:00"), ended[key]
    assert ended["submitted_at"] <= ended["started_at"] <= ended["ended_at"]
    killed = rig.show(variety["signalled"])
    assert killed["exit_code"] is None and killed["attempts"][0]["signal"] == 9
    assert killed["reason"] == "signal 9 (SIGKILL)"


def test_the_shipped_schemas_are_those_of_the_wire() -> None:
    made = schemas()
    shipped = {path.stem: path.read_text() for path in Path(FOLDER).glob("*.json")}
    assert shipped.keys() == made.keys()
    for name, one in made.items():
        assert shipped[name] == text(one), f"{name}: run python -m p104d.api.schemas"


def test_job_yaml_has_a_schema_too(rig: Rig) -> None:
    job = schema(rig, "job")
    jsonschema.Draft202012Validator.check_schema(job)
    validator = jsonschema.Draft202012Validator(job)
    assert validator.is_valid({"command": ["true"], "cards": 0})
    assert not validator.is_valid({"command": ["true"], "crads": 0})


def test_exported_telemetry_is_a_copy_of_the_readings(rig: Rig) -> None:
    file = rig.work / "readings.db"
    file.unlink(missing_ok=True)
    assert rig.ctl("export", "--telemetry", "readings.db").code == 0
    database = sqlite3.connect(file)
    try:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA application_id").fetchone() == (0x50313034,)
        assert {"power_watts"} <= {name for (name,) in database.execute("SELECT name FROM metrics")}
        assert database.execute("SELECT count(*) FROM history").fetchone()
    finally:
        database.close()
    eventually(lambda: not [*rig.store.glob("export-*")])


def test_the_exported_file_is_sql_for_people(rig: Rig, variety: dict[str, int]) -> None:
    file = rig.work / "copy.db"
    file.unlink(missing_ok=True)
    assert rig.ctl("export", "copy.db").code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    database = sqlite3.connect(file)
    try:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = dict(database.execute("SELECT id, state FROM jobs").fetchall())
        assert {rows[job] for job in variety.values()} >= {"failed", "succeeded", "running", "queued", "held"}
        assert len(rows) == sum(rig.status()["queue"].values())
        found = database.execute("SELECT exit_code FROM attempts WHERE job_id = ?", (variety["failed"],)).fetchall()
        assert found == [(3,)]
    finally:
        database.close()
    assert "exists" in rig.refused("export", "copy.db", code=4)
    assert rig.ctl("export", "--force", "copy.db").code == 0
    # The daemon's own copy goes when the last byte has been sent, an instant after it has come.
    eventually(lambda: not [*rig.store.glob("export-*")])
