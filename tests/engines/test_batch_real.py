"""The batch runner with a real llama.cpp on the processor, and the test server that embeds it. No speed is asserted."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_place import Place, wait_for_lines
from torture import amount

pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
pytest.importorskip("gguf", reason="the extra `llama` is not installed")

import llama_server
import tiny_model

WITHIN_SECONDS = 60


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def start_server(place: Place, *more: str) -> subprocess.Popen[str]:
    """The server over the place's socket, listening."""
    model = tiny_model.write(place.folder / "tiny.gguf")
    options = ["--model", str(model), "--host", str(place.socket), "-fit", "off", "--no-warmup", *more]
    with open(place.folder / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, llama_server.__file__, *options], stdout=log, stderr=log, cwd=place.folder, text=True
        )
    place.runners.append(server)
    tick = threading.Event()
    for _ in range(WITHIN_SECONDS * 50):
        assert server.poll() is None, (place.folder / "server.log").read_text()[-2000:]
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(place.socket)) == 0:
                return server
        tick.wait(0.02)
    raise AssertionError("the server does not listen")


def test_all_endpoints_and_both_forms(place: Place) -> None:
    """What does not fit into the context costs itself; the settings of the request reach the model."""
    server = start_server(place, "-c", "1024", "-np", "4", "--embeddings", "--pooling", "mean")
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "stream": True}
    lines = [
        {"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": chat},
        {"custom_id": "text", "method": "POST", "url": "/v1/completions", "body": {"prompt": "hi", "max_tokens": 5}},
        {"custom_id": "vector", "method": "POST", "url": "/v1/embeddings", "body": {"input": "hi"}},
        {"custom_id": "plain", "prompt": "hi", "n_predict": 9, "ignore_eos": True},
        {"custom_id": "same", "prompt": "hi", "n_predict": 9, "temperature": 0, "ignore_eos": True},
        {"custom_id": "same again", "prompt": "hi", "n_predict": 9, "temperature": 0, "ignore_eos": True},
        {"custom_id": "two", "prompt": ["a", "b"], "n_predict": 2, "ignore_eos": True},
        {"custom_id": "long", "prompt": "x" * 2000, "n_predict": 1},
        {"custom_id": "odd", "prompt": "hi", "n_predict": "many"},
    ]
    place.write(lines)
    done = place.run()
    assert done.code == 1 and done.out.splitlines()[-1].startswith("2 of 9 requests failed"), done
    found = {line["custom_id"]: line for line in place.answers()}
    body = {name: line["response"]["body"] for name, line in found.items()}
    assert body["chat"]["object"] == "chat.completion" and body["chat"]["choices"][0]["message"]["content"]
    assert body["text"]["object"] == "text_completion" and found["text"]["timings"]["predicted_n"] == 5
    assert len(body["vector"]["data"][0]["embedding"]) == tiny_model.EMBEDDING and found["vector"]["timings"] is None
    assert body["plain"]["tokens_predicted"] == found["plain"]["timings"]["predicted_n"] == 9
    assert body["same"]["content"] == body["same again"]["content"]
    assert [each["tokens_predicted"] for each in body["two"]] == [2, 2]
    assert "exceeds the available context size" in found["long"]["error"]["message"]
    assert "type must be number" in found["odd"]["error"]["message"]
    assert "line 8 ('long') failed" in done.err
    server.terminate()
    assert server.wait(WITHIN_SECONDS) == 0


@pytest.mark.torture
def test_killed_at_any_moment_every_request_is_answered_once(place: Place) -> None:
    """kill -9 after some number of answers, or in the middle of starting; then once more until it is done."""
    start_server(place, "-c", "1024", "-np", "4")
    count = amount(60, 400)
    place.write({"custom_id": f"r{i}", "prompt": f"r{i}", "n_predict": 12, "ignore_eos": True} for i in range(count))
    chance = random.Random(amount(6, int.from_bytes(os.urandom(4))))
    kills = 0
    while kills < amount(8, 300):
        runner = place.start()
        have = place.output.read_bytes().count(b"\n") if place.output.exists() else 0
        if chance.random() < 0.3:
            threading.Event().wait(chance.random() * 0.3)  # anywhere in its start
        else:
            wait_for_lines(place.output, have + chance.randrange(1, 12), runner)
        ended = runner.poll() is not None
        runner.kill()
        place.end(runner)
        kills += 1
        if ended:
            break
    assert kills > 2
    done = place.run()
    assert done.code == 0, done
    assert sorted(place.good()) == sorted(f"r{i}" for i in range(count)), "each once"
    assert {line["response"]["body"]["prompt"].removeprefix("<s> ") for line in place.answers()} == {
        f"r{i}" for i in range(count)
    }
    assert place.bad() == {}


