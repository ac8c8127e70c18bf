"""A queue of every earlier release is upgraded with all that is in it, however often the upgrade is killed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import interposer
import pytest
from daemon_rig import PATIENCE, ROOT
from fault_rig import FaultRig
from torture import amount

from p104d.store import migrate
from p104d.store.migrate import HEAD, current, upgrade_in_child

pytestmark = pytest.mark.torture

REVISIONS = sorted(path.name[:4] for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))
EARLIER = [revision for revision in REVISIONS if revision < HEAD]
CARD = "GPU-11111111-2222-5333-a444-555555555555"
IDENTITY = (
    f'{{"uuid":"{CARD}","index":0,"name":"P104-100","bus_id":"00000000:01:00.0","device_id":"10de:1b87",'
    '"subsystem_id":"10de:1201","vbios":"86.04.7A.00.20","memory_total_bytes":8589934592}'
)
SPEC = '{"name":"%s","command":["/bin/sh","-c","echo %s ran >> ran"],"cwd":"WORK","cards":0}'
MATRIX = SPEC % ("matrix", "${matrix.n}")
UID = os.getuid()

ATTEMPT = (
    "job_id, number, boot_id, outcome, exit_code, signal, reason, stop_reason, pid, placed_at, started_at, ended_at, "
    "ends_by, ram_bytes, cards, cpu_seconds, max_rss_bytes, log_bytes"
)
#: What the first release could have in its file, as it wrote it: a job in every state that outlives a daemon, a matrix,
#: a dependency, a schedule, a card that a person drained, attempts with what they measured, a queue that is paused.
FIRST = f"""
INSERT INTO cards (uuid, identity, driver, verdict, drained, drained_by, suspect, first_seen_at, last_seen_at)
    VALUES ('{CARD}', '{IDENTITY}', '580.65', 'unverified', 1, 'eva', 'XID 62', 5.0, 6.0);
INSERT INTO documents VALUES (1, 'done', '{SPEC % ("done", "done")}', '{{"env":{{"SECRET":"s"}}}}', 18, NULL);
INSERT INTO documents VALUES (2, 'matrix', '{MATRIX}', '{{"env":{{}}}}', 18, 60.0);
INSERT INTO documents VALUES (3, 'after', '{SPEC % ("after", "after")}', '{{"env":{{}}}}', 18, NULL);
INSERT INTO documents VALUES (4, 'nightly',
    '{{"name":"nightly","command":["true"],"cwd":"/","cards":0,"schedule":{{"cron":"0 3 * * *","timezone":null}}}}',
    '{{"env":{{}}}}', 18, NULL);
INSERT INTO requirements VALUES (1, '{{"cards":0,"vram_bytes":null,"ram_bytes":0,"only":[]}}');
INSERT INTO jobs VALUES (1, 1, NULL, 'done', {UID}, 'me', NULL, 'failed', 'exit code 3', 5, 1, 0, NULL, 2, 2,
    100.0, 110.0, 120.5, 3);
INSERT INTO jobs VALUES (2, 1, NULL, 'done', {UID}, 'me', NULL, 'lost', 'its host died', 0, 1, 0, NULL, 1, 0,
    100.0, 110.0, 130.0, NULL);
INSERT INTO jobs VALUES (3, 2, NULL, 'matrix', {UID}, 'me', '{{"n":"1"}}', 'queued', NULL, 0, 1, 0, NULL, 0, 0,
    140.0, NULL, NULL, NULL);
INSERT INTO jobs VALUES (4, 2, NULL, 'matrix', {UID}, 'me', '{{"n":"2"}}', 'held', NULL, 0, 1, 0, NULL, 0, 0,
    140.0, NULL, NULL, NULL);
INSERT INTO jobs VALUES (5, 3, NULL, 'after', {UID}, 'me', NULL, 'queued', NULL, 0, 1, 1, NULL, 0, 0,
    150.0, NULL, NULL, NULL);
INSERT INTO jobs VALUES (6, 1, NULL, 'done', {UID}, 'me', NULL, 'running', NULL, 0, 1, 0, NULL, 1, 0,
    100.0, 110.0, NULL, NULL);
INSERT INTO needs VALUES (1, 3, NULL, 2);
INSERT INTO schedules VALUES (1, 4, 'nightly', {UID}, 'me', '0 3 * * *', NULL, 'held', 160.0, NULL, 150.0, NULL);
INSERT INTO settings VALUES ('paused', '1');
INSERT INTO notifications VALUES (1, 1, {UID}, 'me', '["true"]', '{{}}', 121.0, 1, 'sent', NULL);
INSERT INTO attempts ({ATTEMPT})
    VALUES (1, 1, 'boot', 'failed', 2, NULL, 'exit code 2', NULL, 77, 109.0, 110.0, 111.0, NULL, 0, 1,
    0.5, 1000, 10);
