"""Whether a model server really serves: one token, or one embedding, over its Unix socket.

``/health`` says ok while a card has fallen off the bus; a token has been through all of the model. Nothing here raises
for what a server does, and at whatever moment it is cancelled no descriptor stays open.
"""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from collections.abc import Callable
from typing import Any, NamedTuple

from p104d.engines.batch_answer import ANSWERED, LOADING, judge
from p104d.engines.batch_http import BrokenError, Response
from p104d.engines.batch_input import EMBEDDINGS, PLAIN

_FIRST_WAIT_SECONDS = 0.05
_MOST_WAIT_SECONDS = 0.5
#: An embedding of a large model, written out, has some 100 KB.
MOST_ANSWER_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024
_MOST_WORDS = 300
_TOKEN = {"prompt": "1", "n_predict": 1, "stream": False, "cache_prompt": False}
_EMBEDDING = {"input": "1"}

#: Called before each wait with why it is waited (``no socket yet``, ``loading``). A text that it returns ends the
#: waiting with that failure: the server's process has ended, say.
OnWait = Callable[[str], str | None]


class Health(NamedTuple):
    """``failure``: why it does not serve, on one line; None: it does. ``seconds`` since it was asked, all waiting
    included; ``token_seconds`` is what the one token took. ``broken``: it took the question and the exchange broke
    off, as when a server dies of it, or happens to die just then."""

    seconds: float
    token_seconds: float | None = None
    failure: str | None = None
    broken: bool = False

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.failure is None


class _Wait(Exception):
    """Not yet; try again."""


class _Failure(Exception):
    """It does not serve; for a person."""


class _Broken(_Failure):
    """The exchange broke off."""


async def first_token(socket: str, *, embeddings: bool, patience: float) -> Health:
    """Ask the server at ``socket`` once for a token (or an embedding), for ``patience`` seconds at most."""
    began = _now()
    try:
        async with asyncio.timeout(patience):
            await _ask(socket, embeddings)
    except _Wait as wait:
        return Health(_now() - began, failure=f"the model server does not serve yet: {wait}")
    except _Failure as failure:
        return Health(_now() - began, failure=str(failure), broken=isinstance(failure, _Broken))
    except TimeoutError:
        return Health(_now() - began, failure=f"the model server gave no token within {patience:g} s")
    seconds = _now() - began
    return Health(seconds, seconds)


async def wait_ready(
    socket: str, *, embeddings: bool, deadline_seconds: float, on_wait: OnWait | None = None
) -> Health:
    """Wait until the server at ``socket`` has loaded its model and has given one token (or an embedding).

    ``deadline_seconds`` from now is the end of all patience. ``on_wait``: see OnWait.
    """
    began, wait, why = _now(), _FIRST_WAIT_SECONDS, "no token yet"
    try:
        async with asyncio.timeout(deadline_seconds):
            while True:
                asked = _now()
                try:
                    await _ask(socket, embeddings)
                    return Health(_now() - began, _now() - asked)
                except _Wait as again:
                    why = str(again)
                if on_wait is not None and (ended := on_wait(why)) is not None:
                    return Health(_now() - began, failure=" ".join(ended.split()))
                await asyncio.sleep(wait)
                wait = min(wait * 1.5, _MOST_WAIT_SECONDS)
    except _Failure as failure:
        return Health(_now() - began, failure=str(failure), broken=isinstance(failure, _Broken))
    except TimeoutError:
        return Health(_now() - began, failure=f"the model server is not ready after {deadline_seconds:g} s: {why}")


async def alive(socket: str, *, patience: float) -> bool:
    """Whether anybody answers at ``socket`` within ``patience`` seconds: a server with all its slots busy does, one
    that was stopped, or is stuck at its end, does not."""
    try:
        async with asyncio.timeout(patience):
            await _exchange(socket, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    except (_Wait, BrokenError, TimeoutError):
        return False
    return True


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _ask(path: str, embeddings: bool) -> None:
    """Returns when it has given a token. Raises _Wait, _Failure."""
    url, body = (EMBEDDINGS, _EMBEDDING) if embeddings else (PLAIN, _TOKEN)
    try:
        response = await _post(path, url, json.dumps(body).encode())
    except BrokenError as error:
        raise _Broken(_line(f"the model server failed at its first token: {error}")) from None
    answer = judge(response.status, bytes(response.body))
    if answer.kind == LOADING:
        raise _Wait("it is loading")
    if answer.kind != ANSWERED:
        said = "" if str(response.status) in answer.message else f" ({response.status})"
        raise _Failure(_line(f"the model server refuses a token{said}: {answer.message}"))
    if not (_is_embedding(answer.body) if embeddings else _is_token(answer.body)):
        what = "embedding" if embeddings else "token"
        raise _Failure(f"what the model server answers is no {what}: {_line(response.body.decode('utf-8', 'replace'))}")


async def _post(path: str, url: str, body: bytes) -> Response:
    """One request over a connection of its own. Raises _Wait, BrokenError."""
    head = (
        f"POST {url} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return await _exchange(path, head.encode() + body)


async def _exchange(path: str, request: bytes) -> Response:
    loop = asyncio.get_running_loop()
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK | sockets.SOCK_CLOEXEC) as sock:
        try:
            # At once or not at all: a full queue of a Unix socket is an error, not a wait.
            sock.connect(path)
        except (OSError, ValueError) as error:
            raise _Wait(_line(f"its socket is not there ({getattr(error, 'strerror', None) or error})")) from None
        try:
            await loop.sock_sendall(sock, request)
            return await _receive(loop, sock)
        except OSError as error:
            raise BrokenError(f"the server ended the connection ({error.strerror})") from None


async def _receive(loop: asyncio.AbstractEventLoop, sock: sockets.socket) -> Response:
    response, size = Response(), 0
    while data := await loop.sock_recv(sock, _PIECE_BYTES):
        size += len(data)
        if size > MOST_ANSWER_BYTES:
            raise BrokenError(f"the server's answer is longer than {MOST_ANSWER_BYTES // 1024} KiB")
        if response.feed(data):
            return response
    if response.end():
        return response
    raise BrokenError("the server ended the connection")


def _is_token(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(body.get("content"), str)


def _is_embedding(body: Any) -> bool:
    """Of numbers: what is none (null by now) was computed by a card that cannot."""
    data = body.get("data") if isinstance(body, dict) else None
    first = data[0] if isinstance(data, list) and data else None
    numbers = first.get("embedding") if isinstance(first, dict) else None
    return isinstance(numbers, list) and bool(numbers) and all(_is_number(one) for one in numbers)


def _is_number(one: object) -> bool:
    return isinstance(one, int | float) and not isinstance(one, bool)


def _line(text: str) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _MOST_WORDS else line[: _MOST_WORDS - 3] + "..."
