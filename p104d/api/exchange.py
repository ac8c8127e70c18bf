"""Answers written: one JSON shape for errors, streams that can break off, who is at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import BinaryIO

import msgspec
from aiohttp import web

from p104d.api import messages as m
from p104d.core.errors import P104Error

log = logging.getLogger(__name__)

WIRE = {"P104-Wire": str(m.WIRE_VERSION)}
#: So long may one who reads a file stop: others wait for their copy. Disks that p104ctl writes to are faster.
SILENT_SECONDS = 60.0
_CHUNK_BYTES = 256 * 1024
#: And so long they may take for each chunk in the long run.
_CHUNK_SECONDS = 1.0
_encode = msgspec.json.Encoder().encode


def answer(body: msgspec.Struct, status: int = 200) -> web.Response:
    """A message as JSON."""
    return web.Response(body=_encode(body), status=status, content_type="application/json", headers=WIRE)


def error_answer(error: P104Error) -> web.Response:
    """An error as every p104ctl understands it."""
    body = m.ErrorAnswer(m.ErrorBody(error.message, error.mend, error.exit_code, error.retry))
    return answer(body, error.http_status)


async def streamed(request: web.Request, chunks: AsyncGenerator[bytes, None], kind: str) -> web.StreamResponse:
    """What comes, as it comes. An error before the first of it is an answer of its own."""
    async with contextlib.aclosing(chunks):
        first = await anext(chunks, b"")
        response = web.StreamResponse(headers=WIRE | {"Connection": "close"})
        response.content_type = kind
        response.force_close()
        await response.prepare(request)
        async with broken_off(request):
            if first:
                await response.write(first)
            async for chunk in chunks:
                await response.write(chunk)
            await response.write_eof()
    return response


async def sent(request: web.Request, file: BinaryIO, kind: str) -> web.StreamResponse:
    """A file, to one who goes on reading: who takes nothing for a minute, or little for long, is hung up on."""
    response = web.StreamResponse(headers=WIRE)
    response.content_type = kind
    response.content_length = os.fstat(file.fileno()).st_size
    await response.prepare(request)
    now = asyncio.get_running_loop().time
    async with broken_off(request), asyncio.timeout(SILENT_SECONDS) as patience:
        while chunk := file.read(_CHUNK_BYTES):
            await response.write(chunk)
            until = patience.when()
            assert until is not None
            patience.reschedule(min(until + _CHUNK_SECONDS, now() + SILENT_SECONDS))
        await response.write_eof()
    return response


@contextlib.asynccontextmanager
async def broken_off(request: web.Request) -> AsyncIterator[None]:
    """For what follows an answer's head: an error can only be told by breaking off, for every byte is content."""
    try:
        yield
    except ConnectionError:
        pass
    except TimeoutError:
        log.warning("an answer was not read, and broken off", extra={"action": "answer_not_read"})
        _hang_up(request)
    except Exception:
        log.exception("an answer broke off", extra={"action": "answer_broke_off"})
        _hang_up(request)


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def socket_of(request: web.Request) -> socket.socket:
    """The connection that the request came on. Raises ConnectionResetError where there is none any more."""
    transport = request.transport
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None:
        raise ConnectionResetError("the caller has gone")
    return found  # type: ignore[no-any-return]
