"""Models and what goes wrong around them: servers that fail, files that change, daemons and queues that are lost."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psutil
import pytest
from daemon_rig import CONFIG, eventually
from quick_rig import QuickRig

Make = Callable[..., QuickRig]
CONFIG_ONE = CONFIG + "max_parallel_loads = 1\n"


@pytest.fixture
def make() -> Iterator[Make]:
    """Rigs of a test's own."""
    with ExitStack() as closing:

        def call(simulate: int | str, **options: str) -> QuickRig:
            rig = QuickRig(simulate, **options)
            closing.callback(rig.close)
            rig.start()
            return rig

        yield call


@pytest.fixture(scope="module")
def shared() -> Iterator[QuickRig]:
    rig = QuickRig(2, models='load_timeout = "3s"')
    try:
        yield rig.start()
    finally:
        rig.close()


@pytest.fixture
def rig(shared: QuickRig) -> Iterator[QuickRig]:
    """One of two cards, which is as new afterwards."""
    yield shared
    shared.quiet()
    for copy in shared.copies():
        shared.ctl("models", "unload", f"#{copy['id']}")
    eventually(lambda: shared.copies() == [])


def done(rig: QuickRig, *jobs: int) -> None:
    for job in rig.wait(*jobs):
        assert job["state"] == "succeeded", (job, rig.log.read_text())


def why(rig: QuickRig, job: int) -> str:
    """The reason of a job that has failed."""
    [end] = rig.wait(job)
    assert end["state"] == "failed", end
    return str(end["reason"])


def server_is_loading(rig: QuickRig, after: int = 0) -> int:
    """Wait until another server than the first ``after`` has begun to load; its pid."""
    return int(eventually(lambda: rig.served("start")[after:])[0][0])


# --- servers -------------------------------------------------------------------------------------------------------


def test_servers_that_do_not_serve(rig: QuickRig) -> None:
    """Each costs the job that wanted it, with what is known of it, and nobody else."""
    rig.model("ends", exit=3, words="error: no such thing")
    rig.model("dies", live=0.2, load=-1)
    rig.model("never", load=-1)
    rig.model("sick", sick=True)
    rig.model("fine")
    bad = {name: rig.batch(name, f"of-{name}") for name in ("ends", "dies", "never", "sick")}
    done(rig, *(rig.batch("fine", f"fine-{n}") for n in range(3)))
    assert "ends could not be loaded: error: no such thing (llama-server: exit code 3)" in why(rig, bad["ends"])
    assert "dies could not be loaded: llama-server ended with exit code 9" in why(rig, bad["dies"])
    assert "never could not be loaded: the model server is not ready after" in why(rig, bad["never"])
    assert "sick could not be loaded: the model server refuses a token (500)" in why(rig, bad["sick"])
    done(rig, rig.batch("fine", "fine-after"))  # it may have made room for one of the others meanwhile
    assert {copy["name"] for copy in rig.copies()} == {"fine"}


def test_a_server_that_dies_of_a_request(rig: QuickRig) -> None:
    """Each time: a few servers, then the job's end; what was answered is kept, and the next model is served."""
    rig.model("mortal", die_on=2)
    job = rig.batch("mortal", "deadly", 20)
    assert why(rig, job) == "its model server ended"
    assert len(rig.show(job)["attempts"]) == 4
    assert 3 <= len(rig.answered("deadly")) == len(set(rig.answered("deadly"))) < 20
    rig.model("fine")
    done(rig, rig.batch("fine", "after"))


@pytest.mark.parametrize("dead", ["server", "shim"])
def test_death_at_the_first_token(rig: QuickRig, dead: str) -> None:
    """A server that dies of it fails the job; one whose shim was killed has shown nothing, and is loaded again."""
    name = f"brief-{dead}"
    rig.model(name, think=60)
    before = len(rig.served("think"))
    job = rig.batch(name, f"of-{name}")
    pid = int(eventually(lambda: rig.served("think")[before:])[0][0])
    rig.how(name)
    victim = psutil.Process(pid) if dead == "server" else psutil.Process(pid).parent()
    assert victim is not None
    victim.kill()
    if dead == "server":
        assert "signal 9" in why(rig, job)
    else:
        done(rig, job)


