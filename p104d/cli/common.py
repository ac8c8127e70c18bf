"""What verbs share: the client, job and card arguments with completion, ``--json``, output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from p104d.api.client import Client, is_named, socket_candidates
from p104d.core.errors import NotFoundError, P104Error

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    ParamType = click.ParamType[Any, Any]
else:
    ParamType = click.ParamType  # in click 8.1 it is not generic

_F = TypeVar("_F", bound=Callable[..., Any])

#: The largest number that every JSON reader keeps exact. A larger one is a job that cannot be, not bad usage.
_LARGEST_ID = 2**53
#: Completion is typed into: whoever waits longer presses the key again.
_COMPLETION_SECONDS = 0.5


def client() -> Client:
    """The client of the daemon this call is meant for."""
    root = click.get_current_context().find_root()
    return _client(root.obj or root.params.get("socket"))


def _client(socket: str | None) -> Client:
    return Client(socket_candidates(socket, os.environ), named=is_named(socket, os.environ))


def out(line: str = "") -> None:
    """One line on standard output."""
    if sys.stdout is not None:
        sys.stdout.write(line + "\n")


def lines(many: Iterable[str]) -> None:
    """Lines on standard output."""
    for line in many:
        out(line)


def note(message: str) -> None:
    """A line for people on standard error, beside what programs read."""
    from p104d.cli.text import clean

    if sys.stderr is not None:
        sys.stderr.write(f"p104ctl: {clean(message)}\n")


def warn(submitted: Mapping[str, Any]) -> None:
    """What a submission was warned of, a line each on standard error."""
    from p104d.cli.text import clean

    for warning in submitted.get("warnings") or ():
        if sys.stderr is not None:
            sys.stderr.write(f"warning: {clean(str(warning))}\n")


def print_json(value: object) -> None:
    """``value`` as ``--json`` prints it."""
    from p104d.cli.terminal import unicode_output

    out(json.dumps(value, indent=2, ensure_ascii=not unicode_output()))


def json_option(function: _F) -> _F:
    """``--json``, as every verb has it."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs (see p104ctl schema).")
    return option(function)


class JobId(ParamType):
    """A job's id: a positive whole number. One that no job can have is no such job, not bad usage."""

    name = "job"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not (value.isascii() and value.isdecimal()):
            self.fail(f"{value!r} is not a job's id, a number such as p104ctl list shows", param, ctx)
        if not 0 < int(value[:30]) <= _LARGEST_ID:
            raise NotFoundError(f"no such job: {value}")
        return int(value)

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete(ctx, "/v1/jobs", "jobs", "id", ("name", "state"), incomplete)


class ScheduleId(JobId):
    """A schedule's id; schedules are numbered on their own."""

    name = "schedule"

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete(ctx, "/v1/schedules", "schedules", "id", ("name", "cron"), incomplete)


class CardName(ParamType):
    """A card: its index, the beginning of its UUID, or its name. The daemon knows which."""

    name = "card"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail("a card is named by its index, UUID or name", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete(ctx, "/v1/cards", "cards", "index", ("name", "state"), incomplete)


def complete(
    ctx: click.Context, path: str, key: str, field: str, help_fields: tuple[str, ...], incomplete: str
) -> list[CompletionItem]:
    """What the daemon has for a word half typed; nothing, silently, if it does not answer quickly."""
    from click.shell_completion import CompletionItem

    asked = _client(ctx.find_root().params.get("socket"))
    try:
        found = asked.get(path, timeout=_COMPLETION_SECONDS)[key]
        items = [(str(one.get(field)), " ".join(str(one.get(name)) for name in help_fields)) for one in found]
    except (P104Error, OSError, KeyError, TypeError, AttributeError):
        return []
    return [CompletionItem(value, help=text) for value, text in items if value.startswith(incomplete)]


def jobs_argument(function: _F) -> _F:
    """``JOB...``: one id or more."""
    return click.argument("jobs", metavar="JOB...", type=JobId(), nargs=-1, required=True)(function)


def unique(ids: Iterable[int]) -> list[int]:
    """Ids in the order given, each once."""
    return list(dict.fromkeys(ids))