INSERT INTO attempts ({ATTEMPT})
    VALUES (1, 2, 'boot', 'failed', 3, NULL, 'exit code 3', NULL, 78, 112.0, 112.0, 120.5, NULL, 0, 1,
    0.5, 1000, 10);
INSERT INTO attempts ({ATTEMPT})
    VALUES (2, 1, 'boot', 'lost', NULL, NULL, 'its host died', NULL, 79, 109.0, 110.0, 130.0, NULL, 0,
    0, NULL, NULL, NULL);
INSERT INTO attempts ({ATTEMPT})
    VALUES (6, 1, 'a boot long ago', NULL, NULL, NULL, NULL, NULL, 80, 109.0, 110.0, NULL, NULL, 0, 0,
    NULL, NULL, NULL);
INSERT INTO attempt_cards (job_id, number, position, card_uuid, reserved_bytes, exclusive)
    VALUES (1, 2, 0, '{CARD}', 1073741824, 0);
INSERT INTO measurements VALUES (1, 2, 'speed', 12.5, 'tokens/s');
"""
#: What a release could have beside that, by the revision it came with.
LATER = {
    "0002": f"""
        UPDATE cards SET verdict = 'proven', proven_bytes = 8000000000, proof = '{{"at":50.0,"depth":"quick",
            "test_id":1,"driver":"580.65","vbios":"86.04.7A.00.20","total_bytes":8589934592,"text":"whole",
            "coverage":0.98,"foreign_bytes":0,"host_to_device":7e8,"device_to_host":7e8}}';
        INSERT INTO memory_tests (id, card_uuid, depth, cause, state, verdict, text, started_at, ended_at, proven_bytes)
            VALUES (1, '{CARD}', 'quick', 'its memory was never tested', 'finished', 'proven', 'whole', 40.0, 50.0,
            8000000000);
    """,
    "0003": f"""
        INSERT INTO results VALUES (1, 120.5, 1, 2, 'done', NULL, 'me', {UID}, 1, '{CARD}', '["{CARD}"]', 8.5, 'speed',
            12.5, 'tokens/s', '580.65', '86.04.7A.00.20');
    """,
    "0004": f"""
        INSERT INTO families VALUES ('k', '/m.gguf', 'm', 2, 30.0);
        INSERT INTO instances VALUES (1, 'k', '/m.gguf', 'm', '{{}}', NULL, 'gone', 'boot', 1, 0, 1.0, 77, 0, 100.0,
            110.0, 10.0, 120.0, 130.0, 'idle');
        INSERT INTO instance_cards VALUES (1, 0, '{CARD}', 1000, 1000, 900);
        INSERT INTO pins VALUES ('/m.gguf', 'me', 100.0);
    """,
    "0005": "",
}

#: Counted from an hour ago, as they are written above.
TIMES = {"jobs": ("submitted_at", "started_at", "ended_at"), "attempts": ("placed_at", "started_at", "ended_at")}


def old_queue(path: Path, revision: str, work: str = "/") -> None:
    """A queue as the release of ``revision`` left it an hour ago."""
    ago = time.time() - 3600
    migrate.upgrade(str(path), revision)
    database = sqlite3.connect(path)
    database.executescript(FIRST.replace("WORK", work))
    for since, script in LATER.items():
        if since <= revision:
            database.executescript(script)
    for table, columns in TIMES.items():  # not so long ago that they would be forgotten
        database.execute(
            f"UPDATE {table} SET {', '.join(f'{each} = {each} + ?' for each in columns)}", [ago] * len(columns)
        )
    database.commit()
    database.close()
    assert current(path) == revision


def content(path: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, by column."""
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    try:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        return {
            table: [dict(row) for row in database.execute(f"SELECT * FROM {table}")]
            for table in tables
            if table not in ("alembic_version", "sqlite_sequence")
        }
    finally:
        database.close()


def must_hold(now: dict[str, list[dict[str, Any]]], before: dict[str, list[dict[str, Any]]]) -> None:
    """Every row there was is there, with every value it had; columns may have come."""
    for table, rows in before.items():
        assert len(now[table]) == len(rows), table
        for row, old in zip(now[table], rows, strict=True):
            assert {key: row[key] for key in old} == old, table