def test_killed_in_the_middle_of_a_line(place: Place) -> None:
    """No kill of a test hits a write; what one leaves is made by hand, at each kind of place in a line."""
    start_server(place, "-c", "512", "-np", "2")
    place.prompts(3)
    place.write({"custom_id": f"p{i}", "prompt": f"p{i}", "n_predict": 2} for i in range(3))
    assert place.run().code == 0
    whole = place.output.read_bytes()
    *_rest, last = whole.splitlines(keepends=True)
    for size in (1, 10, 30, len(last) // 2, len(last) - 2):
        place.output.write_bytes(whole[: len(whole) - len(last) + size])
        done = place.run()
        assert done.code == 0 and "torn line" in done.out
        assert sorted(place.good()) == ["p0", "p1", "p2"]


def test_a_server_is_stopped_and_started_under_a_batch(place: Place) -> None:
    server = start_server(place, "-c", "1024", "-np", "4")
    place.orders["server_wait_seconds"] = 30
    place.write({"custom_id": f"r{i}", "prompt": "r", "n_predict": 60, "ignore_eos": True} for i in range(40))
    runner = place.start()
    assert wait_for_lines(place.output, 5, runner)
    server.send_signal(signal.SIGKILL)
    server.wait(WITHIN_SECONDS)
    # A stale socket keeps llama-server from listening.
    place.socket.unlink()
    start_server(place, "-c", "1024", "-np", "4")
    assert place.end(runner).code == 0
    assert sorted(place.good()) == sorted(f"r{i}" for i in range(40))


# --- the test server is like the real one ---


def run_server(*options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, llama_server.__file__, *options], capture_output=True, text=True, timeout=WITHIN_SECONDS
    )
    return done.returncode, done.stdout + done.stderr


def test_models_that_cannot_be_loaded(place: Place) -> None:
    whole = tiny_model.write(place.folder / "tiny.gguf").read_bytes()
    junk, cut = place.folder / "junk.gguf", place.folder / "cut.gguf"
    junk.write_bytes(b"hello, world" * 100)
    cut.write_bytes(whole[:-5000])
    for path, words in (
        (place.folder / "none.gguf", "No such file or directory"),
        (junk, "invalid magic characters: 'hell', expected 'GGUF'"),
        (cut, "data is not within the file bounds, model is corrupted or incomplete"),
    ):
        code, said = run_server("--model", str(path), "--host", str(place.socket), "-fit", "off")
        assert code == 1 and words in said and "Traceback" not in said
        place.socket.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--no-such"], "error: invalid argument: --no-such"),
        (["--ctx-size"], "expected value for argument"),
        (["-ctk", "q9_9"], "Unsupported cache type: q9_9"),
        (["-sm", "diagonal"], "invalid value"),
    ],
)
def test_options_are_checked(options: list[str], words: str) -> None:
    code, said = run_server(*options)
    assert code == 1 and words in said


def test_the_command_serves_and_warns_of_the_missing_card(place: Place) -> None:
    """By its name on a PATH, with every option that a daemon gives."""
    model = tiny_model.write(place.folder / "tiny.gguf")
    path = llama_server.command(place.folder)
    options = f"--model {model} --host {place.socket} --ctx-size 512 --parallel 2 --metrics --slots --no-webui"
    options += " --cache-type-k q8_0 --cache-type-v q8_0 --flash-attn on --alias tiny -fit off"
    options += " --n-gpu-layers 99 --split-mode layer --tensor-split 1,1"
    with open(place.folder / "server.log", "w") as log:
        server = subprocess.Popen([path, *options.split()], stdout=log, stderr=log, text=True)
    place.runners.append(server)
    place.write([{"prompt": "hi", "n_predict": 2}])
    place.orders["server_wait_seconds"] = 30
    done = place.run()
    assert done.code == 0, (done, (place.folder / "server.log").read_text()[-2000:])
    server.terminate()
    assert server.wait(WITHIN_SECONDS) == 0
    assert "no usable GPU found, --gpu-layers option will be ignored" in Path(log.name).read_text()
    assert json.loads(place.output.read_text())["response"]["body"]["model"] == "tiny"
