"""What a batch runner is told: one JSON object, its only argument. Standard library only, like all of the runner."""

from __future__ import annotations

import json
import math
from typing import Any

VERSION = 1
#: Of the parts of a Unix socket's address the kernel takes 107 bytes.
_MOST_SOCKET_BYTES = 107
_MOST_PARALLEL = 256


class OrdersError(Exception):
    """The batch cannot be carried out as ordered: one line with the mend, for a person. Exit code 2."""


class Orders:
    """Where the requests are, where they go, and where the answers go.

    ``retries``: further tries of a request that failed by no fault of its own. ``request_timeout_seconds``: for one
    try. ``server_wait_seconds``: how long the server's socket may be away before the batch gives up, to be run again;
    ``loading_wait_seconds``: the same for a server that says it is loading. ``retry_wait_seconds``: before the first
    retry; it doubles. ``report_seconds``: between lines of progress at first; 0: only the last one.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        """Raises OrdersError."""
        self.socket = _text(values, "socket")
        self.input = _text(values, "input")
        self.output = _text(values, "output")
        self.model = _text(values, "model", "")
        self.parallel = int(_number(values, "parallel", 1, least=1, most=_MOST_PARALLEL, whole=True))
        self.retries = int(_number(values, "retries", 2, least=0, most=100, whole=True))
        self.request_timeout_seconds = _number(values, "request_timeout_seconds", 600.0, least=0.01)
        self.server_wait_seconds = _number(values, "server_wait_seconds", 20.0)
        self.loading_wait_seconds = _number(values, "loading_wait_seconds", 600.0)
        self.retry_wait_seconds = _number(values, "retry_wait_seconds", 1.0)
        self.report_seconds = _number(values, "report_seconds", 2.0)
        unknown = sorted(set(values) - set(vars(self)) - {"version"})
        if unknown:
            raise OrdersError(f"the orders have an unknown key {unknown[0]!r}; the daemon and its runner do not match")
        if len(self.socket.encode(errors="surrogateescape")) > _MOST_SOCKET_BYTES:
            raise OrdersError(f"the socket's path is longer than {_MOST_SOCKET_BYTES} bytes: {self.socket}")


def parse(text: str) -> Orders:
    """Raises OrdersError."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OrdersError(f"the orders are not JSON ({error}); the daemon starts this program, not a person") from None
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise OrdersError(f"the orders are not of version {VERSION}; restart the daemon after an upgrade")
    return Orders(values)


def _text(values: dict[str, Any], key: str, default: str | None = None) -> str:
    value = values.get(key, default)
    if not isinstance(value, str) or "\0" in value or (not value and default is None):
        raise OrdersError(f"the orders' {key!r} is not a text")
    return value


def _number(
    values: dict[str, Any],
    key: str,
    default: float,
    *,
    least: float = 0.0,
    most: float = 10_000_000.0,
    whole: bool = False,
) -> float:
    value = values.get(key, default)
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise OrdersError(f"the orders' {key!r} is not {kind} from {least:g} to {most:g}: {value!r}")
    return float(value)
