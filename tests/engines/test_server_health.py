"""Whether a server really serves: a token, while it loads, fails, lies, hangs, dies or is not there yet."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from fake_server import CUT, DIE, HANG, RESET, FakeServer, Script, answer, error, reply

from p104d.engines import server_health
from p104d.engines.server_health import Health, first_token, wait_ready

WITHIN_SECONDS = 20
EMBEDDING = b'{"data": [{"embedding": [0.5, -1, 2e-3]}]}'


class Counted(socket.socket):
    """Remembers all that were made."""

    made: ClassVar[list[Counted]] = []

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.made.append(self)


@pytest.fixture(autouse=True)
def nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of ours; the server's ends are in this process too."""
    names = {name: getattr(socket, name) for name in dir(socket) if name.isupper()}
    monkeypatch.setattr(server_health, "sockets", SimpleNamespace(**names, socket=Counted))
    Counted.made.clear()
    yield
    assert [one for one in Counted.made if one.fileno() >= 0] == []


def run(what: Coroutine[Any, Any, Health]) -> Health:
    """Its answer."""
    found = asyncio.run(_bounded(what))
    assert found.failure is None or ("\n" not in found.failure and len(found.failure) < 400)
    assert found.ready is (found.failure is None)
    return found


async def _bounded(what: Coroutine[Any, Any, Health]) -> Health:
    async with asyncio.timeout(WITHIN_SECONDS):
        return await what


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own may be too long for a socket
        yield Path(folder) / "s.sock"


@pytest.fixture
def serve(path: Path) -> Iterator[Callable[[Script], FakeServer]]:
    started: list[FakeServer] = []

    def call(script: Script) -> FakeServer:
        started.append(FakeServer(path, script))
        started[-1].start()
        return started[-1]

    yield call
    for server in started:
        server.__exit__()


def token(path: Path, patience: float = 10, *, embeddings: bool = False) -> Health:
    return run(first_token(str(path), embeddings=embeddings, patience=patience))


def ready(path: Path, seconds: float = 15, *, embeddings: bool = False, **more: Any) -> Health:
    return run(wait_ready(str(path), embeddings=embeddings, deadline_seconds=seconds, **more))


# --- one token ---


def test_a_token(path, serve):
    server = serve(lambda _prompt, _nth: answer())
    found = token(path)
    assert found.ready and found.seconds == found.token_seconds and 0 < found.seconds < 5
    assert server.bodies == [("/completion", {"prompt": "1", "n_predict": 1, "stream": False, "cache_prompt": False})]


def test_an_embedding(path, serve):
    server = serve(lambda _prompt, _nth: reply(200, EMBEDDING))
    assert token(path, embeddings=True).ready
    assert server.bodies == [("/v1/embeddings", {"input": "1"})]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (error(500, "CUDA error:\n an illegal memory access"), "refuses a token (500): CUDA error: an illegal memory"),
        (error(501, "This server does not support it"), "refuses a token (501): This server does not support it"),
        (reply(404, b"File Not Found"), "the model server refuses a token: the server answered 404"),
        (error(503, "no slot"), "(503): no slot"),
        (reply(200, b"hello"), "the server's answer is not JSON"),
        (reply(200, b'{"error": {"message": "gone"}}'), "(200): gone"),
        (reply(200, b'{"ok": true}'), 'answers is no token: {"ok": true}'),
        (reply(200, b"[1]"), "answers is no token: [1]"),
        (b"junk\r\n\r\n", "what the server sent is not HTTP"),
        (reply(200, b"x" * (2 * server_health.MOST_ANSWER_BYTES)), "the server's answer is longer than 1024 KiB"),
        (RESET, "the server ended the connection"),
        (CUT, "the server ended the connection"),
        (error(500, "x" * 5000), "xxx..."),
    ],
    ids=lambda one: str(one)[:40] if isinstance(one, str) else "answer",
)
def test_no_token(path, serve, action, words):
    serve(lambda _prompt, _nth: action)
    for found in (token(path), ready(path)):
        assert found.failure is not None and words in found.failure, found
        assert found.token_seconds is None
        assert found.broken == ("failed at its first token: " in found.failure)