@pytest.mark.parametrize("revision", EARLIER)
def test_all_that_was_in_it_is_in_it(revision: str, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    old_queue(path, revision)
    before = content(path)
    upgrade_in_child(path)
    assert current(path) == HEAD
    must_hold(content(path), before)
    assert {row["state"]: row["jobs"] for row in content(path)["state_counts"] if row["jobs"]} == {
        "failed": 1,
        "lost": 1,
        "queued": 2,
        "held": 1,
        "running": 1,
    }


@pytest.mark.parametrize("revision", EARLIER)
def test_a_daemon_goes_on_with_it(revision: str, make: Callable[..., FaultRig]) -> None:
    rig = make(1)
    rig.store.mkdir(mode=0o700)
    old_queue(rig.store / "queue.db", revision, str(rig.work))
    rig.start()
    assert rig.status()["daemon"]["paused"]
    assert {job["id"]: job["state"] for job in rig.json("list")["jobs"]} == {
        1: "failed", 2: "lost", 3: "queued", 4: "held", 5: "queued", 6: "lost",
    }  # fmt: skip
    done = rig.show(1)
    assert (done["exit_code"], done["reason"], done["priority"]) == (3, "exit code 3", 5)
    assert [(each["number"], each["exit_code"]) for each in done["attempts"]] == [(1, 2), (2, 3)]
    assert done["measurements"] == [{"name": "speed", "value": 12.5, "unit": "tokens/s"}]
    [schedule] = rig.json("schedules")["schedules"]
    assert (schedule["name"], schedule["state"]) == ("nightly", "held")
    old = rig.card(CARD)
    assert old["state"] in ("missing", "drained")
    assert old["verdict"] == ("proven" if revision >= "0002" else "unverified")
    # And what waited goes on waiting for what it waited for.
    rig.json("resume")
    assert rig.ends(3) == "succeeded"
    assert rig.state(5) == "queued"
    rig.json("release", 4)
    assert rig.ends(5) == "succeeded"
    assert (rig.work / "ran").read_text().split("\n")[-2] == "after ran"


_UPGRADE = "import sys; from p104d.store.migrate import upgrade; upgrade(sys.argv[1])"


def upgraded_under(path: Path, rule: str, trace: str | None = None) -> int:
    """The exit status of an upgrade by a process of its own."""
    env = {**os.environ, **interposer.environment(rule, trace), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", _UPGRADE, str(path)], env=env, timeout=PATIENCE).returncode


@pytest.mark.parametrize("revision", EARLIER[:1])
def test_an_upgrade_that_is_killed_is_done_again(revision: str, tmp_path: Path) -> None:
    interposer.required()
    old, path, trace = tmp_path / "old.db", tmp_path / "queue.db", tmp_path / "trace"
    old_queue(old, revision)
    before = content(old)
    shutil.copy(old, path)
    assert upgraded_under(path, "count", str(trace)) == 0
    points = sum("queue.db" in point.path for point in interposer.read_trace(str(trace)))
    assert points > 3
    chosen = amount([1, points // 2, points], [*range(1, points + 1)])
    versions = set()
    for number in chosen:
        for leftover in tmp_path.glob("queue.db*"):
            leftover.unlink()
        shutil.copy(old, path)
        assert upgraded_under(path, f"kill:{number}:queue.db") == -signal.SIGKILL
        versions.add(current(path))
        upgrade_in_child(path)
        assert current(path) == HEAD
        must_hold(content(path), before)
    assert revision in versions  # some were killed before they were done


def test_two_upgrades_at_once_are_one(tmp_path: Path) -> None:
    """A daemon killed in the middle leaves the one who upgrades going; the next daemon begins the same."""
    path = tmp_path / "queue.db"
    old_queue(path, EARLIER[0])
    before = content(path)
    command = [sys.executable, "-c", _UPGRADE, str(path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[1] for process in both]
    assert 0 in [process.returncode for process in both], said
    assert current(path) == HEAD
    must_hold(content(path), before)
    upgrade_in_child(path)


def test_a_later_releases_queue_is_refused_in_a_line_and_left_alone(make: Callable[..., FaultRig]) -> None:
    """There is no way back but a backup; a file that is only too new must not be taken for a damaged one."""
    rig = make(1)
    rig.store.mkdir(mode=0o700)
    path = rig.store / "queue.db"
    old_queue(path, HEAD)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    before = path.read_bytes()
    with rig.spawn() as daemon:
        assert daemon.wait(PATIENCE) == 1
    said = rig.log.read_text()
    assert said.count("\n") == 1 and said.startswith("p104d: "), said
    assert "version 9999" in said and "install that release again" in said
    assert path.read_bytes() == before
    assert not (rig.store / "quarantine").exists()
