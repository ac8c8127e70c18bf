"""``--set key=value``: values put into every document of a submission before it is checked."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p104d.api.yaml_nodes import MAX_DEPTH, Budget, Mapping, Node, printable, read_value
from p104d.core.errors import RefusedError, UsageError

MAX_OPTIONS = 256
MAX_OPTION_BYTES = 64 * 1024


class Option(msgspec.Struct, frozen=True):
    """One --set: the keys its dots divide, its value, and how errors name it."""

    keys: tuple[str, ...]
    value: Node
    source: str


def read_options(texts: Sequence[str]) -> list[Option]:
    """Raises UsageError for what is not ``key=value`` with a YAML value."""
    if len(texts) > MAX_OPTIONS:
        raise UsageError(f"more than {MAX_OPTIONS} --set options", mend="write them into the file")
    budget = Budget()  # one for all: together they may be no more than a submission
    return [_read_option(text, budget) for text in texts]


def _read_option(text: str, budget: Budget) -> Option:
    source = f"--set {printable(text, 80)}"
    path, equals, value = text.partition("=")
    keys = tuple(path.split("."))
    if not equals or not all(keys):
        raise UsageError(f"{source}: not key=value", mend="write --set cards=2 or --set env.STEPS=30")
    if len(keys) > MAX_DEPTH or len(text) > MAX_OPTION_BYTES:
        raise UsageError(f"{source}: too long", mend="write it into the file")
    return Option(keys, read_value(source, value, budget), source)


def apply_options(mapping: Mapping, options: Sequence[Option]) -> None:
    """Put each option into ``mapping``, in order; mappings on its way are made where they are missing."""
    for option in options:
        inner = mapping
        for depth, key in enumerate(option.keys[:-1]):
            node = inner.items.get(key)
            if node is None:
                node = Mapping({}, {}, 0)
                _put(inner, key, node, option.source)
            if not isinstance(node, Mapping):
                path = ".".join(option.keys[: depth + 1])
                raise RefusedError(f"{option.source}: {path} is not a mapping", mend=f"write --set {path}=...")
            inner = node
        _put(inner, option.keys[-1], option.value, option.source)


def _put(mapping: Mapping, key: str, value: Node, source: str) -> None:
    # The documents share the nodes of an option. A later option may write into one of them, but then it does so for
    # every document, and what it writes is the same.
    mapping.items[key] = value
    mapping.lines[key] = 0
    mapping.sources[key] = source
