"""What a server's answer means for the request: done, refused for good, or worth another try."""

from __future__ import annotations

import json
from typing import Any

ANSWERED, REFUSED, FAILED, LOADING = "answered", "refused", "failed", "loading"
_MOST_MESSAGE_CHARS = 1000
#: Nobody's tokens or milliseconds; sums of what is below can still be printed and read.
_MOST_FIGURE = 1e9
#: 4xx codes that say nothing against the request: it came too slowly, too early, or among too many.
_TRY_AGAIN = (408, 425, 429)


class Answer:
    """``kind`` is one of the four above. ``body`` is what the server sent, as JSON; ``code`` and ``message`` are of an
    error."""

    __slots__ = ("body", "code", "kind", "message", "status")

    def __init__(self, kind: str, status: int, body: Any, code: str = "", message: str = "") -> None:
        self.kind, self.status, self.body, self.code, self.message = kind, status, body, code, message

    @property
    def timings(self) -> Any:
        """llama.cpp's own; None where there are none."""
        return self.body.get("timings") if isinstance(self.body, dict) else None

    def tokens(self) -> list[tuple[int, float]]:
        """(tokens, milliseconds) of the prompt, and of what was generated; over all answers where there are several."""
        parts = self.body if isinstance(self.body, list) else [self.body]
        return [
            (
                sum(int(_figure(part, f"{what}_n", spare)) for part in parts),
                sum(_figure(part, f"{what}_ms") for part in parts),
            )
            for what, spare in (("prompt", "prompt_tokens"), ("predicted", "completion_tokens"))
        ]


def judge(status: int, raw: bytes) -> Answer:
    """Never raises, whatever came."""
    body, readable = _json(raw)
    if 200 <= status < 300:
        if not readable or not isinstance(body, dict | list):
            return Answer(FAILED, status, None, "bad_answer", "the server's answer is not JSON")
        if isinstance(body, dict) and "error" in body:
            return Answer(REFUSED, status, body, "server_error", _message(body, status))
        return Answer(ANSWERED, status, body)
    message = _message(body, status)
    if status == 503 and "loading" in message.lower():
        return Answer(LOADING, status, body, "loading", message)
    again = status in _TRY_AGAIN or (status >= 500 and status != 501)
    return Answer(FAILED if again else REFUSED, status, body, f"http_{status}", message)


def _json(raw: bytes) -> tuple[Any, bool]:
    """Numbers that JSON does not have (a server may write NaN) become null."""
    try:
        return json.loads(raw.decode("utf-8", "replace"), parse_constant=_nothing, parse_float=_float), True
    except (ValueError, RecursionError):
        return None, False


def _nothing(_name: str) -> None:
    return None


def _float(text: str) -> float | None:
    number = float(text)
    return number if abs(number) != float("inf") else None


def _message(body: Any, status: int) -> str:
    """The server's own words, on one line."""
    error = body.get("error") if isinstance(body, dict) else None
    told = error.get("message") if isinstance(error, dict) else error
    text = " ".join(told.split()) if isinstance(told, str) else ""
    return text[:_MOST_MESSAGE_CHARS] or f"the server answered {status}"


def _figure(part: Any, name: str, spare: str | None = None) -> float:
    """A number of ``timings``, else one of ``usage`` (embeddings have no timings); 0 where there is none."""
    if not isinstance(part, dict):
        return 0.0
    for place, key in (("timings", name), ("usage", spare)):
        found = part.get(place)
        value = found.get(key) if isinstance(found, dict) and key else None
        if isinstance(value, int | float) and 0 <= value < _MOST_FIGURE:
            return float(value)
    return 0.0
