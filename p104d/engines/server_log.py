"""What a llama-server's output says to a person: why it ended, whether it found no card. Pure, on the last of it.

Both kinds of lines are read: bare ones (``llama_model_load: error ...``) and those with a time and a letter before them
(``0.00.004.584 E ...``). Words of requests may stand in the output, so marks count only where llama.cpp puts them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

#: Longer tails are cut: what matters is at the end, and what tells of the card within the first lines of a start.
MOST_TAIL_BYTES = 1024 * 1024
MOST_ERROR_CHARS = 300

_PREFIX = re.compile(r"(?:\d+\.\d\d\.\d{3}\.\d{3} )?(?:(?P<level>[DIWE]) )?(?P<text>.*)", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: A module and a function, as newer ones put them before their words; of no use to a person.
_SOURCE = re.compile(r"(?:(?:srv|cmn|slot|que)\s+)?[a-z_][\w:~]{0,60}(?:\(\))?:\s+(?=\S)")
_LOADED = re.compile(r"(?:srv\s+\w+:\s+|main: )?(?:model loaded$|server is listening on |listening on )")
#: Of one request, which the server survives.
_REQUEST = re.compile(r"(?:srv|slot)\s+(?:send_error|operator\(\)|log_server_r\w*)")
_CPU_ONLY = re.compile(
    r"warning: no usable GPU found"
    r"|warning: not compiled with GPU offload support"
    r"|ggml_cuda_init: (?:failed to initialize|no CUDA devices found|no CUDA-capable device)"
    r"|(?:\w+: )?offloaded 0/[1-9]\d* layers to GPU"
)
#: From what tells most to what tells that there was something. Within one, the last line counts.
_KINDS: tuple[re.Pattern[str], ...] = (
    re.compile(r".*out of memory", re.I),
    re.compile(r".*(?:unable to allocate|failed to allocate|not enough (?:memory|space))", re.I),
    re.compile(r"(?:error: (?:invalid|unknown) argument|error while handling (?:argument|environment))", re.I),
    re.compile(
        r".*(?:failed to open GGUF|invalid magic|unknown model architecture|within the file bounds|unsupported model"
        r"|missing tensor|wrong number of tensors|wrong shape|CUDA error|no kernel image|requires flash_attn"
        r"|requires Flash Attention|couldn't bind|could not bind|failed to bind|GGML_ASSERT|fatal error"
        r"|error while loading shared libraries|No such file or directory|Permission denied|terminate called"
        r"|what\(\):)",
        re.I,
    ),
    re.compile(r".*error loading model: (?!.*failed to load model)", re.I),
    re.compile(r".*(?:failed to create context|failed to initialize|error loading|unable to load)", re.I),
    re.compile(r".*(?:failed to|error: |unable to|cannot )", re.I),
)


class ServerSaid(NamedTuple):
    """``error``: the line that tells most of what went wrong since the model was loaded, if it was; one line, bounded.
    ``cpu_only``: it found no card to compute on. ``loaded``: it said that the model is loaded."""

    error: str | None
    cpu_only: bool
    loaded: bool


def said(tail: bytes) -> ServerSaid:
    """What the last of a server's output tells; the first line may be cut."""
    lines = [_PREFIX.fullmatch(line) for line in _lines(tail[-MOST_TAIL_BYTES:])]
    told = [(match["level"], match["text"].strip()) for match in lines if match is not None]
    loaded = max((place for place, (_level, text) in enumerate(told) if _LOADED.match(text)), default=-1)
    # What went wrong before was overcome: a smaller buffer, another way.
    return ServerSaid(
        error=_error(told[loaded + 1 :]),
        cpu_only=any(_CPU_ONLY.match(text) for _level, text in told),
        loaded=loaded >= 0,
    )


def _lines(tail: bytes) -> list[str]:
    return _COLOUR.sub("", tail.decode("utf-8", "replace")).splitlines()


def _error(told: Sequence[tuple[str | None, str]]) -> str | None:
    # A level says that a line is no error; without one its words have to do.
    lines = [text for level, text in told if level in (None, "E") and _of_the_server(text)]
    for kind in _KINDS:
        for text in reversed(lines):
            if kind.match(text):
                return _short(text)
    last = next((text for level, text in reversed(told) if level == "E" and _of_the_server(text)), None)
    return _short(last) if last is not None else None


def _of_the_server(text: str) -> bool:
    return bool(text) and not text.startswith("warning: ") and _REQUEST.match(text) is None


def _short(text: str) -> str:
    source = _SOURCE.match(text)
    rest = text[source.end() :] if source is not None and not text.lower().startswith("error") else text
    line = "".join(char if char.isprintable() else " " for char in rest)
    line = " ".join(line.split())
    return line if len(line) <= MOST_ERROR_CHARS else line[: MOST_ERROR_CHARS - 3] + "..."
