"""Which model a job loaded, as llama.cpp and stable-diffusion.cpp say it."""

from __future__ import annotations

import re
from typing import ClassVar

#: A path ends at a quote, or where the loader's own words go on; within, blanks are the file's.
_FILES = tuple(
    re.compile(pattern)
    for pattern in (
        rb"loaded meta data with \d{1,9} key-value pairs and \d{1,9} tensors from (?P<path>.{1,1024}?) \(version ",
        rb"(?:load_model: |\] {1,8}\S{0,64} {0,8}- |^)loading (?:diffusion )?model(?: from)? "
        rb"['\"](?P<path>[^'\"]{1,1024})['\"]",
        rb'"model_filename"\s{0,8}:\s{0,8}"(?P<path>(?:[^"\\]|\\.){1,1024})"',
        rb"^model {1,8}: (?P<path>\S.{0,1023}\.gguf)\s*$",
    )
)
_NAME = re.compile(rb"general\.name {0,32}(?:str {0,32})?= {0,32}(?P<name>\S.{0,199})")
_SUFFIXES = (".gguf", ".safetensors", ".ckpt", ".bin", ".pt", ".pth")
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_MOST_CHARS = 200


class ModelReader:
    """The first model that was loaded (a draft model and projectors come later): its file's name without folder, ending
    and part number, else the name that it has in its own header. ``model`` is None while neither was printed."""

    needles: ClassVar[tuple[tuple[bytes, bytes], ...]] = (
        (b"'", b"loading "),
        (b"(", b"loaded meta data"),
        (b'"', b'"model_filename"'),
        (b":", b"model      :"),
        (b"=", b"general.name"),
    )

    def __init__(self) -> None:
        self._file: str | None = None
        self._name: str | None = None

    @property
    def model(self) -> str | None:
        """What was loaded."""
        return self._file or self._name

    def read_line(self, line: bytes) -> None:
        """Take one line."""
        if self._file is None:
            match = next((found for pattern in _FILES if (found := pattern.search(line))), None)
            if match is not None:
                self._file = model_of(_text(match["path"]))
                return
        if self._name is None and (named := _NAME.search(line)):
            self._name = _text(named["name"]) or None


def model_of(path: str) -> str | None:
    """``qwen2-7b-q8_0`` of ``/models/qwen2-7b-q8_0-00001-of-00002.gguf``; None where nothing is left."""
    name = re.split(r"[/\\]", path.strip())[-1]
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return _PART.sub("", name)[:_MOST_CHARS].strip() or None


def _text(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip()
    return "".join(char for char in text if char.isprintable())[:1024]
