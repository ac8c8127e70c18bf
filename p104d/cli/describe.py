"""The command line as data: what man pages are made of and documentation is checked against."""

from __future__ import annotations

from typing import NamedTuple

import click

from p104d.cli.root import cli
from p104d.cli.verbs import VERBS


class OptionText(NamedTuple):
    """One option: its names (``-f``, ``--follow``), the word its value is shown as (None: a switch), its help."""

    names: tuple[str, ...]
    value: str | None
    help: str


class VerbText(NamedTuple):
    """One verb: its usage without the program's name, what it does in a line and at length, its options."""

    name: str
    usage: str
    short: str
    help: str
    options: tuple[OptionText, ...]


def describe_verbs() -> list[VerbText]:
    """Every verb of p104ctl, in the order in which ``--help`` lists them."""
    root = _root()
    found = []
    for name in VERBS:
        command = cli.get_command(root, name)
        assert command is not None
        found.append(_verb(name, command, click.Context(command, info_name=name, parent=root)))
    return found


def describe_program() -> VerbText:
    """p104ctl itself: its help and the options before the verb."""
    return _verb("p104ctl", cli, _root())


def _root() -> click.Context:
    return click.Context(cli, info_name="p104ctl", help_option_names=cli.context_settings["help_option_names"])


def _verb(name: str, command: click.Command, ctx: click.Context) -> VerbText:
    options = tuple(_option(one) for one in command.get_params(ctx) if isinstance(one, click.Option))
    usage = " ".join(command.collect_usage_pieces(ctx))
    return VerbText(name, usage, command.get_short_help_str(limit=200), _dedent(command.help or ""), options)


def _option(option: click.Option) -> OptionText:
    switch = option.is_flag or option.count or option.is_eager
    return OptionText(tuple(option.opts), None if switch else option.metavar or "VALUE", option.help or "")


def _dedent(text: str) -> str:
    from inspect import cleandoc

    return cleandoc(text)