def test_a_server_that_ignores_sigterm(rig: QuickRig) -> None:
    rig.model("deaf", stubborn=True)
    done(rig, rig.batch("deaf", "one"))
    pid = rig.copies()[0]["pid"]
    assert rig.ctl("models", "unload", "deaf").code == 0
    eventually(lambda: rig.copies() == [])
    assert not psutil.pid_exists(pid)


def test_a_program_that_is_none(make: Make) -> None:
    rig = make(1)
    rig.model("red")
    rig.server.chmod(0o644)
    assert "cannot be executed" in why(rig, rig.batch("red", "one"))
    rig.server.unlink()
    assert "command not found" in why(rig, rig.batch("red", "two"))
    assert rig.copies() == []


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_model_that_is_replaced(rig: QuickRig) -> None:
    """A job that was submitted after the other file was there is never answered by the copy of the first."""
    rig.model("red")
    (rig.work / "red.gguf.text").write_text("old ")
    done(rig, rig.batch("red", "one"))
    rig.model("red", seed=22)
    (rig.work / "red.gguf.text").write_text("new ")
    done(rig, rig.batch("red", "two"))
    told = {each["response"]["body"]["content"].split()[0] for each in rig.answers("two")}
    assert told == {"new"}
    (rig.work / "red.gguf.text").unlink()


def test_a_model_that_goes_while_it_is_used(rig: QuickRig) -> None:
    path = rig.model("gone", slow=0.1)
    job = rig.batch("gone", "long", 10)
    rig.until(job, "running")
    path.unlink()
    done(rig, job)
    assert "no such file" in why(rig, rig.batch("gone", "late"))


# --- people --------------------------------------------------------------------------------------------------------


def test_nobody_waits_for_a_copy_any_more(rig: QuickRig) -> None:
    """A job is cancelled while its model is loading, another is held: the copies are there for whoever comes."""
    rig.model("red", load=0.5)
    job, other = rig.batch("red", "one"), rig.batch("red", "two")
    server_is_loading(rig, len(rig.served("start")))
    assert rig.ctl("hold", other).code == 0 and rig.ctl("cancel", job).code == 0
    assert rig.ends(job) == "cancelled"
    eventually(lambda: all(copy["state"] == "ready" for copy in rig.copies()))
    before = rig.loads()
    assert rig.copies() and rig.state(other) == "held" and rig.ctl("release", other).code == 0
    done(rig, other, rig.batch("red", "three"))
    assert rig.loads() == before


def test_a_pause_while_a_model_is_loading(rig: QuickRig) -> None:
    rig.model("red", load=0.5)
    job = rig.batch("red", "one")
    eventually(lambda: [copy for copy in rig.copies() if copy["state"] == "loading"])
    assert rig.ctl("pause").code == 0
    rig.copy()
    assert rig.state(job) == "queued" and "paused" in rig.because(job)
    assert rig.ctl("resume").code == 0
    done(rig, job)


def test_one_job_has_one_load(rig: QuickRig) -> None:
    """Of a model whose loads and runs are known to be short, too, with a copy to be evicted on every card."""
    for name in ("red", "blue", "green"):
        rig.model(name, load=0.1)
    for number, name in enumerate(("red", "blue", "green", "red", "blue", "green")):
        before = rig.loads()
        done(rig, rig.batch(name, f"turn-{number}"))
        assert rig.loads() == before + 1, name


def test_one_load_at_a_time(make: Make) -> None:
    """And all jobs of a long queue end, each answered once, with about a load a model and card."""
    rig = make(3, config=CONFIG_ONE)
    rig.requests("in", 2)
    names = [f"m{n}" for n in range(4)]
    for name in names:
        rig.model(name, load=0.05)
    documents = [{**rig.document(names[n % 4], "in"), "name": f"j{n}", "output": f"j{n}.out"} for n in range(24)]
    jobs = rig.submit(*documents)
    eventually(lambda: _loading(rig) <= 1 and not rig.status()["queue"].get("queued"), what="all are placed")
    done(rig, *jobs)
    assert all(len((rig.work / f"j{n}.out").read_text().splitlines()) == 2 for n in range(24))
    assert 4 <= rig.loads() <= 12


