"""The requests of a batch, read line by line from a file of JSON lines.

Two forms, which may be mixed: OpenAI's Batch (``{"custom_id", "method": "POST", "url", "body"}``; ``url`` may be left
out where the body tells), and plain (``{"prompt", ...options of llama-server's /completion}``). A line that is neither
costs itself, never the batch. Lines that are left out: those with nothing but blanks.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

MOST_LINE_BYTES = 16 * 1024 * 1024
_MOST_ID_CHARS = 1024
_BOM = b"\xef\xbb\xbf"
_PIECE_BYTES = 1024 * 1024

CHAT, COMPLETIONS, EMBEDDINGS, PLAIN = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/completion"
_URLS = (CHAT, COMPLETIONS, EMBEDDINGS)
#: Where ``url`` is left out, the body's own key tells.
_TELLING = (("messages", CHAT), ("prompt", COMPLETIONS), ("input", EMBEDDINGS))


class Request:
    """One line that can be sent. ``check`` tells later whether an answer on file was given to these same words."""

    __slots__ = ("body", "check", "custom_id", "line", "url")

    def __init__(self, line: int, custom_id: str, url: str, body: bytes) -> None:
        self.line, self.custom_id, self.url, self.body = line, custom_id, url, body
        self.check = zlib.crc32(body, zlib.crc32(url.encode()))


class Junk:
    """One line that cannot be sent, and why. ``custom_id`` is None where the line has none to go by."""

    __slots__ = ("custom_id", "line", "why")

    def __init__(self, line: int, custom_id: str | None, why: str) -> None:
        self.line, self.custom_id, self.why = line, custom_id, why


class LineError(Exception):
    """Why a line is no request; for a person."""


def requests(file: BinaryIO, model: str = "") -> Iterator[Request | Junk]:
    """Each line of ``file`` that is not blank, from its beginning. ``model`` replaces the one that a body asks for:
    the answer shall tell which one really answered."""
    for number, raw in _lines(file):
        if raw is None:
            yield Junk(number, None, f"the line is longer than {MOST_LINE_BYTES // 1024 // 1024} MiB")
        elif not raw.isspace() and raw:
            yield _entry(number, raw, model)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Lines by number; None for one that is too long, of which never more than the bound is held."""
    number = 0
    while raw := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(_BOM)
        if len(raw) <= MOST_LINE_BYTES or raw.endswith(b"\n"):
            yield number, raw
            continue
        while not raw.endswith(b"\n") and (raw := file.readline(_PIECE_BYTES)):
            pass
        yield number, None


def _entry(number: int, raw: bytes, model: str) -> Request | Junk:
    custom_id: str | None = None
    try:
        value = _object(raw)
        custom_id = _custom_id(value, number)
        url, body = _plain(value) if "body" not in value else _batch(value, model)
        # A stream comes in pieces, for somebody who watches; an answer here is one line.
        body["stream"] = False
        body.pop("stream_options", None)
        return Request(number, custom_id, url, json.dumps(body, separators=(",", ":")).encode())
    except LineError as error:
        return Junk(number, custom_id, str(error))
    except RecursionError:
        return Junk(number, custom_id, "the line is nested too deeply")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise LineError(f"the line is not UTF-8 (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise LineError(f"the line is not JSON: {error.msg} at character {error.pos + 1}") from None
    except ValueError as error:
        raise LineError(f"the line is not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, dict):
        raise LineError('the line is not an object; write {"custom_id": ..., "body": {...}} or {"prompt": "..."}')
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _custom_id(value: dict[str, Any], number: int) -> str:
    """The line's own, else its number. Raises LineError."""
    given = value.get("custom_id")
    if given is None:
        return str(number)
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if not isinstance(given, str) or not 0 < len(given) <= _MOST_ID_CHARS:
        raise LineError(f'"custom_id" is not a text of 1 to {_MOST_ID_CHARS} characters')
    return given


def _plain(value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if "messages" in value:
        raise LineError('"messages" belong into a "body"; write {"custom_id": ..., "body": {"messages": [...]}}')
    if not isinstance(value.get("prompt"), str | list):
        raise LineError('the line has neither a "body" nor a "prompt" that is a text')
    return PLAIN, {key: each for key, each in value.items() if key != "custom_id"}


def _batch(value: dict[str, Any], model: str) -> tuple[str, dict[str, Any]]:
    body = value["body"]
    if not isinstance(body, dict):
        raise LineError('"body" is not an object')
    if value.get("method", "POST") != "POST":
        raise LineError('"method" is not "POST"')
    url = value.get("url")
    if url is None:
        url = next((found for key, found in _TELLING if key in body), None)
        if url is None:
            raise LineError('"body" has neither "messages" nor "prompt" nor "input", and there is no "url"')
    if url not in _URLS:
        raise LineError(f'"url" is none of {", ".join(_URLS)}')
    return url, {**body, "model": model} if model else body
