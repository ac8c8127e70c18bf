"""Requests read and answers written: one JSON shape for errors, streams that can break off, who is at the other end."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

import aiohttp
import msgspec
from aiohttp import http_exceptions, web

from p104d.api import messages as m
from p104d.core.errors import P104Error, RefusedError, UsageError

log = logging.getLogger(__name__)

WIRE = {"P104-Wire": str(m.WIRE_VERSION)}
_encode = msgspec.json.Encoder().encode

S = TypeVar("S", bound=msgspec.Struct)


def answer(body: msgspec.Struct, status: int = 200) -> web.Response:
    """A message as JSON."""
    return web.Response(body=_encode(body), status=status, content_type="application/json", headers=WIRE)


def error_answer(error: P104Error) -> web.Response:
    """An error as every p104ctl understands it."""
    body = m.ErrorAnswer(m.ErrorBody(error.message, error.mend, error.exit_code, error.retry))
    return answer(body, error.http_status)


async def body_of(request: web.Request, kind: type[S]) -> S:
    """The body as a message of that kind. Raises UsageError."""
    try:
        return msgspec.json.decode(await read(request) or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the request cannot be understood: {str(error)[:200]}") from None


async def read(request: web.Request) -> bytes:
    """The whole body, kept by the request."""
    try:
        return await request.read()
    except (http_exceptions.HttpProcessingError, aiohttp.ClientPayloadError, web.RequestPayloadError) as error:
        raise UsageError(f"the request's body cannot be read: {str(error)[:200]}") from None
    except web.HTTPRequestEntityTooLarge:
        raise RefusedError("the request is too large", mend="16 MiB a submission is the most") from None


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


@contextlib.asynccontextmanager
async def broken_off(request: web.Request) -> AsyncIterator[None]:
    """For what follows an answer's head: an error can only be told by breaking off, for every byte is content."""
    try:
        yield
    except ConnectionError:
        pass
    except Exception:
        log.exception("an answer broke off", extra={"action": "answer_broke_off"})
        if request.transport is not None:
            request.transport.abort()


def socket_of(request: web.Request) -> socket.socket:
    """The connection that the request came on. Raises ConnectionResetError where there is none any more."""
    transport = request.transport
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None:
        raise ConnectionResetError("the caller has gone")
    return found  # type: ignore[no-any-return]
