"""Bodies of requests: bounded before they are read, counted before they are decoded.

Decoding holds everybody up, so what is too much is told by counting bytes, which takes next to nothing.
"""

from __future__ import annotations

from typing import TypeVar

import aiohttp
import msgspec
from aiohttp import http_exceptions, web

from p104d.api import messages as m
from p104d.api.queries import LARGEST_ID
from p104d.api.spec_fields import MAX_ENV
from p104d.api.spec_set import MAX_OPTIONS
from p104d.api.yaml_nodes import MAX_DOCUMENTS
from p104d.core.errors import NotFoundError, RefusedError, UsageError

#: Names of cards, settings, a model: nothing that is asked with them needs more.
SMALL_BYTES = 64 * 1024
#: A submission's cap is 16 MiB of specs; JSON quoting may double a text, and more than that is no submission.
MAX_BODY_BYTES = 33 * 2**20
MAX_IDS = 100_000
#: That many ids of 16 digits, a comma and a space with each.
IDS_BYTES = MAX_IDS * 18 + 1024
#: Two names and two values a file, the options, the caller's variables, the request's own words.
_MOST_STRINGS = 4 * MAX_DOCUMENTS + MAX_OPTIONS + 2 * MAX_ENV + 100
#: So much is counted before the sum is looked at.
_SLICE_BYTES = 2**20

S = TypeVar("S", bound=msgspec.Struct)


async def read(request: web.Request, most_bytes: int) -> bytes:
    """The whole body. Raises UsageError for one that cannot be read, RefusedError for one that is too large."""
    check(request, most_bytes)
    pieces, size = [], 0
    try:
        while piece := await request.content.readany():
            pieces.append(piece)
            size += len(piece)
            if size > most_bytes:
                raise _too_large(most_bytes)
    except (http_exceptions.HttpProcessingError, aiohttp.ClientPayloadError, web.RequestPayloadError) as error:
        raise UsageError(f"the request's body cannot be read: {str(error)[:200]}") from None
    return b"".join(pieces)


def check(request: web.Request, most_bytes: int) -> None:
    """Raises UsageError or RefusedError for a body of which the head says that it will not be taken."""
    if "Content-Encoding" in request.headers:
        # A few packed kilobytes may be gigabytes, and unpacking them is work before anything is known of them.
        raise UsageError("the request's body is packed (Content-Encoding)", mend="send it as it is")
    if (request.content_length or 0) > most_bytes:
        raise _too_large(most_bytes)


def _too_large(most_bytes: int) -> RefusedError:
    most = "16 MiB a submission is" if most_bytes == MAX_BODY_BYTES else f"{most_bytes // 1024} KiB are"
    return RefusedError("the request is too large", mend=f"{most} the most")


def decoded(body: bytes, kind: type[S]) -> S:
    """The body as a message of that kind. Raises UsageError."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the request cannot be understood: {str(error)[:200]}") from None


def ids_of(body: bytes, most: int = MAX_IDS) -> m.IdsRequest:
    """The ids that a request names, ``most`` of them at the most."""
    # A comma between two ids, and two more for the other fields.
    if body.count(b",") > most + 1:
        raise RefusedError(f"more than {most} ids in one request", mend=f"name at most {most} at a time")
    asked = decoded(body, m.IdsRequest)
    if not asked.ids:
        raise UsageError("no job named", mend="name jobs by their ids")
    if len(asked.ids) > most:
        raise RefusedError(f"{len(asked.ids)} ids in one request", mend=f"name at most {most} at a time")
    for each in asked.ids:
        if not 0 < each <= LARGEST_ID:
            raise NotFoundError(f"there is no {str(each)[:40]}", mend="ids are whole numbers from 1 on")
    return asked


def submission_of(body: bytes) -> m.SubmitRequest:
    """A submission. Raises RefusedError for one of more strings than any that would be taken."""
    quotes = 0
    for start in range(0, len(body), _SLICE_BYTES):
        piece = body[start : start + _SLICE_BYTES]
        # An escaped quote is of a text. Of each string one quote at least is counted, and two at most.
        quotes += piece.count(b'"') - piece.count(b'\\"')
        if quotes > 2 * _MOST_STRINGS:
            raise RefusedError("too many files, options or variables in one submission", mend="submit in several steps")
    return decoded(body, m.SubmitRequest)
