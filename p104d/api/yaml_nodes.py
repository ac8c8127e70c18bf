"""YAML text to nodes that know their line. Nothing is constructed, nothing is expanded, everything is bounded.

The parser is libyaml's (``yaml.CSafeLoader``), read event by event, so that a limit is met before memory is spent.
Plain scalars are told apart by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): ``yes``,
``no``, ``on`` and ``off`` are strings, ``1_000`` and ``12:30`` are strings, ``0o17`` is a number. The text of a scalar
is kept as written.

What cannot be read as YAML (syntax, encoding, size, depth) raises UsageError; what is read and not taken (anchors,
aliases, tags, a key written twice) raises RefusedError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, NoReturn

import msgspec
import yaml

from p104d.core.errors import P104Error, RefusedError, UsageError

MAX_DOCUMENT_BYTES = 256 * 1024
MAX_SUBMISSION_BYTES = 16 * 2**20
MAX_DOCUMENTS = 10_000
#: job.yaml needs four levels; more is somebody counting brackets.
MAX_DEPTH = 16
#: Three matrices of the largest size, or 10,000 documents of thirty scalars; about a second of parsing.
MAX_NODES = 300_000

#: The file name of a document that p104ctl wrote itself, from its own arguments: it has no lines to point at.
COMMAND_LINE = "command line"

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII
)
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Kind(Enum):
    """What the core schema says a scalar is."""

    NULL = "null"
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STR = "str"


_WORDS = dict.fromkeys(("", "~", "null", "Null", "NULL"), Kind.NULL) | dict.fromkeys(
    ("true", "True", "TRUE", "false", "False", "FALSE"), Kind.BOOL
)


class Scalar(msgspec.Struct, gc=False):
    """A scalar: its text as written (quotes and escapes resolved) and what it is."""

    text: str
    kind: Kind
    line: int


class Sequence(msgspec.Struct):
    """A list. ``line`` is where it begins."""

    items: list[Node]
    line: int


class Mapping(msgspec.Struct):
    """A mapping with text keys. ``lines`` has the line of each key; ``sources`` names the --set option a key came
    from, where one did."""

    items: dict[str, Node]
    lines: dict[str, int]
    line: int
    sources: dict[str, str] = {}


Node = Scalar | Sequence | Mapping


class Budget(msgspec.Struct):
    """What a submission has used so far, over all its files."""

    documents: int = 0
    nodes: int = 0
    size_bytes: int = 0


def printable(text: str, limit: int = 200) -> str:
    """``text`` on one line, control characters escaped, the middle left out where it is longer than ``limit``."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}...{text[-limit // 4 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def place(file: str, line: int) -> str:
    """``file:line`` as errors begin; no line for what has none."""
    shown = "stdin" if file == "-" else printable(file)
    return f"{shown}:{line}" if line and file != COMMAND_LINE else shown


def read_documents(file: str, text: str | bytes, budget: Budget) -> Iterator[Node]:
    """The non-empty documents of one file, in order; each is dropped from here before the next is read.

    Raises UsageError or RefusedError as the module says.
    """
    source = _decode(file, text, budget)
    try:
        yield from _Composer(file, source, budget).documents()
    except yaml.YAMLError as error:
        raise _unreadable(file, source, error) from None


def read_value(origin: str, text: str, budget: Budget) -> Node:
    """The one value in ``text``, as --set has it; ``origin`` is how errors name it."""
    try:
        nodes = list(read_documents(COMMAND_LINE, text or "~", budget))
    except P104Error as error:
        message = error.message.removeprefix(COMMAND_LINE)
        raise type(error)(f"{origin}{message}", mend=error.mend) from None
    if len(nodes) > 1:
        raise UsageError(f"{origin}: more than one value", mend="give one YAML value")
    return nodes[0] if nodes else Scalar("", Kind.NULL, 0)


def scalar_kind(text: str) -> Kind:
    """What an unquoted ``text`` is under the YAML 1.2 core schema."""
    word = _WORDS.get(text)
    if word is not None:
        return word
    if text[0] in "-+.0123456789":
        if _INT.fullmatch(text):
            return Kind.INT
        if _FLOAT.fullmatch(text):
            return Kind.FLOAT
    return Kind.STR


def _decode(file: str, text: str | bytes, budget: Budget) -> str:
    """``text`` as characters, its size counted. Raises UsageError: too large, not UTF-8, NUL."""
    try:
        raw = text if isinstance(text, bytes) else text.encode("utf-8")
        text = raw.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{place(file, line)}: not UTF-8 text", mend="save the file as UTF-8") from None
    except UnicodeEncodeError:
        raise UsageError(f"{place(file, 0)}: not UTF-8 text", mend="save the file as UTF-8") from None
    budget.size_bytes += len(raw)
    if budget.size_bytes > MAX_SUBMISSION_BYTES:
        raise UsageError(
            f"{place(file, 0)}: more than {MAX_SUBMISSION_BYTES // 2**20} MiB in one submission",
            mend="submit in several steps",
        )
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise UsageError(f"{place(file, line)}: a NUL character: not a text file", mend="save the file as UTF-8 text")
    return text.removeprefix("\ufeff")


