"""What the tests of the parser share."""

from __future__ import annotations

import msgspec

from p104d.api.spec import Context, Document, ParsedDocument, parse_submission
from p104d.core.errors import P104Error

NOW = 1_800_000_000.0
CARDS = {"0": "GPU-aaaa", "1": "GPU-bbbb", "GPU-a": "GPU-aaaa", "P104-100": "P104-100"}


def resolve_card(text: str) -> str:
    try:
        return CARDS[text]
    except KeyError:
        raise ValueError(f"no card {text}; p104ctl cards lists them") from None


CONTEXT = Context(cwd="/home/me", resolve_card=resolve_card, now=NOW)


def parse(text: str | bytes, *, file: str = "job.yaml", **changes: object) -> list[ParsedDocument]:
    context = msgspec.structs.replace(CONTEXT, **changes)
    return parse_submission([Document(file, text)], context)


def one(text: str | bytes, **changes: object) -> ParsedDocument:
    [document] = parse(text, **changes)
    return document


def refusal(text: str | bytes, **changes: object) -> tuple[int, str]:
    """Exit code and line of the error that ``text`` ends in."""
    try:
        parse(text, **changes)
    except P104Error as error:
        line = error.line()
        assert error.mend, line
        assert len(line.splitlines()) == 1 and line.isprintable(), line
        return error.exit_code, line
    raise AssertionError(f"accepted: {text!r}")
