"""A look at a model and at a job's input with the rights of the submitter, printed as one JSON object.

``python -m p104d.engines.model_probe '{"model": PATH, "input": PATH or null, "others": true}'`` prints ``model`` (as
``probed_model.ProbedModel`` has it), ``embeddings`` (whether the input's first requests ask for them; null: it cannot
be read yet) and ``world_readable`` (whether every user may read all parts; null: not asked), or ``error`` with
``message`` and ``mend``. ``'{"readable": [PART, ...]}'`` prints whether this user can read these parts, as they were.

A process of its own, for paths are anybody's: whatever they name, it ends, and never with a traceback. The standard
library alone.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from p104d.core.errors import P104Error, UsageError
from p104d.engines.batch_input import EMBEDDINGS, MOST_LINE_BYTES, Request, requests
from p104d.engines.gguf import Model, Part, read_model
from p104d.engines.model_memory_shape import shape_of

#: Of an input so much is looked at: all of its requests are of one kind, or few are.
PEEKED_BYTES = 1024 * 1024
PEEKED_LINES = 200
#: As many as Linux itself follows on one path.
_MOST_LINKS = 40
_MOST_NAME_CHARS = 200
#: ``<architecture>.pooling_type``: mean, first or last token. 0 is none; 4 ranks, which gives no embedding.
_POOLINGS = (1, 2, 3)
_SPLIT_NAME = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}", re.DOTALL)


def probe(model: str, source: str | None, *, others: bool) -> dict[str, Any]:
    """What is printed. Raises P104Error for a model that cannot be used."""
    found = read_model(model)
    return {
        "model": _model(found),
        "embeddings": wants_embeddings(source) if source is not None else None,
        "world_readable": all(world_readable(part.path) for part in found.parts) if others else None,
    }


def _model(model: Model) -> dict[str, Any]:
    shape = shape_of(model)
    return {
        "path": model.path,
        "label": label_of(model.path),
        "name": (model.text("general.name") or "")[:_MOST_NAME_CHARS],
        "architecture": model.architecture[:_MOST_NAME_CHARS],
        "file_type": model.file_type or "",
        "parts": model.parts,
        "size": model.size,
        "shape": shape,
        "context": shape.context,
        "pooling": model.metadata.get(f"{model.architecture}.pooling_type") in _POOLINGS,
        "notes": shape.notes,
    }


def label_of(path: str) -> str:
    """The model as people call it: the file's name without its ending, and without the number of its part."""
    name = os.path.basename(path)
    stem = name[: -len(".gguf")] if name.lower().endswith(".gguf") and len(name) > len(".gguf") else name
    part = _SPLIT_NAME.fullmatch(stem)
    return part["stem"] if part else stem


# --- the input ---


def wants_embeddings(path: str) -> bool | None:
    """Whether one of the input's first requests asks for embeddings; None where there is no request to be read yet."""
    try:
        first = _beginning(path)
    except (OSError, ValueError):
        return None
    entries = list(itertools.islice(requests(io.BytesIO(first)), PEEKED_LINES))
    if not entries:
        return None
    return any(isinstance(entry, Request) and entry.url == EMBEDDINGS for entry in entries)


def _beginning(path: str) -> bytes:
    """The beginning of a plain file; a last line that is cut says nothing. Raises OSError, ValueError."""
    # Looked at before it is opened: opening a FIFO or a device is an act.
    if not stat.S_ISREG(os.stat(path).st_mode):
        return b""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        data = _read(file, PEEKED_BYTES)
        if len(data) == PEEKED_BYTES and b"\n" not in data:
            # A first line longer than that is rare, and still the only one to tell by.
            data += _read(file, MOST_LINE_BYTES - PEEKED_BYTES)
    return data


def _read(file: io.RawIOBase | io.FileIO, most: int) -> bytes:
    data = b""
    while len(data) < most and (piece := file.read(most - len(data))):
        data += piece
    return data


# --- who may read it ---


def world_readable(path: str) -> bool:
    """Whether every user may: read permission for others on the file, and search on every folder on the way to it,
    through symlinks too. By mode bits alone, as ``ls`` shows them; False where it cannot be told."""
    place, links = "/", 0
    try:
        names = _names(os.path.join(os.getcwd(), path))
        while names:
            if not os.stat(place).st_mode & stat.S_IXOTH:
                return False
            name = names.pop()
            if name == "..":
                place = os.path.dirname(place)
                continue
            following = os.path.join(place, name)
            if not stat.S_ISLNK(os.lstat(following).st_mode):
                place = following
                continue
            links += 1
            if links > _MOST_LINKS:
                return False
            target = os.readlink(following)
            names += _names(target)
            place = "/" if target.startswith("/") else place
        return bool(os.stat(place).st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False


def _names(path: str) -> list[str]:
    """The steps of a path, the first one last."""
    return [name for name in path.split("/") if name not in ("", ".")][::-1]


def readable(parts: Sequence[Part]) -> bool:
    """Whether this process can open all of these, and they are still what they were."""
    return bool(parts) and all(_same(part) for part in parts)


def _same(part: Part) -> bool:
    try:
        if not stat.S_ISREG(os.stat(part.path).st_mode):
            return False
        descriptor = os.open(part.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return False
    return (found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns) == part[1:]


# --- the process ---


def answer(text: str) -> dict[str, Any]:
    """The object to print for a command line's argument. Never raises."""
    try:
        asked = json.loads(text)
        if not isinstance(asked, Mapping):
            raise UsageError("model_probe: its argument is not an object", mend="the daemon starts this, not a person")
        if "readable" in asked:
            return {"readable": readable([Part(*part) for part in asked["readable"]])}
        return probe(asked["model"], asked.get("input"), others=bool(asked.get("others")))
    except P104Error as error:
        return _error(error.message, error.mend)
    except RecursionError:
        return _error("the model or the input is nested too deeply", None)
    except Exception as error:  # a traceback would help nobody: the daemon shows this to whoever submitted
        return _error(f"the model cannot be looked at: {type(error).__name__}: {error}", None)


def _error(message: str, mend: str | None) -> dict[str, Any]:
    return {"error": {"message": _line(message), "mend": _line(mend) if mend else None}}


def _line(text: str) -> str:
    """One line; names that are no text are shown as far as they can be."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


def main() -> None:
    """Print what ``sys.argv`` asks for."""
    print(json.dumps(answer(sys.argv[1] if len(sys.argv) > 1 else "null")))


if __name__ == "__main__":
    main()
