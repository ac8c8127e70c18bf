"""A chunk: some rows of whole numbers, column by column, in few bytes. The form in which telemetry is kept.

Readings waver about a level, or stand still for hours. So a column is kept as offsets from its least value or as
differences from row to row, whichever deflates better, in the narrowest width that holds them, the bytes of a width in
planes; one that does not change costs its head alone. Short chunks are not deflated: they live for an hour.

    version u8, rows u32, columns u16, per column: key u16, form u8, base i64, length u32; the bodies; CRC-32 u32

``form`` is a width (0: constant, 1, 2, 4, 8) and flags. Where a value is absent, the body begins with the length (u32)
and bytes of a deflated map, a byte a row, and the values are those of the rows that have one. All little-endian.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, compress, pairwise

Column = Sequence[int | None]

_VERSION = 1
_HEAD = struct.Struct("<BIH")
_COLUMN = struct.Struct("<HBqI")
_LENGTH = struct.Struct("<I")
_WIDTH, _DELTA, _DEFLATED, _PARTIAL = 0x0F, 0x10, 0x20, 0x40
_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}
_SIGNED = {1: "b", 2: "h", 4: "i", 8: "q"}
#: Below this many values deflating costs more time than the hour until compaction is worth.
_WORTH_DEFLATING = 120
#: A chunk claims no more rows than this: a day of five samples a second.
_MOST_ROWS = 500_000


class ChunkError(ValueError):
    """A chunk that is not what was written: damaged, or of a later release."""


def encode(columns: Mapping[int, Column]) -> bytes:
    """A chunk of these columns, by key (0..65535), all of one length. A column without any value is left out."""
    rows = max(map(len, columns.values()), default=0)
    heads, bodies = [], []
    for key, values in columns.items():
        assert len(values) == rows, "columns of one chunk have one length"
        made = _encode_column(values)
        if made is not None:
            form, base, body = made
            heads.append(_COLUMN.pack(key, form, base, len(body)))
            bodies.append(body)
    chunk = b"".join((_HEAD.pack(_VERSION, rows, len(heads)), *heads, *bodies))
    return chunk + _LENGTH.pack(zlib.crc32(chunk))


def _encode_column(values: Column) -> tuple[int, int, bytes] | None:
    present = [value for value in values if value is not None]
    if not present:
        return None
    flags, prefix = 0, b""
    if len(present) < len(values):
        chart = zlib.compress(bytes(value is not None for value in values), 9)
        flags, prefix = _PARTIAL, _LENGTH.pack(len(chart)) + chart
    form, base, body = _encode_values(present)
    return form | flags, base, prefix + body


def _encode_values(values: list[int]) -> tuple[int, int, bytes]:
    least, most = min(values), max(values)
    if least == most:
        return 0, least, b""
    width = next((w for w in _UNSIGNED if most - least < 1 << 8 * w), 8)
    flat = _planes(array(_UNSIGNED[width], [value - least for value in values]))
    differences = [after - before for before, after in pairwise(values)]
    step = max(max(differences), -1 - min(differences))
    delta_width = next((w for w in _SIGNED if step < 1 << 8 * w - 1), 8)
    steps = _planes(array(_SIGNED[delta_width], differences))
    choices = ((width, least, flat), (delta_width | _DELTA, values[0], steps))
    if len(values) >= _WORTH_DEFLATING:
        choices = tuple((form | _DEFLATED, base, _deflate(body)) for form, base, body in choices)  # type: ignore[assignment]
    (_, _, plain), (_, _, stepped) = choices
    # Offsets are read twice as fast: steps have to be a sixth smaller to be worth it.
    return choices[len(stepped) < len(plain) * 5 / 6]


def _deflate(body: bytes) -> bytes:
    # Z_FILTERED fits small values that vary at random: 5 % less than the default on readings of cards.
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_FILTERED)
    return deflater.compress(body) + deflater.flush()


def _planes(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    body, width = values.tobytes(), values.itemsize
    return body if width == 1 else b"".join(body[plane::width] for plane in range(width))


def _from_planes(body: bytes, code: str, count: int) -> array[int]:
    values = array(code)
    width = values.itemsize
    if len(body) != count * width:
        raise ChunkError(f"a column has {len(body)} bytes instead of {count * width}")
    if width > 1:
        mixed = bytearray(len(body))
        for plane in range(width):
            mixed[plane::width] = body[plane * count : (plane + 1) * count]
        body = bytes(mixed)
    values.frombytes(body)
    if sys.byteorder == "big":
        values.byteswap()
    return values


class Chunk:
    """A chunk opened for reading; columns are decoded as they are asked for. Raises ChunkError for a damaged one."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEAD.size + _LENGTH.size or zlib.crc32(data[:-4]) != _LENGTH.unpack(data[-4:])[0]:
            raise ChunkError("its checksum is wrong")
        version, self.rows, count = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise ChunkError(f"it has version {version}, which this p104d does not know")
        if self.rows > _MOST_ROWS:
            raise ChunkError(f"it claims {self.rows} rows")
        self._data = data
        self._columns: dict[int, tuple[int, int, int, int]] = {}
        at, body = _HEAD.size, _HEAD.size + count * _COLUMN.size
        for _ in range(count):
            key, form, base, length = _COLUMN.unpack_from(data, at)
            self._columns[key] = (form, base, body, length)
            at, body = at + _COLUMN.size, body + length

    @property
    def keys(self) -> Sequence[int]:
        """The keys of the columns that have any value."""
        return list(self._columns)

    def column(self, key: int) -> list[int | None]:
        """All rows of a column; None where there is no value. A column that is not there is all None."""
        found = self._columns.get(key)
        if found is None:
            return [None] * self.rows
        form, base, at, length = found
        body, count = self._data[at : at + length], self.rows
        if not form & _PARTIAL:
            return list(self._values(form, base, body, count))
        chart, body = self._chart(body)
        values = iter(self._values(form, base, body, sum(chart)))
        return [next(values) if there else None for there in chart]

    def scaled(self, key: int, times: int, parts: int) -> tuple[list[float], bytes | None]:
        """The values of a column that are there, each times ``times`` and divided by ``parts``, and the rows they are
        of, a byte a row (None: all of them)."""
        if key not in self._columns:
            return [], bytes(self.rows)
        form, base, at, length = self._columns[key]
        body, count, chart = self._data[at : at + length], self.rows, None
        if form & _PARTIAL:
            chart, body = self._chart(body)
            count = sum(chart)
        if times == 1 and form & _DELTA and form & _WIDTH == 1 and not parts & (parts - 1):
            # Times, most of all. Sums of fractions of two are exact.
            steps = map(_steps_worth(parts).__getitem__, self._bytes(form, body, count - 1))
            return list(accumulate(steps, initial=base / parts)), chart
        if form & _WIDTH == 0 or form & _DELTA:
            return _worth(self._values(form, base, body, count), 0, times, parts), chart
        return _worth(self._offsets(form, body, count), base, times, parts), chart

    def _bytes(self, form: int, body: bytes, size: int) -> bytes:
        if form & _DEFLATED:
            return _inflate(body, size, -15)
        if len(body) != size:
            raise ChunkError(f"a column has {len(body)} bytes instead of {size}")
        return body

    def _chart(self, body: bytes) -> tuple[bytes, bytes]:
        (size,) = _LENGTH.unpack_from(body)
        return _inflate(body[4 : 4 + size], self.rows, zlib.MAX_WBITS), body[4 + size :]

    def _values(self, form: int, base: int, body: bytes, count: int) -> Sequence[int]:
        width = form & _WIDTH
        if width == 0:
            return [base] * count
        if form & _DELTA:
            steps = _from_planes(self._bytes(form, body, (count - 1) * width), _SIGNED[width], count - 1)
            return list(accumulate(steps, initial=base))
        offsets = self._offsets(form, body, count)
        return list(map(base.__add__, offsets)) if base else offsets

    def _offsets(self, form: int, body: bytes, count: int) -> Sequence[int]:
        """What the values of a column without steps are above its base."""
        width = form & _WIDTH
        body = self._bytes(form, body, count * width)
        return body if width == 1 else _from_planes(body, _UNSIGNED[width], count)


