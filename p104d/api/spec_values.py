"""One field of a document: where it stands, how it is complained about, and readers for each type of value.

Every reader raises RefusedError with one line: ``file:line: path: "what is written" is not ...; what to write``.
Text is taken as written: a number where text is wanted keeps its spelling. Booleans are text only where a reader is
told so, and nothing (YAML's null) is never a value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches
from typing import TypeVar

import msgspec

from p104d.api.yaml_nodes import Kind, Mapping, Node, Scalar, Sequence, place, printable
from p104d.core.errors import RefusedError
from p104d.core.units import parse_duration, parse_size

#: One string of a document. Linux takes 128 KiB for one argument of exec; half of it is beyond any honest use.
MAX_STRING_BYTES = 64 * 1024
#: As long as Linux takes it.
MAX_PATH_BYTES = 4096
#: Of an error's words; those that are ours alone are shorter.
MAX_PROBLEM_CHARS = 1000
#: Longer than any number, size or duration that could be in range.
MAX_FIGURE_CHARS = 64

_TEXT = frozenset({Kind.STR, Kind.INT, Kind.FLOAT})
_T = TypeVar("_T")


class Field(msgspec.Struct, frozen=True):
    """A node with its path (``env.STEPS``, ``measure[0].pattern``), its file and line, and the --set option that put
    it there, where one did."""

    node: Node
    path: str
    file: str
    line: int
    source: str | None = None

    @property
    def where(self) -> str:
        """The place as errors begin: ``job.yaml:7`` or ``--set cards=two``."""
        return self.source or place(self.file, self.line)

    def error(self, problem: str, mend: str) -> RefusedError:
        """The error that says ``problem`` of this field; what either quotes of the document drives no terminal."""
        line = f"{self.where}: {printable(self.path)}: {printable(problem, MAX_PROBLEM_CHARS)}"
        return RefusedError(line, mend=printable(mend, MAX_PROBLEM_CHARS))

    def wrong(self, expected: str, mend: str) -> RefusedError:
        """The error that says what is written here is not ``expected``."""
        if self.kind() is Kind.NULL:
            return self.error("no value", f"{mend}, or leave the key out")
        return self.error(f"{self.shown()} is not {expected}", mend)

    def kind(self) -> Kind | None:
        """What the scalar here is; None for a list or mapping."""
        return self.node.kind if isinstance(self.node, Scalar) else None

    def is_list(self) -> bool:
        """Whether a list is written here."""
        return isinstance(self.node, Sequence)

    def shown(self) -> str:
        """What is written here, short enough for a message."""
        if isinstance(self.node, Sequence):
            return "a list"
        if isinstance(self.node, Mapping):
            return "a mapping"
        text = printable(self.node.text, 60)
        return f'"{text}"' if self.node.kind is Kind.STR else text

    def items(self, mend: str, limit: int) -> Iterator[Field]:
        """The items of a list of at most ``limit``."""
        if not isinstance(self.node, Sequence):
            raise self.wrong("a list", mend)
        self._bound(len(self.node.items), "items", limit)
        return (
            Field(node, f"{self.path}[{i}]", self.file, node.line, self.source)
            for i, node in enumerate(self.node.items)
        )

    def items_or_one(self, mend: str, limit: int) -> Iterator[Field]:
        """The items of a list, or the field itself where it is a single value."""
        return iter((self,)) if isinstance(self.node, Scalar) else self.items(mend, limit)

    def entries(self, mend: str, limit: int) -> Iterator[tuple[str, Field]]:
        """Key and field for each entry of a mapping of at most ``limit``."""
        if not isinstance(self.node, Mapping):
            raise self.wrong("a mapping", mend)
        self._bound(len(self.node.items), "entries", limit)
        mapping = self.node
        return ((key, self._entry(mapping, key)) for key in mapping.items)

    def _entry(self, mapping: Mapping, key: str) -> Field:
        source = mapping.sources.get(key) or self.source
        path = f"{self.path}.{key}" if self.path else key
        return Field(mapping.items[key], path, self.file, mapping.lines.get(key, 0), source)

    def _bound(self, count: int, what: str, limit: int) -> None:
        if count > limit:
            raise self.error(f"{count} {what}, more than the {limit} allowed", "shorten it")


def text_of(field: Field, expected: str, mend: str, *, booleans: bool = False) -> str:
    """The text of a scalar as written, without NUL, at most MAX_STRING_BYTES."""
    kind = field.kind()
    if kind is Kind.BOOL and not booleans:
        raise field.error(f"{field.shown()} is a boolean, not {expected}", f'quote it: "{field.shown()}"')
    if not isinstance(field.node, Scalar) or (kind not in _TEXT and kind is not Kind.BOOL):
        raise field.wrong(expected, mend)
    problem = string_problem(field.node.text)
    if problem:
        raise field.error(problem, "shorten it, or remove the character")
    return field.node.text


def path_of(field: Field, expected: str, mend: str) -> str:
    """A path as written: not empty, of printable characters, no ``~``."""
    text = text_of(field, expected, mend)
    if not text or not text.isprintable():
        raise field.wrong(expected, mend)
    if text.startswith("~"):
        raise field.error(f"{field.shown()}: ~ is not expanded", mend)
    return text


def string_problem(text: str) -> str | None:
    """Why ``text`` cannot be an argument or variable of a process; None: it can."""
    if "\0" in text:
        return "a NUL character"
    if len(text) <= MAX_STRING_BYTES // 4:
        return None
    return f"longer than {MAX_STRING_BYTES // 1024} KiB" if len(text.encode()) > MAX_STRING_BYTES else None


def line_of(field: Field, expected: str, mend: str, limit: int, forbidden: str = "") -> str:
    """Text of 1 to ``limit`` printable characters with no space at its ends and none of ``forbidden``."""
    text = text_of(field, expected, mend, booleans=True)
    problem = line_problem(text, limit, forbidden)
    if problem:
        raise field.error(f"{field.shown()} {problem}", mend)
    return text


def line_problem(text: str, limit: int, forbidden: str = "") -> str | None:
    """Why ``text`` cannot be shown as a name; None: it can."""
    if not text or text != text.strip():
        return "is empty" if not text.strip() else "begins or ends with a space"
    if len(text) > limit:
        return f"is longer than {limit} characters"
    bad = next((c for c in text if not c.isprintable() or c in forbidden), None)
    return None if bad is None else f'has a "{printable(bad)}" in it'


def whole_number(field: Field, low: int, high: int, example: int) -> int:
    """An unquoted whole number from ``low`` to ``high``."""
    mend = f"write {field.path}: {example}"
    if not isinstance(field.node, Scalar) or field.node.kind is not Kind.INT:
        raise field.wrong("a whole number", mend)
    text = field.node.text
    bases = {"0o": 8, "0x": 16}
    value = int(text, bases.get(text[:2], 10)) if len(text) <= MAX_FIGURE_CHARS else high + 1
    if not low <= value <= high:
        raise field.error(f"{field.shown()} is out of range", f"write a whole number from {low} to {high}")
    return value


def boolean(field: Field) -> bool:
    """true or false, as YAML 1.2 has them."""
    if not isinstance(field.node, Scalar) or field.node.kind is not Kind.BOOL:
        raise field.wrong("true or false", f"write {field.path}: true or {field.path}: false")
    return field.node.text.lower() == "true"


def size(field: Field, example: str) -> int:
    """Bytes of a size with its unit."""
    return _figure(field, "a size", f"write {field.path}: {example}", parse_size)


def duration(field: Field, example: str) -> float:
    """Seconds of a duration with its unit."""
    return _figure(field, "a duration", f"write {field.path}: {example}", parse_duration)


def _figure(field: Field, expected: str, mend: str, parse: Callable[[str], _T]) -> _T:
    text = text_of(field, expected, mend)
    if len(text) > MAX_FIGURE_CHARS or not text.isascii():
        raise field.wrong(expected, mend)
    try:
        return parse(text)
    except ValueError as error:
        problem, _, better = str(error).partition("; ")
        shown = field.shown()
        raise field.error(problem.replace(repr(text), shown, 1), better if "range" in problem else mend) from None


def suggest(word: str, known: Collection[str], otherwise: str) -> str:
    """The mend for an unknown ``word``: the nearest of ``known``, else ``otherwise``."""
    near = get_close_matches(word[:64].lower(), [*known], n=1, cutoff=0.6)
    return f"did you mean {near[0]}" if near else otherwise
