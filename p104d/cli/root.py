"""p104ctl itself: the group that loads a verb when it is used, and the one place where errors become lines."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from p104d.cli.main import INTERRUPTED, NOT_WRITTEN, PIPE_CLOSED, Interrupted
from p104d.cli.verbs import SECTIONS, VERBS
from p104d.core.errors import P104Error

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_COMPLETE_VARIABLE = "_P104CTL_COMPLETE"


class LazyGroup(click.Group):
    """A group whose commands are modules of ``p104d.cli.verbs``, imported when asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = import_module(f"p104d.cli.verbs.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """click's own, but a mistyped verb is answered with the one that was probably meant."""
        verb = args[0]
        if verb not in VERBS and not verb.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no such verb: {verb!r}{suggestion(verb)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, verbs in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl(list(verbs.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs from the table; a command's own options and arguments are click's business."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(verb, help=text) for verb, text in VERBS.items() if verb.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def suggestion(verb: str) -> str:
    """``; did you mean 'cancel'?`` for a verb mistyped, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(verb, VERBS, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from p104d.cli.verbs.version import own_version

        click.echo(f"p104ctl {own_version()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.option(
    "--socket",
    metavar="PATH",
    help="The daemon's socket; P104_SOCKET does the same. Default: your own daemon's, then the system's.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and end.",
)
@click.pass_context
def cli(ctx: click.Context, socket: str | None) -> None:
    """Ask the p104d daemon: what the rig does, and what it shall do.

    Exit codes: 0 done; 1 the job waited for did not succeed, or a card is not proven; 2 usage; 3 the daemon cannot be
    reached; 4 refused; 5 no such job or card; 74 the output cannot be written; 130 interrupted.
    """
    ctx.obj = socket
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: list[str]) -> int:
    """Parse, act, print; every error is one line on stderr. Returns the exit code."""
    _forgive_encodings()
    try:
        code = _act(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return PIPE_CLOSED
    except OSError as error:
        return _fail(f"cannot write the output: {error.strerror or error}", NOT_WRITTEN)
    return code


def _act(arguments: list[str]) -> int:
    try:
        instruction = os.environ.get(_COMPLETE_VARIABLE)
        if instruction:
            from click.shell_completion import shell_complete

            return shell_complete(cli, {}, "p104ctl", _COMPLETE_VARIABLE, instruction)
        with cli.make_context("p104ctl", arguments) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        return _fail(_usage(error), 2)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except P104Error as error:
        return _fail(error.line(), error.exit_code)
    except Interrupted as error:
        return _fail(str(error), INTERRUPTED)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)
    except OSError:
        raise
    except Exception as error:
        return _last_resort(error)
    return 0


def _usage(error: click.UsageError) -> str:
    """What is wrong with the command line, in one line with where to read how it should be."""
    message = error.format_message().rstrip(".")
    asked = error.ctx.command_path if error.ctx else "p104ctl"
    return f"{message}{'' if message.endswith('?') else ';'} see {asked} --help"


def _fail(message: str, code: int) -> int:
    from p104d.cli.text import clean

    if sys.stderr is not None:
        sys.stderr.write(f"p104ctl: {clean(' '.join(message.split()))}\n")
    return code


def _last_resort(error: Exception) -> int:
    """Our own mistake, or an answer we do not understand: a line, and the place for whoever reports it."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return _fail(f"internal error at {place}: {type(error).__name__}: {error}; please report it", 1)


def _forgive_encodings() -> None:
    """Names may hold what the terminal cannot show: escape it rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