@lru_cache(maxsize=4)
def _steps_worth(parts: int) -> list[float]:
    """What each byte of a column of steps adds."""
    return [(step if step < 128 else step - 256) / parts for step in range(256)]


def _worth(offsets: Sequence[int], base: int, times: int, parts: int) -> list[float]:
    """``base`` and each of ``offsets`` in units. Readings repeat: each is reckoned once, then looked up."""
    if parts > 1:
        worth: dict[int, float] = {offset: (base + offset) * times / parts for offset in set(offsets)}
    else:
        worth = {offset: (base + offset) * times for offset in set(offsets)}
    return list(map(worth.__getitem__, offsets))


def _inflate(body: bytes, size: int, bits: int) -> bytes:
    """Exactly ``size`` bytes; never more memory than that, whatever the body claims."""
    try:
        found = zlib.decompressobj(bits).decompress(body, size + 1)
    except zlib.error as error:
        raise ChunkError(str(error)) from None
    if len(found) != size:
        raise ChunkError(f"a column inflates to {len(found)} bytes instead of {size}")
    return found


def in_order(columns: Mapping[int, Column], key: int) -> Mapping[int, Column]:
    """The rows in the order of the column ``key``; of rows alike there, the order they were in."""
    order = columns[key]
    if all(before <= after for before, after in pairwise(order)):  # type: ignore[operator]
        return columns
    places = sorted(range(len(order)), key=order.__getitem__)  # type: ignore[arg-type]
    return {each: [values[place] for place in places] for each, values in columns.items()}


def joined(chunks: Sequence[Chunk], key: int) -> dict[int, Column]:
    """The rows of all ``chunks`` as columns, in the order of the column ``key``; of rows alike there, the order of the
    chunks. Rows without a value for ``key`` are left out."""
    keys = sorted({each for chunk in chunks for each in chunk.keys})
    columns: dict[int, Column] = {each: [value for chunk in chunks for value in chunk.column(each)] for each in keys}
    order = columns.get(key, [])
    if None in order:
        kept = [value is not None for value in order]
        columns = {each: list(compress(values, kept)) for each, values in columns.items()}
        order = columns[key]
    return dict(in_order(columns, key)) if columns else columns
