"""The tests' own library between a process and libc: it numbers, it kills, it fails, and otherwise it is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import interposer
import pytest

SUPPORT = os.path.dirname(os.path.abspath(interposer.__file__))

#: Eight points in this order, and reads between them, which are none.
SCRIPT = """
import os, sys
a = os.open("a", os.O_RDWR | os.O_CREAT)
os.write(a, b"x" * 10)
os.pwrite(a, b"y", 0)
os.fsync(a)
os.rename("a", "b")
open("b").read()
child = os.fork()
if not child:
    os.write(a, b"a child's writes are its own")
    os._exit(0)
os.waitpid(child, 0)
os.mkdir("d")
os.unlink("b")
"""
CALLS = ["create", "write", "pwrite", "fsync", "rename", "fork", "mkdir", "unlink"]


@pytest.fixture(autouse=True)
def _there() -> None:
    interposer.required()


def run(folder: object, script: str, rule: str) -> tuple[subprocess.CompletedProcess[str], list[interposer.Point]]:
    trace = os.path.join(str(folder), "trace")
    env = {**os.environ, **interposer.environment(rule, trace)}
    argv = [sys.executable, "-I", "-S", "-B", "-c", script]
    done = subprocess.run(argv, cwd=str(folder), env=env, capture_output=True, text=True, timeout=30)
    return done, interposer.read_trace(trace)


def test_every_call_that_changes_the_world_is_a_point_and_children_are_not_counted(tmp_path: object) -> None:
    done, points = run(tmp_path, SCRIPT, "count")
    assert done.returncode == 0, done.stderr
    assert [point.call for point in points] == CALLS
    assert [point.number for point in points] == list(range(1, len(CALLS) + 1))
    assert points[1].path == f"{tmp_path}/a"


@pytest.mark.parametrize("number", range(1, len(CALLS) + 2))
@pytest.mark.parametrize("how", ["kill", "after"])
def test_killed_at_each(how: str, number: int, tmp_path: object) -> None:
    done, points = run(tmp_path, SCRIPT, f"{how}:{number}")
    assert [point.call for point in points] == CALLS[:number]  # up to and with the one it died at
    assert done.returncode == (-signal.SIGKILL if number <= len(CALLS) else 0)
    after = number if how == "after" else number - 1
    assert os.path.exists(f"{tmp_path}/d") == (after >= 7)
    assert os.path.exists(f"{tmp_path}/b") == (5 <= after < 8)


def test_killed_at_a_path(tmp_path: object) -> None:
    done, points = run(tmp_path, SCRIPT, "kill:1:b")
    assert done.returncode == -signal.SIGKILL
    assert points[-1].call == "rename"


@pytest.mark.parametrize(
    ("rule", "failing"),
    [
        ("eio:fsync|fdatasync:2:one", [2]),
        ("eio:fsync|fdatasync:2+:one", [2, 3]),
        ("enospc:any:1:one", []),  # its first point is the file's creation
        ("fail:30:fsync:1", [1]),
        ("eio:fdatasync:1", []),
        ("eio:fsync:1:two", []),
    ],
)
def test_calls_that_fail(rule: str, failing: list[int], tmp_path: object) -> None:
    script = """
import os
try:
    file = os.open("one", os.O_WRONLY | os.O_CREAT)
except OSError as error:
    print("create", error.errno)
    raise SystemExit
for number in (1, 2, 3):
    try:
        os.fsync(file)
    except OSError as error:
        print(number, error.errno)
"""
    done, points = run(tmp_path, script, rule)
    error = {"e": 5, "f": 30}[rule[0]]
    expected = "create 28\n" if "any" in rule else "".join(f"{number} {error}\n" for number in failing)
    assert done.stdout == expected, done.stderr
    assert sum(point.call == "failed" for point in points) == expected.count("\n")


def test_sqlite_and_posix_fallocate_go_through_it(tmp_path: object) -> None:
    script = """
import os, sqlite3
with open("set-aside", "wb") as file:
    try:
        os.posix_fallocate(file.fileno(), 0, 10)
    except OSError as error:
        print("fallocate", error.errno)
queue = sqlite3.connect("queue.db", isolation_level=None)
queue.execute("pragma journal_mode = wal")
try:
    queue.execute("create table t (a)")
except sqlite3.OperationalError as error:
    print(error)
"""
    done, points = run(tmp_path, script, "enospc:fallocate|pwrite:1:set-aside")
    assert done.stdout == "fallocate 28\n", done.stderr
    assert {("fallocate", "set-aside"), ("pwrite", "queue.db-wal")} <= {
        (point.call, os.path.basename(point.path)) for point in points
    }
    done, _ = run(tmp_path, script.replace(" t ", " u "), "eio:pwrite:1:queue.db-wal")
    assert done.stdout == "disk I/O error\n", done.stderr


def test_armed_again_at_run_time_and_in_a_child(tmp_path: object) -> None:
    script = f"""
import os, sys
sys.path.insert(0, {SUPPORT!r})
sys.path.extend({[path for path in sys.path if path]!r})
import interposer
me = interposer.Interposer()
assert me.points == 0
me.arm("count")
os.mkdir("one"); os.mkdir("two")
assert me.points == 2
me.arm("eio:mkdir:1")
try: os.mkdir("three")
except OSError as error: assert error.errno == 5
assert me.failed == 1
os.mkdir("three")
try: me.arm("kill:none")
except ValueError: pass
else: raise SystemExit("arm took nonsense")
me.trace("")
child = os.fork()
if not child:
    os.mkdir("four")
    me.arm("kill:2")
    os.mkdir("five"); os.mkdir("six")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 9
me.arm("off")
os.mkdir("seven")
assert me.points == 0
"""
    done, _ = run(tmp_path, script, "off")
    assert done.returncode == 0, done.stderr
    assert {"three", "four", "five", "seven"} <= set(os.listdir(str(tmp_path)))
    assert not os.path.exists(f"{tmp_path}/six")


@pytest.mark.parametrize("rule", ["nonsense", "kill", "kill:0", "kill:1x", "eio:fsync", "fail:x:any:1", "count:1"])
def test_what_is_not_understood_is_said(rule: str, tmp_path: object) -> None:
    env = {**os.environ, **interposer.environment(rule)}
    done = subprocess.run(["/bin/true"], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 99
    assert rule in done.stderr


def test_not_preloaded_is_said() -> None:
    with pytest.raises(interposer.NoInterposerError, match="LD_PRELOAD"):
        interposer.Interposer()