def _unreadable(file: str, source: str, error: yaml.YAMLError) -> UsageError:
    """libyaml's complaint as one of ours, with the line."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        found = _FORBIDDEN.search(source)
        line = source.count("\n", 0, found.start()) + 1 if found else 0
        return UsageError(f"{place(file, line)}: a control character in the text", mend="remove it, or escape it")
    problem = str(getattr(error, "problem", None) or "not YAML")
    context = getattr(error, "context", None)
    at_tab = source[mark.index : mark.index + 1] == "\t"
    mend = "indent with spaces, not tabs" if at_tab else f"mend the YAML at column {mark.column + 1}"
    detail = f"{problem} ({context})" if context else problem
    return UsageError(f"{place(file, mark.line + 1)}: not YAML: {printable(detail)}", mend=mend)


class _Open:
    """A collection whose end has not come yet, and the key that waits for its value."""

    __slots__ = ("key", "key_line", "node")

    def __init__(self, node: Sequence | Mapping) -> None:
        self.node = node
        self.key: str | None = None
        self.key_line = 0


class _Composer:
    """Events to nodes, for one file."""

    def __init__(self, file: str, source: str, budget: Budget) -> None:
        self._file = file
        self._source = source
        self._budget = budget
        self._parser = yaml.CSafeLoader(source)
        self._document_start = 0

    def documents(self) -> Iterator[Node]:
        while True:
            event: Any = self._parser.get_event()
            if event is None or isinstance(event, yaml.StreamEndEvent):
                # Comments alone are counted too: a file is not small because it says nothing.
                self._close_document(len(self._source), 1)
                return
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            self._count_document(event)
            node = self._compose()
            end: Any = self._parser.get_event()
            self._close_document(end.end_mark.index, end.start_mark.line + 1)
            if not (isinstance(node, Scalar) and node.kind is Kind.NULL):
                yield node

    def _count_document(self, event: Any) -> None:
        self._budget.documents += 1
        line = event.start_mark.line + 1
        if self._budget.documents > MAX_DOCUMENTS:
            self._unusable(line, f"more than {MAX_DOCUMENTS} documents in one submission", "submit in several steps")
        if event.tags:
            self._refuse(line, "a %TAG directive is not taken", "remove it")

    def _compose(self) -> Node:
        """The nodes of one document, by a stack of our own: no recursion that input could drive."""
        stack: list[_Open] = []
        while True:
            event: Any = self._parser.get_event()
            line = event.start_mark.line + 1
            self._check_length(event.end_mark.index, line)
            if isinstance(event, yaml.ScalarEvent):
                node: Node = self._scalar(event)
            elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                stack.append(self._open(event, stack))
                continue
            elif isinstance(event, yaml.AliasEvent):
                self._refuse(line, f"an alias (*{event.anchor}) is not taken", "write it out")
            else:
                node = stack.pop().node
            if not stack:
                return node
            self._add(stack[-1], node)

    def _check_length(self, end: int, line: int) -> None:
        """The document so far, comments before it included, is small enough; characters, which are at hand."""
        if end - self._document_start > MAX_DOCUMENT_BYTES:
            self._too_large(line)

    def _close_document(self, end: int, line: int) -> None:
        """The document that ends at ``end`` is small enough in bytes; the next one begins there."""
        self._check_length(end, line)
        if not self._source.isascii() and len(self._source[self._document_start : end].encode()) > MAX_DOCUMENT_BYTES:
            self._too_large(line)
        self._document_start = end

    def _too_large(self, line: int) -> NoReturn:
        self._unusable(line, f"a document of more than {MAX_DOCUMENT_BYTES // 1024} KiB", "split it, or use matrix:")

    def _scalar(self, event: Any) -> Scalar:
        self._count_node(event)
        plain = event.implicit[0]
        text = event.value
        return Scalar(text, scalar_kind(text) if plain else Kind.STR, event.start_mark.line + 1)

    def _open(self, event: Any, stack: list[_Open]) -> _Open:
        self._count_node(event)
        line = event.start_mark.line + 1
        if len(stack) >= MAX_DEPTH:
            self._unusable(line, f"nested more than {MAX_DEPTH} levels deep", "job.yaml needs four")
        if stack and isinstance(stack[-1].node, Mapping) and stack[-1].key is None:
            self._refuse(line, "a list or mapping as a key", "use plain words as keys")
        return _Open(Sequence([], line) if isinstance(event, yaml.SequenceStartEvent) else Mapping({}, {}, line))

    def _count_node(self, event: Any) -> None:
        self._budget.nodes += 1
        line = event.start_mark.line + 1
        if self._budget.nodes > MAX_NODES:
            self._unusable(line, f"more than {MAX_NODES} values in one submission", "submit in several steps")
        if event.anchor is not None:
            self._refuse(line, f"an anchor (&{event.anchor}) is not taken", "write the value out where it is used")
        if event.tag is not None:
            self._refuse(line, f"a tag ({event.tag}) is not taken", "remove it; quote what is to be text")

    def _add(self, top: _Open, node: Node) -> None:
        """Put ``node`` into the collection on top: an item, a key, or the value of the key before."""
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
        elif top.key is not None:
            top.node.items[top.key] = node
            top.node.lines[top.key] = top.key_line
            top.key = None
        else:
            assert isinstance(node, Scalar)
            if node.kind is Kind.NULL:
                self._refuse(node.line, "a key without a name", "quote it if it is meant")
            if node.text in top.node.items:
                first = top.node.lines[node.text]
                problem = f"{printable(node.text, 40)}: written twice (first on line {first})"
                self._refuse(node.line, problem, "keep one of them")
            top.key, top.key_line = node.text, node.line

    def _refuse(self, line: int, problem: str, mend: str) -> NoReturn:
        raise RefusedError(f"{place(self._file, line)}: {printable(problem)}", mend=mend)

    def _unusable(self, line: int, problem: str, mend: str) -> NoReturn:
        raise UsageError(f"{place(self._file, line)}: {problem}", mend=mend)
