"""The header of one GGUF file: metadata and the table of tensors, without the tensors themselves.

Versions 2 and 3, little endian: what llama.cpp reads. A file is anybody's, so every length is bounded and whatever is
wrong ends in a ModelFileError. Format: ggml's ``docs/gguf.md``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from p104d.engines.gguf_bytes import AGAIN, Bytes
from p104d.engines.gguf_types import KINDS, LARGEST_NUMBER, REMOVED

#: Real models have some 60 keys, and a few thousand tensors (13,000 where each expert is one of its own).
MOST_KEYS = 4096
MOST_TENSORS = 32_768
MOST_DIMENSIONS = 4
#: Longer texts (chat templates, licences) are cut: nothing here asks for them.
KEPT_TEXT = 1024
#: Lists of numbers up to this length are kept: those with a value for each layer. Scores of tokens are not.
KEPT_LIST = 1024
#: Of all kept lists together: memory stays small whatever a header holds.
KEPT_NUMBERS = 65_536
_MOST_KEY, _MOST_NAME = 1024, 256
_DEFAULT_ALIGNMENT = 32
_NUMBERS = {
    kind: struct.Struct("<" + code)
    for kind, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_TEXT, _LIST = 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_START = struct.Struct("<4sI")
_COUNTS = struct.Struct("<QQ")
_ARRAY = struct.Struct("<IQ")
_PLACE = struct.Struct("<IQ")

_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"\0\0\0\0", "begins with zeros, so its data is not there (a download that has not begun?)", AGAIN),
    (b"vers", "is a pointer of Git LFS, not the model", "fetch the model itself: git lfs pull"),
    (b"<!DO", "is a web page, not a model", "download the file itself, not the page about it"),
    (b"<htm", "is a web page, not a model", "download the file itself, not the page about it"),
    (b"PK\x03\x04", "is a PyTorch or zip file", "convert it with llama.cpp's convert_hf_to_gguf.py"),
    (b"lmgg", "is an old GGML file", "download it as GGUF"),
    (b"tjgg", "is an old GGML file", "download it as GGUF"),
    (b"fmgg", "is an old GGML file", "download it as GGUF"),
)


class Listed(NamedTuple):
    """A list that was not kept: how many there are of what (8: texts)."""

    kind: int
    length: int


Value: TypeAlias = int | float | bool | str | tuple[int | float | bool, ...] | Listed


class Tensor(NamedTuple):
    """One tensor: its numbers take ``size`` bytes from ``offset`` on, counted from where the data begin.

    ``known`` is False where the kind of numbers is newer than our table: then ``size`` is the room it has.
    """

    name: str
    dimensions: tuple[int, ...]
    kind: int
    offset: int
    size: int
    known: bool = True

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        found = 1
        for one in self.dimensions:
            found *= one
        return found


class Header(NamedTuple):
    """What one file says of itself; ``end`` is where the last tensor's data end."""

    version: int
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    end: int