def test_a_command_waits_for_the_copy_whose_card_it_gets(make: Make) -> None:
    """A load would free two cards, and is put off, for another is under way; the command that was to have the second
    of them has it for itself."""
    rig = make(3, config=CONFIG_ONE)
    (rig.work / "locks").mkdir()
    rig.model("wide")
    rig.model("red")
    rig.model("blue", load=3.0)
    done(rig, rig.batch("wide", "one", cards=2))
    started = len(rig.served("start"))
    late = rig.batch("blue", "two")
    server_is_loading(rig, started)
    rig.requests("three", 2)
    alone = {"name": "alone", "command": 'exec flock -x -n "locks/$P104_CARDS" true'}
    red, command = rig.submit(rig.document("red", "three"), alone)
    done(rig, command)
    assert [copy["name"] for copy in rig.copies() if copy["state"] == "loading"] == ["blue"]
    done(rig, late, red)
    assert rig.served("conflict") == []


def _loading(rig: QuickRig) -> int:
    loading = [copy for copy in rig.copies() if copy["state"] == "loading"]
    assert len(loading) <= 1, loading
    return len(loading)


# --- daemons, and their queue --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", ["daemon", "daemon and server", "daemon and shim"])
def test_kill_9_while_a_model_is_loading(make: Make, dead: str) -> None:
    """The next daemon has the server; one whose shim died is loaded again, and nobody's job has failed for it."""
    rig = make(1)
    rig.model("red", load=0.7)
    job = rig.batch("red", "one")
    pid = server_is_loading(rig)
    rig.kill()
    if dead != "daemon":
        victim = psutil.Process(pid) if dead.endswith("server") else psutil.Process(pid).parent()
        assert victim is not None
        victim.kill()
    rig.start()
    if dead.endswith("server"):
        assert "signal 9" in why(rig, job)  # as when the kernel is out of memory: it would be so again
        return
    done(rig, job)
    assert len(rig.served("start")) == (1 if dead == "daemon" else 2)
    assert [copy["state"] for copy in rig.copies()] == ["ready"]


def test_a_queue_that_is_restored_under_a_job(make: Make) -> None:
    """The job holds its copy, which the queue knows; a server that it does not know is ended."""
    rig = make(2)
    rig.model("red", slow=0.1)
    rig.model("blue")
    done(rig, rig.batch("red", "one"))
    eventually(lambda: list((rig.store / "backup").glob("queue-*.db")))
    _back_up(rig)
    done(rig, rig.batch("blue", "other"))
    job = rig.batch("red", "long", 30)
    rig.until(job, "running")
    first, second = (copy["pid"] for copy in sorted(rig.copies(), key=lambda copy: int(copy["id"])))
    rig.kill()
    for ending in ("", "-wal", "-shm"):
        (rig.store / f"queue.db{ending}").unlink(missing_ok=True)
    rig.start()
    eventually(lambda: not psutil.pid_exists(second))
    [copy] = rig.copies()
    assert copy["pid"] == first and copy["job"] == job
    assert rig.ctl("resume").code == 0
    later = rig.batch("blue", "later")
    done(rig, job, later)
    assert len(rig.show(job)["attempts"]) == 1 and rig.answered("long") == sorted(f"long-{n}" for n in range(30))


def _back_up(rig: QuickRig) -> None:
    """The queue as it is now, instead of every backup that was made before."""
    for path in (rig.store / "backup").glob("queue-*.db"):
        path.unlink()
    live, copy = sqlite3.connect(rig.store / "queue.db"), sqlite3.connect(rig.folder / "copy.db")
    live.backup(copy)
    live.close()
    copy.close()
    shutil.copy(rig.folder / "copy.db", rig.store / "backup" / "queue-20260101T000000Z.db")
