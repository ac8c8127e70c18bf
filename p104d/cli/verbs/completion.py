"""p104ctl completion: what a shell needs to complete verbs, jobs and cards."""

from __future__ import annotations

import click

from p104d.cli.common import out
from p104d.cli.verbs import VERBS
from p104d.core.errors import P104Error


@click.command("completion", short_help=VERBS["completion"])
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    For bash: eval "$(p104ctl completion bash)" in ~/.bashrc, or the output as
    /etc/bash_completion.d/p104ctl.
    """
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    if completer is None:
        raise P104Error(f"this click has no completion for {shell}", mend="install a newer click")
    root = click.get_current_context().find_root().command
    script = completer(root, {}, "p104ctl", "_P104CTL_COMPLETE")
    out((script.source_template % script.source_vars()).rstrip())
