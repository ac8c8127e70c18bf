"""Models, inputs and outputs that are not what they seem, or not any more; and daemons with other users than usual."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
pytest.importorskip("gguf", reason="the extra `llama` is not installed")

from access_rig import ALICE, BOB, CAROL
from daemon_rig import eventually
from model_system import MODEL, ModelSystem, status_of

from p104d.daemon.models import FRESH_SECONDS

# --- paths that are not what they seem ---


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "link"])
def test_what_is_no_model(models: ModelSystem, kind: str) -> None:
    path = models.home(ALICE) / f"{kind}.gguf"
    if kind == "fifo":
        os.mkfifo(path, 0o666)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else models.home(BOB) / "theirs.gguf")
    if kind == "link":
        models.model("theirs", BOB, mode=0o600)
    assert f"{kind}.gguf" in models.fails(models.batch(ALICE, path, "odd"))
    assert not (models.home(ALICE) / "odd.out").exists()


@pytest.mark.parametrize("kind", ["fifo", "device", "theirs", "link"])
def test_what_is_no_input(models: ModelSystem, kind: str) -> None:
    """Opened by the job's own process, as its submitter."""
    model, source = models.model("common"), models.home(ALICE) / f"{kind}.jsonl"
    theirs = models.requests(BOB, "secret")
    if kind == "fifo":
        os.mkfifo(source, 0o666)
    elif kind == "device":
        source.symlink_to("/dev/zero")
    elif kind == "link":
        source.symlink_to(theirs)
    else:
        source = theirs
    answer = models.post_batch(ALICE, model, "odd-input", input=str(source), output="odd-input.out")
    reason = models.fails(int(answer.body["jobs"][0]["id"]))
    assert str(source) in reason or source.name in reason, reason
    assert not (models.home(ALICE) / "odd-input.out").exists()


@pytest.mark.parametrize("kind", ["theirs", "link", "roots", "fifo", "swapped"])
def test_what_is_no_output(models: ModelSystem, kind: str) -> None:
    """Opened as the submitter, whatever it leads to by then: nobody else's file gets a byte, or another owner."""
    model, output = models.model("common"), models.home(ALICE) / f"{kind}-output"
    theirs = models.work / "of-root" if kind == "roots" else models.work / "of-bob"
    theirs.unlink(missing_ok=True)  # what is another's in a folder for all is not written to, by root neither
    theirs.write_text("precious\n")
    os.chown(theirs, *((0, 0) if kind == "roots" else (BOB.uid, BOB.gid)))
    theirs.chmod(0o644)
    output.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(output, 0o666)
    elif kind == "swapped":
        output.touch()
        os.chown(output, ALICE.uid, ALICE.gid)
    elif kind != "theirs":
        output.symlink_to(theirs)
    target = theirs if kind == "theirs" else output
    assert models.as_user(CAROL).post("/v1/pause").status == 200
    models.requests(ALICE, "odd-output")
    answer = models.post_batch(ALICE, model, "odd-output", output=str(target))
    if kind == "swapped":
        output.unlink()
        output.symlink_to(theirs)
    assert models.as_user(CAROL).post("/v1/resume").status == 200
    models.fails(int(answer.body["jobs"][0]["id"]))
    assert theirs.read_text() == "precious\n"
    assert theirs.stat().st_uid == (0 if kind == "roots" else BOB.uid)


# --- a file that is replaced ---


def test_a_model_that_is_replaced_while_its_job_waits(models: ModelSystem) -> None:
    """What is loaded is what is there by then; a job on the earlier file's copy is not affected by it."""
    model = models.model("moving", ALICE, seed=1)
    models.done(models.batch(ALICE, model, "first"))
    before = models.copy()
    assert models.ctl("models", "unload", f"#{before['id']}").code == 0
    eventually(lambda: not models.copies())
    assert models.as_user(CAROL).post("/v1/pause").status == 200
    job, submitted = models.batch(ALICE, model, "second"), time.monotonic()
    model.unlink()
    models.model("moving", ALICE, seed=2)
    eventually(lambda: time.monotonic() > submitted + FRESH_SECONDS)
    assert models.as_user(CAROL).post("/v1/resume").status == 200
    models.done(job)
    # The next submission looks at it again, and finds the same file: no other copy is loaded.
    models.done(models.batch(ALICE, model, "third"))
    assert models.copy()["id"] > before["id"]


def test_a_model_that_is_replaced_while_it_is_loaded(start_models: Callable[..., ModelSystem]) -> None:
    """Held up by a FIFO that its server opens first: the file changes under the look, and no job runs on it."""
    models = start_models(1)
    model, gate = models.model("moving"), models.work / "gate"
    os.mkfifo(gate, 0o666)
    gate.chmod(0o666)
    text = models.server.read_text()
    models.server.write_text(text.replace("exec ", f'read _ <"{gate}"\nexec ', 1))
    job = models.batch(ALICE, model, "one")
    with open(gate, "w") as file:  # returns once the server is there
        model.unlink()
        models.model("moving", seed=2)
        file.write("go\n")
    reason = models.fails(job)
    assert "moving could not be loaded: its file was replaced" in reason, reason
    models.server.write_text(text)
    models.done(models.batch(ALICE, model, "two"))


# --- other daemons ---


def test_a_host_without_the_models_user(start_models: Callable[..., ModelSystem]) -> None:
    """Everybody's jobs run on copies of their own, of models that all can read too."""
    models = start_models(2, with_user=False)
    model = models.model("common")
    models.done(models.batch(ALICE, model, "hers"))
    models.done(models.batch(BOB, model, "his"))
    copies = models.copies()
    assert sorted((each["user"], each["shared"]) for each in copies) == [(ALICE.name, False), (BOB.name, False)]
    for copy in copies:
        owner = ALICE if copy["user"] == ALICE.name else BOB
        assert status_of(copy["pid"])["Uid"] == [str(owner.uid)] * 4


def test_jobs_of_root(start_models: Callable[..., ModelSystem]) -> None:
    """Where they are allowed: what all can read is served by the models' user for root too; only root's own files are
    read by a server of root's."""
    models = start_models(2, config="allow_root_jobs = true\n")
    for name, mode in (("common", 0o644), ("own", 0o600)):
        model = models.model(name, mode=mode)
        (models.work / f"{name}.jsonl").write_text('{"prompt": "x", "n_predict": 2, "ignore_eos": true}\n')
        models.done(int(models.post_batch(None, model, name).body["jobs"][0]["id"]))
        assert (models.work / f"{name}.out").stat().st_uid == 0
    found = {copy["name"]: status_of(copy["pid"])["Uid"][0] for copy in models.copies()}
    assert found == {"common": str(MODEL.uid), "own": "0"}


def test_root_is_no_user_for_models(start_models: Callable[..., ModelSystem]) -> None:
    """A model file is somebody's data, read by a large program: never as root for others."""
    models = start_models(1, models='user = "root"')
    models.done(models.batch(ALICE, models.model("common"), "one"))
    assert status_of(models.copy()["pid"])["Uid"] == [str(ALICE.uid)] * 4
