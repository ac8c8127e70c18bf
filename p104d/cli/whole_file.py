"""Files that are whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from p104d.core.errors import P104Error


@contextlib.contextmanager
def replacing(path: str, prefix: str, suffix: str = "") -> Iterator[BinaryIO]:
    """Write what becomes the file ``path`` when the block ends well; a file of that name is always a whole one, also
    while it is replaced. Raises P104Error where it cannot be written."""
    try:
        handle, draft = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=os.path.dirname(path) or ".")
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                # mkstemp's file is the maker's alone; this is an ordinary one. The umask is only read by setting it.
                mask = os.umask(0o077)
                os.umask(mask)
                os.fchmod(stream.fileno(), 0o666 & ~mask)
            os.replace(draft, path)
        finally:
            if os.path.exists(draft):
                os.unlink(draft)
    except OSError as error:
        raise P104Error(f"{path}: {(error.strerror or str(error)).lower()}", mend="name a place to write to") from error