def test_one_that_dies(path, serve):
    serve(lambda _prompt, _nth: DIE)
    found = ready(path)
    assert found.broken and "failed at its first token: the server ended the connection" in str(found.failure)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"data": []}', b'{"data": [{"embedding": []}]}', b'{"data": [{"embedding": [1, NaN]}]}', b"[]"]
)
def test_no_embedding(path, serve, body):
    serve(lambda _prompt, _nth: reply(200, body))
    found = token(path, embeddings=True)
    assert found.failure is not None and "is no embedding" in found.failure


def test_one_that_hangs(path, serve):
    server = serve(lambda _prompt, _nth: HANG)
    assert token(path, 0.1).failure == "the model server gave no token within 0.1 s"
    assert ready(path, 0.1).failure == "the model server is not ready after 0.1 s: no token yet"
    assert server.seen["1"] == 2


def test_one_that_is_not_there(path):
    for place in (path, path.parent / ("x" * 200), "a\0b.sock"):
        found = token(place)
        assert found.failure is not None and "does not serve yet: its socket is not there" in found.failure


def test_one_that_takes_nobody_more(path):
    """A full queue is no connection: what is sent then would go nowhere."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        found = token(path)
    assert found.failure is not None and "temporarily unavailable" in found.failure


# --- until it is ready ---


def test_it_loads_for_a_while(path, serve):
    server = serve(lambda _prompt, nth: error(503, "Loading model") if nth < 4 else answer())
    told: list[str] = []
    found = ready(path, on_wait=told.append)
    assert found.ready and told == ["it is loading"] * 3 and server.seen["1"] == 4
    assert found.token_seconds is not None and found.seconds > found.token_seconds + 0.05


def test_its_socket_comes_late_and_stale(path, serve):
    """What a server before left behind is refused; then there is none; then one that loads."""
    with FakeServer(path, lambda _prompt, _nth: answer()):
        pass
    assert path.exists()
    told: list[str] = []

    def on_wait(why: str) -> None:
        told.append(why)
        if len(told) == 1:
            path.unlink()
        if len(told) == 2:
            serve(lambda _prompt, nth: error(503, "Loading model") if nth == 1 else answer())

    assert ready(path, on_wait=on_wait).ready
    assert ["refused" in told[0], "No such file" in told[1], told[2]] == [True, True, "it is loading"], told


def test_somebody_knows_better(path):
    """Its process has ended: nothing is left to wait for."""
    found = ready(path, on_wait=lambda _why: "it ended with\nexit code 1")
    assert found.failure == "it ended with exit code 1"


def test_it_never_comes(path, serve):
    assert "is not ready after 0.1 s: its socket is not there" in str(ready(path, 0.1).failure)
    serve(lambda _prompt, _nth: error(503, "Loading model"))
    assert ready(path, 0.1).failure == "the model server is not ready after 0.1 s: it is loading"


def test_waits_grow(path, monkeypatch):
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr(server_health.asyncio, "sleep", sleep)
    tries = iter(range(12))
    assert not ready(path, on_wait=lambda _why: None if next(tries) < 11 else "enough").ready
    assert slept[0] == 0.05 and slept == sorted(slept) and slept[-1] == 0.5 and len(slept) == 11


# --- cancelled ---


def test_it_can_be_cancelled_at_any_moment(path, serve):
    """While it connects, sends, waits for the answer, and between two tries."""
    server = serve(lambda _prompt, nth: error(503, "Loading model") if nth <= 40 else HANG)

    async def cancelled(task: asyncio.Task[Health]) -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [one for one in Counted.made if one.fileno() >= 0] == []

    async def scenario() -> None:
        for turns in range(40):
            task = asyncio.create_task(wait_ready(str(path), embeddings=False, deadline_seconds=60))
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancelled(task)
        server.seen["1"] = 40
        task = asyncio.create_task(first_token(str(path), embeddings=False, patience=60))
        while server.seen["1"] == 40:
            await asyncio.sleep(0.005)
        await cancelled(task)

    asyncio.run(scenario())
    assert len(Counted.made) > 30
