"""p104ctl export: a copy of the queue, or of what was recorded, for SQL."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import click

from p104d.cli.common import client, json_option, out, print_json
from p104d.cli.verbs import VERBS
from p104d.core.errors import P104Error, RefusedError

_MAGIC = b"SQLite format 3\0"
#: The daemon copies before it sends; a queue of a million jobs takes seconds on a slow disk.
_TIMEOUT_SECONDS = 600.0


@click.command("export", short_help=VERBS["export"])
@click.argument("file", metavar="FILE.db", type=click.Path())
@click.option("--force", is_flag=True, help="Replace FILE.db if it exists.")
@click.option("--telemetry", is_flag=True, help="Copy the readings of cards and host instead, up to the last minute.")
@json_option
def command(file: str, force: bool, telemetry: bool, as_json: bool) -> None:
    """Write a consistent copy of the queue as an SQLite file, readable by you alone.

    With --telemetry, which everybody may, of the readings of cards and host instead.
    """
    if not force and os.path.lexists(file):
        raise _exists(file)
    try:
        size = _write(file, force, "telemetry" if telemetry else "queue")
    except OSError as error:
        raise P104Error(f"{file}: {(error.strerror or str(error)).lower()}", mend="name a place to write to") from error
    if as_json:
        print_json({"file": os.path.abspath(file), "size_bytes": size})
        return
    from p104d.core.units import format_size

    out(f"{file}: {format_size(size)}")


def _write(file: str, force: bool, what: str) -> int:
    """Fetch beside ``file`` and rename, so that a file of that name is always a whole one. Returns its bytes."""
    # mkstemp makes it 0600: specs in it may hold secrets.
    handle, draft = tempfile.mkstemp(prefix=".p104-export-", dir=os.path.dirname(file) or ".")
    try:
        with os.fdopen(handle, "wb") as stream:
            size = _fetch(what, stream.write)
            stream.flush()
            os.fsync(stream.fileno())
        _publish(draft, file, force)
    finally:
        if os.path.exists(draft):
            os.unlink(draft)
    return size


def _fetch(what: str, write: Callable[[bytes], object]) -> int:
    size, head = 0, b""
    with client().stream("/v1/export", {"what": what}, timeout=_TIMEOUT_SECONDS) as answer:
        for piece in answer.pieces():
            head = (head + piece)[: len(_MAGIC)] if len(head) < len(_MAGIC) else head
            size += len(piece)
            write(piece)
    if head != _MAGIC:
        raise P104Error("the daemon sent something that is not an SQLite file", mend="see its log: journalctl -u p104d")
    return size


def _publish(draft: str, file: str, force: bool) -> None:
    if force:
        os.replace(draft, file)
        return
    try:
        # Unlike a rename, a link fails if somebody made the file meanwhile.
        os.link(draft, file)
    except FileExistsError as error:
        raise _exists(file) from error
    except OSError:
        os.replace(draft, file)  # a file system without links


def _exists(file: str) -> RefusedError:
    return RefusedError(f"{file} exists", mend="give another name, or --force to replace it")
