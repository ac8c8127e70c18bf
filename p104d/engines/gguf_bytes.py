"""Bytes of a file's beginning, in order and bounded: what a GGUF header is read with.

Little is held at a time: a vocabulary of 150,000 words is walked over, not kept.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from p104d.core.errors import RefusedError

AGAIN = "download or copy it again"

#: Headers of real models have up to some 20 MB (vocabularies); this bounds the time that a hostile one costs.
MOST_BYTES = 256 * 2**20
#: Words and merges of the largest vocabularies come to 800,000.
MOST_STRINGS = 4_000_000
_CHUNK = 256 * 1024
_LENGTH = struct.Struct("<Q")


class ModelFileError(RefusedError):
    """A model file that cannot be used as it is."""


class ModelPathError(ModelFileError):
    """A path at which no model file can be read."""

    exit_code = 2
    http_status = 400


class Bytes:
    """Reads ``descriptor`` (of a file of ``size`` bytes, which errors call ``path``) from its beginning."""

    def __init__(self, descriptor: int, size: int, path: str) -> None:
        self.path = path
        self.size = size
        self._descriptor = descriptor
        self._buffer = b""
        self._base = 0
        self._at = 0
        self._strings = 0

    @property
    def position(self) -> int:
        """How far the file has been read."""
        return self._base + self._at

    def damaged(self, what: str, mend: str = AGAIN) -> ModelFileError:
        """The error to raise for what is wrong with this file."""
        return ModelFileError(f"{self.path}: {what}", mend=mend)

    def need(self, count: int) -> None:
        """Have the next ``count`` bytes (few) at hand. Raises ModelFileError where the file or the bound ends."""
        if len(self._buffer) - self._at >= count:
            return
        self._base += self._at
        self._at = 0
        self._buffer = b""
        if self._base + count > self.size:
            raise self.damaged(f"the header is cut short: the file has only {self.size} bytes")
        if self._base + count > MOST_BYTES:
            raise self.damaged(f"the header does not end within {MOST_BYTES // 2**20} MiB")
        try:
            self._buffer = os.pread(self._descriptor, max(count, _CHUNK), self._base)
        except OSError as error:
            raise self.damaged(f"cannot be read: {(error.strerror or str(error)).lower()}", "check the disk") from error
        if len(self._buffer) < count:
            raise self.damaged("became shorter while it was read")

    def values(self, form: struct.Struct) -> tuple[Any, ...]:
        """The next values of ``form``."""
        self.need(form.size)
        found = form.unpack_from(self._buffer, self._at)
        self._at += form.size
        return found

    def string(self, most: int, what: str) -> str:
        """A text of at most ``most`` bytes, UTF-8."""
        (length,) = self.values(_LENGTH)
        if length > most:
            raise self.damaged(f"{what} of {length} bytes")
        self.need(length)
        raw = self._buffer[self._at : self._at + length]
        self._at += length
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"{what} that is no UTF-8") from error

    def text(self, most: int) -> str:
        """A text; of a longer one its first ``most`` bytes, and of what is no UTF-8 what can be shown."""
        (length,) = self.values(_LENGTH)
        kept = min(length, most)
        self.need(kept)
        raw = self._buffer[self._at : self._at + kept]
        self.skip(length)
        return raw.decode("utf-8", "replace")

    def skip(self, count: int) -> None:
        """Leave out ``count`` bytes, however many."""
        self._at += count
        self._check()

    def skip_strings(self, count: int) -> None:
        """Leave out ``count`` texts: the vocabulary, so the loop is kept tight."""
        self._strings += count
        if self._strings > MOST_STRINGS:
            raise self.damaged(f"lists of {self._strings} texts")
        unpack = _LENGTH.unpack_from
        while count:
            self.need(8)
            buffer, at = self._buffer, self._at
            last = len(buffer) - 8
            while count and at <= last:
                at += 8 + unpack(buffer, at)[0]
                count -= 1
            self._at = at
            self._check()

    def _check(self) -> None:
        if self.position > self.size:
            raise self.damaged(f"the header is cut short or damaged: something in it ends beyond byte {self.size}")
