"""p104ctl schema: the shapes of job.yaml and of what ``--json`` prints."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

import p104d
from p104d.cli.common import ParamType, json_option, lines, out, print_json
from p104d.cli.verbs import VERBS
from p104d.core.errors import NotFoundError, P104Error

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def folder() -> str:
    """Where the schemas are, in a checkout and in a wheel alike."""
    return os.path.join(next(iter(p104d.__path__)), "schemas")


def names() -> list[str]:
    """The schemas there are. Raises P104Error if the installation lacks them."""
    try:
        found = sorted(entry[:-5] for entry in os.listdir(folder()) if entry.endswith(".json"))
    except OSError as error:
        raise P104Error(f"no schemas in {folder()}", mend="install p104d again") from error
    return found


class SchemaName(ParamType):
    """A schema's name, completed from those there are."""

    name = "schema"

    def convert(self, value: str, _param: click.Parameter | None, _ctx: click.Context | None) -> str:
        return value

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        try:
            return [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        except P104Error:
            return []


@click.command("schema", short_help=VERBS["schema"])
@click.argument("name", metavar="[NAME]", type=SchemaName(), required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """Print the JSON Schema called NAME; without NAME, list them."""
    known = names()
    if name is None:
        print_json({"schemas": known}) if as_json else lines(known)
        return
    if name not in known:
        raise NotFoundError(f"no such schema: {name}", mend=f"there are {', '.join(known)}")
    with open(os.path.join(folder(), f"{name}.json"), encoding="utf-8") as stream:
        out(stream.read().rstrip("\n"))
