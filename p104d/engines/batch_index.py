"""Which requests a batch has and which are done, a million of them in 50 MB: ids are kept as 64-bit hashes.

Python's own hash of text is keyed and 64 bits wide: that two of a million ids share one has odds of 1 to 30 million;
such a pair would be refused as a duplicate.
"""

from __future__ import annotations

from array import array

_SMALLEST = 1024
_MASK = (1 << 64) - 1


class Index:
    """custom_id -> its line, the check of its words, and whether it is done. Open addressing in flat arrays."""

    def __init__(self) -> None:
        self._used = 0
        self.done = 0
        self._clear(_SMALLEST)

    def __len__(self) -> int:
        return self._used

    def add(self, custom_id: str, line: int, check: int) -> int:
        """Returns 0, or the line that has this id already (lines count from 1)."""
        if self._used * 3 >= self._size * 2:
            self._grow()
        key = hash(custom_id) & _MASK
        slot = self._slot(key)
        if self._lines[slot]:
            return self._lines[slot]
        self._put(slot, key, line, check, 0)
        self._used += 1
        return 0

    def mark(self, custom_id: str, check: int | None, done: bool) -> bool:
        """Note that an id is done, or not any more; nothing happens for one that is not here or was asked in other
        words (``check`` None: nobody knows in which). Returns whether it is here."""
        slot = self._slot(hash(custom_id) & _MASK)
        if not self._lines[slot]:
            return False
        if check is None or check == self._checks[slot]:
            self.done += done - self._done[slot]
            self._done[slot] = done
        return True

    def is_done(self, custom_id: str) -> bool:
        """Whether it is here and done."""
        return bool(self._done[self._slot(hash(custom_id) & _MASK)])

    def line_of(self, custom_id: str) -> int:
        """The line that has this id; 0: none."""
        return self._lines[self._slot(hash(custom_id) & _MASK)]

    def _clear(self, size: int) -> None:
        self._size = size
        self._keys = array("Q", bytes(8 * size))
        self._lines = array("Q", bytes(8 * size))
        self._checks = array("I", bytes(4 * size))
        self._done = bytearray(size)

    def _slot(self, key: int) -> int:
        """Where ``key`` is, or where it would go; a line of 0 is an empty place."""
        mask = self._size - 1
        slot = key & mask
        keys, lines = self._keys, self._lines
        while lines[slot] and keys[slot] != key:
            slot = (slot + 1) & mask
        return slot

    def _put(self, slot: int, key: int, line: int, check: int, done: int) -> None:
        self._keys[slot], self._lines[slot], self._checks[slot], self._done[slot] = key, line, check, done

    def _grow(self) -> None:
        old = self._keys, self._lines, self._checks, self._done
        self._clear(self._size * 2)
        for key, line, check, done in zip(*old, strict=True):
            if line:
                self._put(self._slot(key), key, line, check, done)