def read_header(source: Bytes) -> Header:
    """The header that ``source`` begins with. Raises ModelFileError."""
    version = _version(source)
    tensor_count, key_count = source.values(_COUNTS)
    if key_count > MOST_KEYS or tensor_count > MOST_TENSORS:
        raise source.damaged(f"the header is damaged: it tells of {key_count} keys and {tensor_count} tensors")
    metadata = _metadata(source, key_count)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or not _is_power(alignment):
        raise source.damaged(f"the header is damaged: an alignment of {alignment!r}")
    table = [_entry(source) for _ in range(tensor_count)]
    start = -(-source.position // alignment) * alignment
    tensors = _measured(source, table, start, alignment)
    end = max((start + one.offset + one.size for one in tensors), default=source.position)
    if end > source.size:
        raise source.damaged(f"the file is cut short: it has {source.size} of {end} bytes")
    return Header(version, metadata, tensors, end)


def _version(source: Bytes) -> int:
    if source.size < _START.size:
        raise source.damaged("is empty" if not source.size else f"is no GGUF file: it has {source.size} bytes")
    magic, version = source.values(_START)
    if magic != b"GGUF":
        for begin, what, mend in _OTHERS:
            if magic == begin:
                raise source.damaged(what, mend)
        raise source.damaged("is no GGUF file", "name a model in GGUF format")
    if version & 0xFFFF == 0:
        raise source.damaged("is a big-endian GGUF file", "convert it with llama.cpp's gguf_convert_endian.py")
    if version == 1:
        raise source.damaged("is GGUF version 1, of 2023, which llama.cpp reads no more", "download it as version 3")
    if version not in (2, 3):
        raise source.damaged(f"is GGUF version {version}, but only 2 and 3 are known", "update p104d")
    return int(version)


def _is_power(number: int) -> bool:
    return 0 < number <= 2**20 and number & (number - 1) == 0


def _metadata(source: Bytes, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    room = KEPT_NUMBERS
    for _ in range(count):
        key = source.string(_MOST_KEY, "the header is damaged: a key")
        if key in found:
            raise source.damaged(f"the header is damaged: {key!r} stands in it twice")
        (kind,) = source.values(_U32)
        value = found[key] = _value(source, key, kind, room)
        room -= len(value) if isinstance(value, tuple) and not isinstance(value, Listed) else 0
    return found


def _value(source: Bytes, key: str, kind: int, room: int) -> Value:
    if kind == _TEXT:
        return source.text(KEPT_TEXT)
    if kind == _LIST:
        return _list(source, key, min(room, KEPT_LIST))
    form = _NUMBERS.get(kind)
    if form is None:
        raise source.damaged(f"the header is damaged: {key!r} is of an unknown type {kind}")
    value: int | float | bool = source.values(form)[0]
    return value


def _list(source: Bytes, key: str, most: int) -> Value:
    kind, count = source.values(_ARRAY)
    if kind == _TEXT:
        source.skip_strings(count)
        return Listed(kind, count)
    form = _NUMBERS.get(kind)
    if form is None:
        what = "a list of lists" if kind == _LIST else f"a list of an unknown type {kind}"
        raise source.damaged(f"the header is damaged: {key!r} is {what}, which llama.cpp does not read either")
    if count > most:
        source.skip(count * form.size)
        return Listed(kind, count)
    return tuple(source.values(form)[0] for _ in range(count))


# --- the table of tensors ---


def _entry(source: Bytes) -> Tensor:
    """A tensor as the table has it; what it takes is worked out when all are known."""
    name = source.string(_MOST_NAME, "the table of tensors is damaged: a name")
    (dimensions,) = source.values(_U32)
    if dimensions > MOST_DIMENSIONS:
        raise source.damaged(f"the table of tensors is damaged: {name!r} has {dimensions} dimensions")
    shape = tuple(source.values(_U64)[0] for _ in range(dimensions))
    kind, offset = source.values(_PLACE)
    return Tensor(name, shape, kind, offset, 0)


def _measured(source: Bytes, table: list[Tensor], start: int, alignment: int) -> tuple[Tensor, ...]:
    if len({one.name for one in table}) < len(table):
        raise source.damaged("the table of tensors is damaged: a name stands in it twice")
    for one in table:
        if one.offset % alignment:
            raise source.damaged(f"the table of tensors is damaged: {one.name!r} begins at {one.offset}")
    following = _following(table, max(0, source.size - start))
    return tuple(_with_size(source, one, following) for one in table)


def _following(table: list[Tensor], end: int) -> dict[int, int]:
    """Where each tensor's room ends: at the next one's beginning."""
    offsets = sorted({one.offset for one in table})
    return dict(zip(offsets, [*offsets[1:], end], strict=True)) if offsets else {}


def _with_size(source: Bytes, one: Tensor, following: dict[int, int]) -> Tensor:
    if one.kind in REMOVED:
        what = f"{one.name!r} is stored in a kind (number {one.kind}) that llama.cpp reads no more"
        raise source.damaged(what, "download the model in another quantisation, such as Q8_0")
    kind = KINDS.get(one.kind)
    if kind is None:
        if one.kind > LARGEST_NUMBER:
            raise source.damaged(f"the table of tensors is damaged: {one.name!r} is of kind {one.kind}")
        return one._replace(size=max(0, following[one.offset] - one.offset), known=False)
    if one.dimensions and one.dimensions[0] % kind.block:
        raise source.damaged(
            f"the table of tensors is damaged: {one.name!r} has rows of {one.dimensions[0]} {kind.name}"
        )
    return one._replace(size=kind.bytes_of(one.numbers))
