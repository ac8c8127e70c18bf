"""What a submission carries besides its documents: the caller's folder, umask, chosen variables."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from p104d.core.errors import UsageError

#: The daemon's own limit (16 MiB a submission), kept here too so that a wrong file costs no memory on either side.
SUBMISSION_LIMIT_BYTES = 16 * 2**20

#: What JSON may hold as it is but YAML must have escaped: other line ends, and what YAML calls not printable.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def read_documents(files: Sequence[str]) -> list[dict[str, str]]:
    """The files (``-``: standard input) as the wire carries them.

    Raises UsageError naming the file that cannot be read, is not UTF-8, or makes the submission too large.
    """
    left, documents = SUBMISSION_LIMIT_BYTES, []
    for file in files:
        raw = _read(file, left + 1)
        left -= len(raw)
        if left < 0:
            raise UsageError(f"{file}: the submission is larger than 16 MiB", mend="submit it in parts")
        documents.append({"file": _utf8(file, "a file's name"), "text": _decode(file, raw)})
    return documents


def _read(file: str, limit: int) -> bytes:
    try:
        if file == "-":
            return sys.stdin.buffer.read(limit) if sys.stdin is not None else b""
        with open(file, "rb") as stream:
            return stream.read(limit)
    except OSError as error:
        raise UsageError(f"{file}: {(error.strerror or str(error)).lower()}", mend="name a readable file") from error


def _decode(file: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{file}:{line}: not UTF-8", mend="save it as UTF-8") from error


def envelope(
    documents: Sequence[Mapping[str, str]], settings: Sequence[str] = (), keep_env: Sequence[str] = ()
) -> dict[str, Any]:
    """The body of a submission. Raises UsageError for what the caller's surroundings do not have."""
    for setting in settings:
        if "=" not in setting or setting.startswith("="):
            raise UsageError(f"--set {setting}: no value", mend="write it as --set key=value")
        _utf8(setting, "--set")
    return {
        "documents": list(documents),
        "set": list(settings),
        "cwd": _cwd(),
        "keep_env": {name: _variable(name) for name in keep_env},
        "umask": _umask(),
    }


def _cwd() -> str:
    try:
        return _utf8(os.getcwd(), "the current folder's name")
    except OSError as error:
        raise UsageError("the current folder is gone", mend="cd to one that exists") from error


def _umask() -> int:
    # The only way to read it is to set it; p104ctl has one thread, so nobody notices.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise UsageError(f"--keep-env {name}: not set here", mend=f"export {name} first, or leave the option out")
    return _utf8(value, f"--keep-env {name}")


def _utf8(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: not UTF-8", mend="a job's description is UTF-8 text") from error
    return text


def yaml_text(document: Mapping[str, Any]) -> str:
    """``document`` as YAML: JSON, with what YAML reads differently escaped. Raises UsageError if not UTF-8."""
    import json

    text = _utf8(json.dumps(document, ensure_ascii=False), "the command line")
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    """``K=V`` options as a mapping. Raises UsageError for one without ``=``."""
    found = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {value}: no value", mend=f"write it as {option} KEY=VALUE")
        found[key] = rest
    return found
