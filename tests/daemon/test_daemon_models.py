"""Jobs on resident models, with a real llama.cpp on the processor: nothing is lost, nothing answered twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
pytest.importorskip("gguf", reason="the extra `llama` is not installed")

from daemon_rig import eventually
from model_rig import LOADED_WITHIN, ModelRig, no_server_left

Make = Callable[..., ModelRig]
SLOW = 400  # tokens: a request that lasts for some tenths of a second, so that there is a middle


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as closing:

        def call(simulate: int | str, **options: object) -> ModelRig:
            rig = ModelRig(simulate, **options)  # type: ignore[arg-type]
            closing.callback(rig.close)
            rig.start()
            return rig

        yield call


def done(rig: ModelRig, *jobs: int) -> None:
    for job in rig.wait(*jobs, seconds=LOADED_WITHIN):
        assert job["state"] == "succeeded", (job, rig.ctl("logs", job["id"]).out, rig.log.read_text())


def test_a_model_stays_for_the_next_job(make: Make) -> None:
    rig = make(2)
    rig.model("small")
    first = rig.batch("small", "one", 5, parallel=2)
    done(rig, first)
    assert rig.answered("one") == sorted(f"one-{n}" for n in range(5))
    [copy] = rig.copy()
    assert copy["name"] == "small" and copy["job"] is None and copy["context"] == 512 and not copy["pinned"]
    [card] = [card for card in rig.cards() if card["models"]]
    assert card["uuid"] == copy["cards"][0] and card["memory_reserved_bytes"] == copy["memory_reserved_bytes"] > 0
    done(rig, rig.batch("small", "two", parallel=2))
    assert [each["id"] for each in rig.copy()] == [copy["id"]] and rig.loads() == 1
    shown = rig.show(first)
    measured = {each["name"]: each["value"] for each in shown["measurements"]}
    assert measured["items"] == 5 and measured["generation_tokens"] == 20
    assert shown["cards"] == copy["cards"] and shown["spec"]["engine"] == "llama.cpp"
    [result] = [each for each in rig.json("history")["summaries"] if each["measure"] == "generation_tokens_per_second"]
    assert result["model"] == "small"
    [learnt] = rig.json("models")["load_times"]
    assert learnt["model"] == "small" and learnt["count"] == 1 and learnt["seconds"] > 0


def test_a_queue_of_two_models_is_collated(make: Make) -> None:
    """One card, two models, in turns: one load each, where strict order would load for every job."""
    rig = make(1)
    rig.model("red", 1)
    rig.model("blue", 2)
    for name in ("r1", "b1", "r2", "b2", "r3", "b3"):
        rig.requests(name, 2)
    models = {"r": "red", "b": "blue"}
    jobs = rig.submit(*(rig.document(models[name[0]], name) for name in ("r1", "b1", "r2", "b2", "r3", "b3")))
    done(rig, *jobs)
    for name in ("r1", "b1", "r2", "b2", "r3", "b3"):
        assert rig.answered(name) == [f"{name}-0", f"{name}-1"]
    assert rig.loads() == 2


def test_two_models_killed_in_the_middle_against_strict_order(make: Make, tmp_path: Path) -> None:
    """A queue that takes turns between two models on one card, its daemon killed twice: every request has one answer,
    and far fewer models were loaded than in strict order of arrival, as the replay counts it."""
    rig = make(1)
    rig.model("red", 1)
    rig.model("blue", 2)
    names = [f"{color}{n}" for n in range(4) for color in ("red", "blue")]
    for name in names:
        rig.requests(name, 4, tokens=SLOW)
    jobs = rig.submit(*(rig.document(name[:-1], name) for name in names))
    for _ in range(2):
        eventually(lambda: any(rig.state(job) == "running" for job in jobs))
        rig.kill()
        rig.start()
    done(rig, *jobs)
    for name in names:
        assert [each["custom_id"] for each in rig.answers(name)] == [f"{name}-{n}" for n in range(4)]
    models = {color: {"cards": 1, "load_seconds": 10} for color in ("red", "blue")}
    trace = [{"id": name, "model": name[:-1], "arrival_seconds": 0, "run_seconds": 1} for name in names]
    (tmp_path / "trace.json").write_text(json.dumps({"cards": 1, "models": models, "jobs": trace}))
    command = [sys.executable, "-m", "p104d.replay", str(tmp_path / "trace.json"), "--policy", "fifo", "--json"]
    strict = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    assert strict["loads"] == len(names)
    assert rig.loads() < strict["loads"] / 2


def test_kill_9_of_the_daemon_in_the_middle(make: Make) -> None:
    """Server and runner go on without it; the next daemon has both, and nothing is loaded or asked twice."""
    rig = make(2)
    rig.model("red", 1)
    rig.model("blue", 2)
    slow = rig.batch("red", "slow", 12, tokens=SLOW)
    other = rig.batch("blue", "other", 6, tokens=SLOW)
    rig.until(slow, "running")
    rig.until(other, "running")
    pids = {copy["name"]: copy["pid"] for copy in rig.copies()}
    rig.kill()
    rig.start()
    assert {copy["name"]: copy["pid"] for copy in rig.copies()} == pids
    later = rig.batch("red", "later")
    done(rig, slow, other, later)
    assert rig.answered("slow") == sorted(f"slow-{n}" for n in range(12))
    assert rig.answered("other") == sorted(f"other-{n}" for n in range(6))
    assert rig.loads() == 2 and len(rig.show(slow)["attempts"]) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_dies_under_a_job(make: Make, number: signal.Signals) -> None:
    """Another copy is loaded, and the job goes on where it was, without using up a retry."""
    rig = make(1)
    rig.model("red")
    job = rig.batch("red", "slow", 12, tokens=SLOW)
    rig.until(job, "running")
    eventually(lambda: (rig.work / "slow.out").exists() and rig.answers("slow"))
    [copy] = rig.copies()
    rig.server_of(copy).send_signal(number)
    done(rig, job)
    assert rig.answered("slow") == sorted(f"slow-{n}" for n in range(12))
    first, *_, last = rig.show(job)["attempts"]
    assert first["reason"] == "its model server ended" and last["outcome"] == "succeeded"
    assert rig.loads() == 2


def test_a_server_that_stands_still(make: Make) -> None:
    rig = make(1)
    rig.model("red")
    job = rig.batch("red", "slow", 12, tokens=SLOW)
    rig.until(job, "running")
    eventually(lambda: (rig.work / "slow.out").exists() and rig.answers("slow"))
    [copy] = rig.copies()
    rig.server_of(copy).suspend()
    done(rig, job)
    assert rig.answered("slow") == sorted(f"slow-{n}" for n in range(12))
    first = rig.show(job)["attempts"][0]
    assert first["reason"] in ("its model server ended", "its model server stopped answering")


def test_two_jobs_with_one_output(make: Make) -> None:
    """The second fails and says why; its copy has done nothing wrong and stays."""
    rig = make(2)
    rig.model("red", 1)
    rig.model("blue", 2)
    done(rig, rig.batch("blue", "warm"))
    first = rig.batch("red", "same", 300, tokens=SLOW)
    eventually(lambda: (rig.work / "same.out").exists() and rig.answers("same"))  # from then on the file is its own
    [second] = rig.submit(rig.document("blue", "same"))
    [end] = rig.wait(second)
    assert end["state"] == "failed" and "another batch writes" in end["reason"] and end["exit_code"] == 73, end
    assert rig.show(first)["state"] == "running" and rig.loads() == 2 and len(rig.copies()) == 2
    rig.ctl("cancel", first)


def test_a_cancelled_job_leaves_its_copy(make: Make) -> None:
    rig = make(1)
    rig.model("red")
    job = rig.batch("red", "slow", 50, tokens=SLOW)
    rig.until(job, "running")
    assert rig.ctl("cancel", job).code == 0
    assert rig.ends(job) == "cancelled"
    done(rig, rig.batch("red", "next"))
    assert rig.loads() == 1


def test_what_cannot_be_loaded(make: Make) -> None:
    """Told at the submission, and again as the job's end; each costs itself alone."""
    rig = make(1)
    rig.model("good")
    (rig.work / "junk.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    whole = (rig.work / "good.gguf").read_bytes()
    (rig.work / "short.gguf").write_bytes(whole[: len(whole) // 2])
    rig.requests("in", 2)
    ends = {}
    for name in ("junk", "short", "missing"):
        found = rig.ctl("submit", "-", stdin=json.dumps({**rig.document(name, "in"), "output": f"{name}.out"}))
        assert found.code == 0 and "warning: " in found.err and f"{name}.gguf" in found.err, found
        ends[name] = int(found.out)
    good = rig.batch("good", "fine")
    for name, job in ends.items():
        [end] = rig.wait(job)
        assert end["state"] == "failed" and f"{name}.gguf" in end["reason"], end
    done(rig, good)


def test_bad_input(make: Make) -> None:
    rig = make(1)
    rig.model("red")
    [absent] = rig.submit(rig.document("red", "absent"))
    [end] = rig.wait(absent)
    assert end["state"] == "failed" and "absent.jsonl does not exist" in end["reason"], end
    lines = ['{"prompt": "a", "n_predict": 2, "ignore_eos": true}', "junk", '{"prompt": "' + "x" * 3000 + '"}']
    (rig.work / "mixed.jsonl").write_text("\n".join(lines))
    [mixed] = rig.submit(rig.document("red", "mixed"))
    [end] = rig.wait(mixed)
    assert end["state"] == "failed" and "2 of 3 requests failed" in end["reason"] and end["exit_code"] == 1, end
    assert rig.answered("mixed") == ["1"]
    assert rig.loads() == 1


def test_a_server_that_does_not_start(make: Make) -> None:
    """No program, one that ends at once, one that refuses its options: the job says what the server said."""
    rig = make(1, models='args = ["--no-such-option"]')
    rig.model("red")
    [end] = rig.wait(rig.batch("red", "one"))
    assert end["state"] == "failed" and "red could not be loaded" in end["reason"], end
    assert "no-such-option" in end["reason"], end
    rig.server.unlink()
    [end] = rig.wait(rig.batch("red", "two"))
    assert end["state"] == "failed" and "llama-server" in end["reason"], end
    assert rig.copies() == []


def test_computing_without_a_card(make: Make) -> None:
    """This llama.cpp has no CUDA and says so: a warning, or the end of a job that must have its card."""
    rig = make(1)
    rig.model("red")
    done(rig, rig.batch("red", "lenient"))
    eventually(lambda: any("runs on the processor" in text for text in rig.status()["warnings"]))
    [end] = rig.wait(rig.batch("red", "strict", gpu_required=True))
    assert end["state"] == "failed" and "never used its card" in end["reason"], end


def test_commands_and_models_share_the_cards(make: Make) -> None:
    """A command takes the card of an idle copy; the model comes back when it is wanted."""
    rig = make(1)
    rig.model("red")
    done(rig, rig.batch("red", "one"))
    [copy] = rig.copy()
    job = rig.sh("echo $P104_CARDS")
    done(rig, job)
    assert rig.output(job).strip() == copy["cards"][0]
    assert rig.copies() == [] and no_server_left(rig)()
    done(rig, rig.batch("red", "two"))
    assert rig.loads() == 2


def test_pinned_models_stay(make: Make) -> None:
    rig = make(1)
    rig.model("red", 1)
    rig.model("blue", 2)
    done(rig, rig.batch("red", "one"))
    [copy] = rig.copy()
    assert [pin["model"] for pin in rig.json("models", "pin", "red")["pins"]] == [str(rig.work / "red.gguf")]
    command, other = rig.sh("true"), rig.batch("blue", "other")
    eventually(lambda: "pinned" in rig.because(command))
    assert "pinned" in rig.because(other)
    assert [each["id"] for each in rig.copies()] == [copy["id"]]
    assert rig.ctl("models", "unpin", "red").code == 0
    done(rig, command, other)


def test_unload_and_idle(make: Make) -> None:
    rig = make(1, models='idle_unload = "1500ms"')
    rig.model("red")
    done(rig, rig.batch("red", "one"))
    rig.copy()
    assert rig.ctl("models", "unload", "red").code == 0
    eventually(lambda: rig.copies() == [])
    done(rig, rig.batch("red", "two"))
    eventually(lambda: rig.copies() == [])
    assert "idle for too long" in rig.log.read_text()
    assert no_server_left(rig)()


def test_a_drained_card_is_left(make: Make) -> None:
    rig = make(2)
    rig.model("red")
    done(rig, rig.batch("red", "one"))
    [copy] = rig.copy()
    assert rig.ctl("drain", copy["cards"][0]).code == 0
    eventually(lambda: rig.copies() == [])
    done(rig, rig.batch("red", "two"))
    [other] = rig.copy()
    assert other["cards"] != copy["cards"]


def test_a_model_on_two_cards(make: Make) -> None:
    rig = make(3)
    rig.model("wide")
    job = rig.batch("wide", "one", cards=2)
    done(rig, job)
    [copy] = rig.copy()
    assert len(copy["cards"]) == 2 and sum(copy["tensor_split"]) == 5  # four layers and the output
    assert rig.show(job)["cards"] == copy["cards"]


def test_a_daemon_that_is_told_to_end_unloads_what_is_idle(make: Make) -> None:
    rig = make(2)
    rig.model("red", 1)
    rig.model("blue", 2)
    done(rig, rig.batch("red", "one"))
    busy = rig.batch("blue", "slow", 20, tokens=SLOW)
    rig.until(busy, "running")
    names = {copy["name"]: copy["pid"] for copy in rig.copies()}
    assert rig.terminate() == 0
    rig.start()
    assert [copy["pid"] for copy in rig.copies()] == [names["blue"]]
    done(rig, busy)
    assert rig.answered("slow") == sorted(f"slow-{n}" for n in range(20))


def test_what_servers_left_goes_after_a_day(make: Make) -> None:
    rig = make(1)
    rig.model("red")
    rig.batch("red", "one")
    [copy] = rig.copy()
    assert rig.ctl("models", "unload", "red").code == 0
    eventually(lambda: rig.copies() == [])
    done(rig, rig.batch("red", "two"))
    rig.copy()
    rig.kill()
    folders = sorted(rig.store.glob("servers/*/*"))
    assert len(folders) == 2 and folders[0].name == f"{copy['id']}-1"
    for folder in folders:
        os.utime(folder, (0, 0))
    rig.start()
    eventually(lambda: not folders[0].exists())
    assert folders[1].exists()  # it serves


def test_a_queue_of_a_model_that_cannot_be_loaded(make: Make) -> None:
    """Two loads tell it; not one for each job, which would unload what others need again and again."""
    rig = make(1, models='args = ["--no-such-option"]')
    rig.model("red")
    rig.requests("in", 1)
    document = {**rig.document("red", "in"), "output": "out-${matrix.n}", "matrix": {"n": [*range(20)]}}
    for end in rig.wait(*rig.submit(document), seconds=LOADED_WITHIN):
        assert end["state"] == "failed" and "red could not be loaded" in end["reason"], end
    assert rig.loads() == 2
