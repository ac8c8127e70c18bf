"""A model in GGUF format: what its header tells, one file or several parts.

Only headers are read (some 50 ms and few megabytes for a large vocabulary), whatever the path names: a FIFO or a device
is refused without being opened, and nothing here waits for anything but the disk.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import NamedTuple

from p104d.engines.gguf_bytes import AGAIN, Bytes, ModelFileError, ModelPathError
from p104d.engines.gguf_header import Header, Listed, Tensor, Value, read_header
from p104d.engines.gguf_types import FILE_TYPES

__all__ = ["Listed", "Model", "ModelFileError", "ModelPathError", "Part", "Tensor", "Value", "read_model"]

#: Models are cut into parts of some gigabytes; more parts than this are damage.
MOST_PARTS = 1000
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.gguf)", re.DOTALL | re.IGNORECASE)
_SPLIT = ("split.no", "split.count", "split.tensors.count")
_KINDS_OF_FILE = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Part(NamedTuple):
    """A file as it was when it was read: what tells whether it is still the same one."""

    path: str
    size: int
    device: int
    inode: int
    modified_ns: int


class Model(NamedTuple):
    """A model as its header tells it; ``parts`` has one file, or all of a split model, the first first."""

    parts: tuple[Part, ...]
    version: int
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]

    @property
    def path(self) -> str:
        """What llama-server is given."""
        return self.parts[0].path

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(part.size for part in self.parts)

    @property
    def architecture(self) -> str:
        """``llama``, ``qwen2``, ...; empty where the header does not tell."""
        return self.text("general.architecture") or ""

    @property
    def file_type(self) -> str | None:
        """How most of it is stored: ``Q8_0``."""
        number = self.metadata.get("general.file_type")
        return FILE_TYPES.get(number) if isinstance(number, int) else None

    @property
    def parameters(self) -> int:
        """How many numbers it was trained to."""
        return sum(tensor.numbers for tensor in self.tensors)

    def text(self, key: str) -> str | None:
        """A text of the metadata, or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


def read_model(path: str) -> Model:
    """The model at ``path`` (of a split one, its first part). Raises ModelFileError: what is wrong, and the mend."""
    part, header = _read(path)
    count = _number(header, "split.count")
    if count <= 1:
        return Model((part,), header.version, header.metadata, header.tensors)
    paths = _paths(path, header, count)
    read = [(part, header), *(_following_part(one, place, count) for place, one in enumerate(paths[1:], 1))]
    return _joined(path, read)


def _read(path: str) -> tuple[Part, Header]:
    descriptor = _open(path)
    try:
        found = os.fstat(descriptor)
        header = read_header(Bytes(descriptor, found.st_size, path))
    finally:
        os.close(descriptor)
    return Part(path, found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns), header


def _open(path: str) -> int:
    try:
        # Looked at before it is opened: opening a tape, a watchdog or a FIFO is an act.
        _regular(path, os.stat(path).st_mode)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        _regular(path, os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _regular(path: str, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise ModelPathError(f"{path}: is a folder", mend="name the GGUF file in it")
    kind = _KINDS_OF_FILE.get(stat.S_IFMT(mode), "no plain file")
    raise ModelPathError(f"{path}: is {kind}, not a file", mend="name a GGUF file")


def _unreadable(path: str, error: OSError | ValueError) -> ModelPathError:
    reason = ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()
    mend = "name a GGUF file"
    if isinstance(error, PermissionError):
        mend = "let this user read it: chmod a+r it, and a+x its folders"
    elif isinstance(error, FileNotFoundError) and os.path.islink(path):
        reason = f"is a link to {os.readlink(path)}, which is not there"
    return ModelPathError(f"{path}: {reason}", mend=mend)


# --- split models ---


def _number(header: Header, key: str) -> int:
    value = header.metadata.get(key, 0)
    return value if isinstance(value, int) else 0


def _paths(path: str, header: Header, count: int) -> list[str]:
    """The paths of all parts, as llama.cpp makes them from the first one's."""
    if count > MOST_PARTS:
        raise ModelFileError(f"{path}: the header is damaged: a model of {count} parts", mend=AGAIN)
    folder, name = os.path.split(path)
    match = _PART.fullmatch(name)
    if match is None or int(match["count"]) != count:
        number = _number(header, "split.no") + 1
        wanted = f"NAME-{number:05d}-of-{count:05d}.gguf"
        raise ModelFileError(f"{path}: is part {number} of {count}, but is not named so", mend=f"rename it to {wanted}")
    names = [f"{match['stem']}-{number:05d}-of-{count:05d}{match['ending']}" for number in range(1, count + 1)]
    if _number(header, "split.no") != 0 or int(match["number"]) != 1:
        raise ModelFileError(f"{path}: is not the first part of its model", mend=f"name {names[0]}")
    return [os.path.join(folder, one) for one in names]


def _following_part(path: str, place: int, count: int) -> tuple[Part, Header]:
    try:
        part, header = _read(path)
    except ModelPathError as error:
        raise ModelFileError(f"a part of the model is missing: {error.message}", mend="fetch all parts") from error
    if _number(header, "split.count") != count or _number(header, "split.no") != place:
        raise ModelFileError(f"{path}: is not part {place + 1} of {count} of this model", mend="fetch all parts again")
    return part, header


def _joined(path: str, read: Iterable[tuple[Part, Header]]) -> Model:
    parts, headers = zip(*read, strict=True)
    first: Header = headers[0]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    wanted = _number(first, "split.tensors.count")
    if (wanted and wanted != len(tensors)) or len({tensor.name for tensor in tensors}) != len(tensors):
        what = f"{path}: its parts have {len(tensors)} tensors, not the {wanted or 'different ones'} they should"
        raise ModelFileError(what, mend="fetch all parts again, of one model")
    metadata = {key: value for key, value in first.metadata.items() if key not in _SPLIT}
    return Model(parts, first.version, metadata, tensors)
