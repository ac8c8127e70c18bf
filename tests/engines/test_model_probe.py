"""The look at a model and at an input: what it finds, and that nothing it is pointed at holds it up or breaks it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gguf_files import LLAMA_8B, TINY

from p104d.core.units import MIB
from p104d.engines import model_probe
from p104d.engines.gguf import read_model
from p104d.engines.model_memory import Ask
from p104d.engines.model_memory_shape import shape_of
from p104d.engines.model_memory_split import fewest
from p104d.engines.model_probe import answer, label_of, wants_embeddings, world_readable
from p104d.engines.probed_model import ProbedModel

ROOT = Path(__file__).resolve().parents[2]
EMBED = '{"custom_id": "1", "url": "/v1/embeddings", "body": {"input": "x"}}\n'
CHAT = '{"body": {"messages": []}}\n'


def asked(model: object, source: object = None, **more: Any) -> dict[str, Any]:
    """What is printed, as the daemon reads it."""
    given = {"model": str(model), "input": source if source is None else str(source), **more}
    return json.loads(json.dumps(answer(json.dumps(given))))


def child(argument: str, *options: str) -> dict[str, Any]:
    """As a process of its own, which says nothing but its one object."""
    done = subprocess.run(
        [sys.executable, *options, "-m", "p104d.engines.model_probe", argument],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    found = json.loads(done.stdout)
    assert isinstance(found, dict) and done.stdout.count("\n") == 1
    return found


# --- what is found ---


def test_the_parent_can_go_on_with_it(tmp_path):
    path = LLAMA_8B.write(tmp_path / "Llama-3.1-8B-Q8_0.gguf")
    found = msgspec.convert(asked(path)["model"], ProbedModel)
    model = read_model(str(path))
    assert found.shape == shape_of(model)
    assert fewest(found.shape, Ask(), [8109 * MIB] * 4) == fewest(shape_of(model), Ask(), [8109 * MIB] * 4)
    assert (found.label, found.name, found.file_type) == ("Llama-3.1-8B-Q8_0", "llama of the tests", "Q8_0")
    assert (found.architecture, found.context, found.pooling) == ("llama", 131072, False)
    assert found.parts == model.parts and found.size == os.stat(path).st_size and found.path == str(path)
    assert msgspec.json.decode(msgspec.json.encode(found), type=ProbedModel) == found, "and can be kept"


def test_a_process_of_its_own(tmp_path):
    """Without what is installed beside Python."""
    path = TINY.write(tmp_path / "tiny.gguf")
    source = tmp_path / "in.jsonl"
    source.write_text(EMBED)
    found = child(json.dumps({"model": str(path), "input": str(source), "others": True}), "-S")
    assert found["embeddings"] is True and found["model"]["label"] == "tiny"
    assert found["world_readable"] is world_readable(str(path))
    assert child('{"model": "/no/such"}', "-S") == {
        "error": {"message": "/no/such: no such file or directory", "mend": "name a GGUF file"}
    }


def test_a_split_model(tmp_path):
    paths = TINY.write_split(tmp_path, 3, "Big-Q8_0")
    found = msgspec.convert(asked(paths[0])["model"], ProbedModel)
    assert found.label == "Big-Q8_0" and [part.path for part in found.parts] == [str(path) for path in paths]
    assert found.size == sum(os.stat(path).st_size for path in paths)
    assert asked(paths[1])["error"]["mend"] == f"name {paths[0].name}"


@pytest.mark.parametrize(("kind", "embeds"), [(0, False), (1, True), (2, True), (3, True), (4, False), (None, False)])
def test_a_model_for_embeddings(tmp_path, kind, embeds):
    more = {} if kind is None else {"llama__pooling_type": kind}
    assert asked(TINY.write(tmp_path / "m.gguf", **more))["model"]["pooling"] is embeds


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/m/Qwen2-7B.Q8_0.gguf", "Qwen2-7B.Q8_0"),
        ("/m/a-00001-of-00003.GGUF", "a"),
        ("/m/-00001-of-00003.gguf", "-00001-of-00003"),
        ("/m/.gguf", ".gguf"),
        ("model", "model"),
    ],
)
def test_labels(path, label):
    assert label_of(path) == label


# --- what the input asks for ---


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (EMBED, True),
        ('\ufeff\n\n{"body": {"input": ["a"]}}\n', True),
        (CHAT + EMBED, True),
        (CHAT * 3, False),
        ('{"prompt": "/v1/embeddings"}', False),
        ("junk\n{}\n", False),
        ("", None),
        ("\n \n", None),
        (CHAT * 200 + EMBED, False),
        ("[" * 100_000 + "\n" + EMBED, True),
    ],
)
def test_inputs(tmp_path, text, found):
    path = tmp_path / "in.jsonl"
    path.write_text(text)
    assert wants_embeddings(str(path)) is found


def test_an_input_is_read_as_far_as_needed(tmp_path, monkeypatch):
    path = tmp_path / "in.jsonl"
    long = json.dumps({"body": {"input": "x" * (2 * model_probe.PEEKED_BYTES)}}) + "\n"
    path.write_text(long + CHAT)
    assert wants_embeddings(str(path)) is True, "a first line that is longer"
    path.write_text(CHAT + long)
    assert wants_embeddings(str(path)) is False
    read: list[int] = []
    real = model_probe._read
    monkeypatch.setattr(model_probe, "_read", lambda file, most: read.append(most) or real(file, most))
    path.write_bytes(b"x" * 100 + b"\n")
    os.truncate(path, 2**40)
    assert wants_embeddings(str(path)) is False and read == [model_probe.PEEKED_BYTES]


def test_inputs_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in ("/no/such", tmp_path, tmp_path / "fifo", "/dev/zero", "a\0b", ""):
        assert wants_embeddings(str(path)) is None


# --- hostile files ---


@pytest.fixture
def junk(tmp_path: Path) -> Iterator[dict[str, Path]]:
    made = {name: tmp_path / name for name in ("empty", "text", "cut", "headless", "zeros", "fifo", "socket", "loop")}
    whole = TINY.write(tmp_path / "whole.gguf").read_bytes()
    made["empty"].touch()
    made["text"].write_text("hello, world" * 100)
    made["cut"].write_bytes(whole[:-5000])
    made["headless"].write_bytes(whole[:100])
    made["zeros"].write_bytes(bytes(1000))
    os.mkfifo(made["fifo"])
    made["loop"].symlink_to("loop")
    made["folder"] = tmp_path
    made["device"] = Path("/dev/zero")
    made["terminal"] = Path("/dev/tty")
    made["nothing"] = tmp_path / "no\nsuch"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(made["socket"]))
        yield made


def test_whatever_the_path_names(junk):
    began = time.monotonic()
    for name, path in junk.items():
        found = asked(path, path, others=True)
        assert set(found) == {"error"}, name
        message = found["error"]["message"]
        assert message and "\n" not in message and "Traceback" not in message, name
        assert found["error"]["mend"], name
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"model": 5}', "{}", "[" * 100_000, '{"readable": 3}'])
def test_whatever_it_is_asked(text):
    found = answer(text)
    assert set(found) == {"error"} and "\n" not in found["error"]["message"]


def test_names_that_are_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"m\xff.gguf")
    path.symlink_to(os.fsdecode(b"nowhere\xff"))
    message = asked(path)["error"]["message"]
    assert message.encode() and "nowhere\\udcff" in message


# --- who may read it ---


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that everybody may pass through; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        if any(not parent.stat().st_mode & 0o001 for parent in folder.parents):
            pytest.skip("the temporary folder is private")
        yield folder


def test_modes_of_files_and_folders(open_folder):
    inner = open_folder / "a" / "b"
    inner.mkdir(parents=True)
    path = inner / "m"
    path.touch()
    for folder in (inner, inner.parent):
        folder.chmod(0o755)
    path.chmod(0o644)
    assert world_readable(str(path)) and world_readable(os.path.relpath(path))
    assert world_readable(f"{inner}/../b/./m")
    path.chmod(0o640)
    assert not world_readable(str(path))
    path.chmod(0o644)
    inner.parent.chmod(0o750)
    assert not world_readable(str(path))
    inner.parent.chmod(0o751)
    assert world_readable(str(path)), "to pass through is enough"
    assert not world_readable(str(inner / "none")) and not world_readable("a\0b")


def test_links_lead_through_other_folders(open_folder):
    for name in ("public", "secret"):
        (open_folder / name).mkdir(mode=0o755)
    for name in ("public", "secret"):
        (open_folder / name / "m").touch(mode=0o644)
    (open_folder / "public" / "m").chmod(0o644)
    (open_folder / "secret" / "way").symlink_to("../public/m")
    first, folder = open_folder / "first", open_folder / "folder"
    first.symlink_to(open_folder / "secret" / "way")
    folder.symlink_to("secret/../public")
    assert world_readable(str(first)) and world_readable(str(folder / "m"))
    (open_folder / "secret").chmod(0o700)
    assert not world_readable(str(first)), "though the file itself is in a public folder"
    assert not world_readable(str(folder / "m"))
    (open_folder / "loop").symlink_to("loop")
    assert not world_readable(str(open_folder / "loop"))


def test_whether_parts_are_still_the_same(tmp_path):
    path = TINY.write(tmp_path / "m.gguf")
    parts = [list(part) for part in read_model(str(path)).parts]

    def same(given: object) -> bool:
        return bool(answer(json.dumps({"readable": given}))["readable"])

    assert same(parts) and not same([])
    assert not same([*parts, [str(tmp_path / "none"), 0, 0, 0, 0]])
    for place in range(1, 5):
        changed = [list(parts[0])]
        changed[0][place] += 1
        assert not same(changed), place
    os.mkfifo(tmp_path / "fifo")
    assert not same([[str(tmp_path / "fifo"), *parts[0][1:]]])
