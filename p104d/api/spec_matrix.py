"""``matrix:``: its combinations, and the caps on what ``${matrix.KEY}`` makes of a specification."""

from __future__ import annotations

import re
from itertools import product
from math import prod

from p104d.api.spec_values import MAX_STRING_BYTES, Field, suggest, text_of
from p104d.core.matrix import PREFIX, REFERENCE

MAX_MATRIX_KEYS = 16
MAX_JOBS = 100_000
MAX_VALUE_BYTES = 4096
#: Every job keeps its combination; this bounds what one submission writes for them.
MAX_COMBINATION_BYTES = 32 * 2**20
MAX_ARGV_BYTES = 128 * 1024
MAX_ENV_BYTES = 64 * 1024

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)


def read_matrix(field: Field) -> dict[str, tuple[str, ...]]:
    """The lists of values by key, in the order written. Raises RefusedError."""
    example = "write matrix: {seed: [1, 2, 3]}"
    matrix: dict[str, tuple[str, ...]] = {}
    for key, entry in field.entries(example, MAX_MATRIX_KEYS):
        if not _KEY.fullmatch(key):
            raise entry.error("not a matrix key", "use letters, digits, _ and -, beginning with a letter")
        items = entry.items(f"write {entry.path}: [1, 2, 3]", MAX_JOBS)
        matrix[key] = tuple(_value(item) for item in items)
        if not matrix[key]:
            raise entry.error("an empty list makes no job", f"write {entry.path}: [1, 2, 3]")
    if not matrix:
        raise field.error("an empty matrix", f"{example}, or leave the key out")
    count = job_count(matrix)
    if count > MAX_JOBS:
        raise field.error(f"{count} combinations, more than the {MAX_JOBS} allowed", "submit in several steps")
    if combination_bytes(matrix) > MAX_COMBINATION_BYTES:
        raise field.error("its combinations take more than 32 MiB", "shorten the values")
    return matrix


def _value(item: Field) -> str:
    text = text_of(item, "text or a number", "write a word, a number or quoted text", booleans=True)
    if len(text.encode()) > MAX_VALUE_BYTES:
        raise item.error(f"longer than {MAX_VALUE_BYTES} bytes", "put it in a file and name the file")
    return text


def job_count(matrix: dict[str, tuple[str, ...]]) -> int:
    """How many jobs a matrix makes; 1 where there is none."""
    return prod(len(values) for values in matrix.values())


def combination_bytes(matrix: dict[str, tuple[str, ...]]) -> int:
    """Bytes of keys and values over all combinations, without making them."""
    count = job_count(matrix)
    return sum(
        count * len(key) + count // len(values) * sum(len(value.encode()) for value in values)
        for key, values in matrix.items()
    )


def combinations(matrix: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """One dict a job; the last key varies fastest. ``[{}]`` where there is no matrix."""
    keys = tuple(matrix)
    return [dict(zip(keys, values, strict=True)) for values in product(*matrix.values())]


def expanded_bytes(text: str, matrix: dict[str, tuple[str, ...]]) -> int:
    """The most bytes that ``text`` takes under any combination. Raises KeyError for an unknown matrix key."""
    size = len(text.encode())
    if PREFIX not in text:
        return size
    for match in REFERENCE.finditer(text):
        size += max(len(value.encode()) for value in matrix[match[1]]) - len(match[0].encode())
    return size


def check_expansion(field: Field, texts: list[str], matrix: dict[str, tuple[str, ...]], limit: int) -> None:
    """Refuse an unknown ``${matrix.KEY}`` in ``texts``, and texts too long once substituted."""
    longest = longest_values(matrix)
    total = 0
    for text in texts:
        size = known_bytes(field, text, longest)
        if size > MAX_STRING_BYTES:
            raise field.error(f"an entry longer than {MAX_STRING_BYTES // 1024} KiB", "put it in a file")
        total += size + 1
    if total > limit:
        raise field.error(f"longer than {limit // 1024} KiB in all", "put it in a file")


def longest_values(matrix: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The longest value of each key: together they make the longest of every text."""
    return {key: (max(values, key=lambda value: len(value.encode())),) for key, values in matrix.items()}


def known_bytes(field: Field, text: str, matrix: dict[str, tuple[str, ...]]) -> int:
    """``expanded_bytes`` of a text of ``field``. Raises RefusedError for an unknown matrix key."""
    try:
        return expanded_bytes(text, matrix)
    except KeyError as error:
        key = str(error.args[0])
        known = ", ".join(matrix) if matrix else ""
        mend = suggest(key, matrix, f"the matrix has {known}" if known else f"write matrix: {{{key}: [...]}}")
        raise field.error(f"${{matrix.{key}}} is not in the matrix", mend) from None
