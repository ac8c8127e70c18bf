"""A real llama.cpp on the processor: started by our command line, waited for, and understood when it fails."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
pytest.importorskip("gguf", reason="the extra `llama` is not installed")

import llama_server
import tiny_model

from p104d.engines import server_health
from p104d.engines.model_memory import Ask
from p104d.engines.server_command import server_argv, server_environment
from p104d.engines.server_health import Health, first_token, wait_ready
from p104d.engines.server_log import ServerSaid, said

WITHIN_SECONDS = 60


class Server:
    """One in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_model.write(folder / "tiny.gguf")
        self.socket = str(folder / "s.sock")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ask: Ask, **more: object) -> None:
        """``more`` as ``server_argv`` takes it."""
        program = [sys.executable, llama_server.__file__]
        given = {"cards": 1, "extra": ["--no-warmup"]} | more
        argv = server_argv(program, str(self.model), self.socket, ask, **given)  # type: ignore[arg-type]
        with open(self.folder / "log", "ab") as log:
            env = {**os.environ, **server_environment(ask)}
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)

    def ended(self, _why: str) -> str | None:
        code = self.process.poll() if self.process is not None else None
        return None if code is None else f"it ended with {code}: {self.said().error}"

    def ready(self, *, embeddings: bool = False) -> Health:
        return asyncio.run(
            wait_ready(self.socket, embeddings=embeddings, deadline_seconds=WITHIN_SECONDS, on_wait=self.ended)
        )

    def token(self, *, embeddings: bool = False) -> Health:
        return asyncio.run(first_token(self.socket, embeddings=embeddings, patience=WITHIN_SECONDS))

    def said(self) -> ServerSaid:
        return said((self.folder / "log").read_bytes())

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(WITHIN_SECONDS)


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own may be too long for a socket
        made = Server(Path(folder))
        yield made
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def test_one_that_serves(server):
    server.start(Ask(500, parallel=2, kv_cache="q8_0"), cards=2, tensor_split=(3, 2), alias="tiny")
    found = server.ready()
    assert found.ready, (found, (server.folder / "log").read_text()[-2000:])
    assert server.token().ready
    assert server.said() == ServerSaid(error=None, cpu_only=True, loaded=True)
    refused = server.token(embeddings=True)
    assert not refused.ready and "(501)" in str(refused.failure) and "embeddings" in str(refused.failure)
    assert server.stop() == 0 and server.said().error is None
    assert not server.token().ready


@pytest.mark.parametrize("ubatch", [128, 512])
def test_one_for_embeddings(server, monkeypatch, ubatch):
    """A whole request goes into one batch, so the 128 tokens that are usual are too few; its header says no pooling."""
    server.start(Ask(512, ubatch=ubatch), embeddings=True, pooling=False, extra=["--batch-size", str(ubatch)])
    found = server.ready(embeddings=True)
    assert found.ready, (found, (server.folder / "log").read_text()[-2000:])
    monkeypatch.setattr(server_health, "_EMBEDDING", {"input": "x" * 300})
    long = server.token(embeddings=True)
    assert long.ready is (ubatch == 512) and ("is too large to process" in str(long.failure)) is (ubatch == 128)


def test_a_server_for_text_makes_no_embeddings_without_pooling(server):
    server.start(Ask(512), embeddings=True, pooling=True)
    found = server.ready(embeddings=True)
    assert "Pooling type 'none'" in str(found.failure), found


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"hello, world" * 100), "invalid magic characters: 'hell', expected 'GGUF'"),
        (lambda path: os.truncate(path, path.stat().st_size - 5000), "data is not within the file bounds"),
        (lambda path: path.unlink(), "failed to open GGUF file"),
    ],
    ids=["junk", "cut", "missing"],
)
def test_one_that_cannot_load(server, damage, words):
    damage(server.model)
    server.start(Ask())
    found = server.ready()
    assert found.failure is not None and found.failure.startswith("it ended with 1: ") and words in found.failure


def test_one_that_does_not_know_an_option(server):
    server.start(Ask(), extra=["--no-such"])
    assert "error: invalid argument: --no-such" in str(server.ready().failure)
