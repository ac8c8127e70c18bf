"""A Server over a real Unix socket in a thread of its own, before a service that records what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from p104d.api import messages as m
from p104d.api.access import Gate
from p104d.api.forecast import Forecast
from p104d.api.models import ModelVerb, Residents
from p104d.api.server import Server
from p104d.api.service import Caller, Exported, LogQuery
from p104d.store.lists import JobFilter

WAIT_SECONDS = 10.0
LARGEST_ID = 2**53


class FakeService:
    """Answers with next to nothing. ``raises`` is raised by every method; ``chunks`` makes the log."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.raises: BaseException | None = None
        self.chunks: Callable[[], AsyncIterator[bytes]] = _no_log
        self.copy: Path | None = None
        self.files: list[BinaryIO] = []
        self.opened = threading.Event()
        self.waiting = threading.Event()
        self.gone = threading.Event()

    def _call(self, *what: Any) -> None:
        self.calls.append(what)
        if self.raises is not None:
            raise self.raises

    def status(self, caller: Caller) -> m.Status:
        self._call("status", caller)
        daemon = m.Daemon(version="1", pid=1, started_at="", mode="simulated", paused=False, user_mode=True)
        return m.Status(daemon=daemon, cards=[], queue={}, running=[], warnings=[])

    def cards(self, caller: Caller) -> m.Cards:
        self._call("cards", caller)
        return m.Cards([])

    def drain(self, caller: Caller, cards: list[str], undo: bool) -> m.Cards:
        self._call("drain", caller, cards, undo)
        return m.Cards([])

    def pause(self, caller: Caller, paused: bool) -> m.Paused:
        self._call("pause", caller, paused)
        return m.Paused(paused)

    async def submit(self, caller: Caller, request: m.SubmitRequest) -> m.Submitted:
        self._call("submit", caller, request)
        return m.Submitted([m.IdName(1, "job")])

    async def listed(self, caller: Caller, query: JobFilter) -> m.ListedJobs:
        self._call("listed", caller, query)
        assert query.before is None or query.before <= LARGEST_ID
        return m.ListedJobs([])

    def _known(self, *ids: int) -> None:
        assert all(0 < each <= LARGEST_ID for each in ids), "an id that SQLite cannot hold"

    def show(self, caller: Caller, ids: list[int]) -> m.Jobs:
        self._call("show", caller, ids)
        self._known(*ids)
        return m.Jobs([])

    def explain(self, caller: Caller, ids: list[int]) -> m.Explanations:
        self._call("explain", caller, ids)
        self._known(*ids)
        return m.Explanations([])

    async def wait(self, caller: Caller, ids: list[int], timeout: float | None) -> m.WaitedJobs:
        self._call("wait", caller, ids, timeout)
        self._known(*ids)
        if ids == [7]:
            try:
                self.waiting.set()
                await asyncio.Event().wait()
            finally:
                self.gone.set()
        return m.WaitedJobs([])

    def verb(self, caller: Caller, verb: str, ids: list[int], priority: int | None) -> m.MovedJobs:
        self._call("verb", caller, verb, ids, priority)
        self._known(*ids)
        return m.MovedJobs([])

    async def log(self, caller: Caller, query: LogQuery) -> AsyncIterator[bytes]:
        self._call("log", caller, query)
        self._known(query.job_id)
        chunks = self.chunks()
        try:
            async for chunk in chunks:
                yield chunk
                self.waiting.set()
        finally:
            self.gone.set()

    def schedules(self, caller: Caller) -> m.Schedules:
        self._call("schedules", caller)
        return m.Schedules([])

    def schedule_verb(self, caller: Caller, verb: str, ids: list[int]) -> m.Schedules:
        self._call("schedule_verb", caller, verb, ids)
        self._known(*ids)
        return m.Schedules([])

    async def export(self, caller: Caller, what: Exported) -> BinaryIO:
        self._call("export", caller, what)
        assert self.copy is not None
        self.files.append(self.copy.open("rb"))
        self.opened.set()
        return self.files[-1]

    async def doctor(self, caller: Caller) -> m.Checks:
        self._call("doctor", caller)
        return m.Checks([])

    async def metrics(self) -> tuple[bytes, str]:
        self._call("metrics")
        return b"figures", "text/plain"

    def models(self, caller: Caller) -> Residents:
        self._call("models", caller)
        return Residents(models=[], pins=[])

    def models_verb(self, caller: Caller, verb: ModelVerb, model: str) -> Residents:
        self._call("models_verb", caller, verb, model)
        return Residents(models=[], pins=[])

    async def plan(self, caller: Caller, cards: int | None, limit: int) -> Forecast:
        self._call("plan", caller, cards, limit)
        return Forecast(
            at="", cards=0, hypothetical=False, done_at=None, makespan_seconds=None, loads=0, jobs=[], never=[]
        )


async def _no_log() -> AsyncIterator[bytes]:
    return
    yield b""


class Answer(NamedTuple):
    """What came back. ``raw`` is everything after the head, chunk marks included."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body["error"]
        return found


class Served:
    """The server, its service, and a plain client."""

    def __init__(self, *, user_mode: bool = True) -> None:
        self.folder = tempfile.TemporaryDirectory(dir="/tmp", prefix="p104-")
        Path(self.folder.name).chmod(0o755)
        self.path = f"{self.folder.name}/s"
        self.service = FakeService()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(self.path)
        Path(self.path).chmod(0o666)
        listening.listen(64)
        listening.setblocking(False)
        self.server = Server(self.service, Gate(user_mode=user_mode))
        self.run(self.server.start(listening))

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_SECONDS)

    def close(self) -> None:
        try:
            self.run(self.server.stop())
            assert self.tasks() == 0, "a request outlived its server"
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            self.folder.cleanup()

    def tasks(self) -> int:
        """How many tasks the server's loop has."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        found: int = self.run(count())
        return found

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(WAIT_SECONDS)
        connection.connect(self.path)
        return connection

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; ``body`` is bytes or becomes JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: p104d", "Connection: close", f"Content-Length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    def send(self, request: bytes) -> Answer:
        """Raw bytes to the server, and all that comes until it closes."""
        with self.connect() as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request)
            return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    head, _, rest = b"".join(_received(connection)).partition(b"\r\n\r\n")
    if not head:
        return Answer(0, {}, b"")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, rest)


def _received(connection: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            yield chunk
