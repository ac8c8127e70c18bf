"""p104ctl bench: how fast a language model runs on each card."""

from __future__ import annotations

import sys

import click

from p104d.cli.common import CardName, client, json_option, lines, note, print_json
from p104d.cli.verbs import VERBS

#: Tokens a test: llama-bench's own, so that results compare with those that others publish.
_PROMPT, _GENERATE = 512, 128
_REPEAT = 3


@click.command("bench", short_help=VERBS["bench"])
@click.argument("model", metavar="MODEL.gguf", type=click.Path())
@click.option("--card", "names", metavar="CARD", type=CardName(), multiple=True, help="Only this card. Default: all.")
@click.option("--together", is_flag=True, help="Afterwards once more, on all these cards at the same time.")
@click.option("--repeat", metavar="N", type=click.IntRange(1, 1000), default=_REPEAT, help="Make each test N times: 3.")
@click.option("--prompt", metavar="N", type=click.IntRange(0, 2**20), default=_PROMPT, help="Read N tokens: 512.")
@click.option("--generate", metavar="N", type=click.IntRange(0, 2**20), default=_GENERATE, help="Write N tokens: 128.")
@click.option("--llama-bench", "program", metavar="PATH", type=click.Path(), help="llama-bench. Default: on your PATH.")
@json_option
def command(
    model: str,
    names: tuple[str, ...],
    together: bool,
    repeat: int,
    prompt: int,
    generate: int,
    program: str | None,
    as_json: bool,
) -> None:
    """Run llama-bench with a model on each card in turn, and show its speeds beside those on record.

    Each run is a job with a whole card of its own; its results are kept (p104ctl history). Ctrl-C cancels it.
    """
    if not prompt and not generate:
        raise click.UsageError("--prompt 0 and --generate 0 leave nothing to measure")
    from p104d.cli.benching import Bench, Runs, able, bench_table, failed, find_model, find_program
    from p104d.cli.verbs.cards import select

    bench = Bench(find_program(program), find_model(model), prompt, generate, repeat)
    asked = client()
    cards = asked.get("/v1/cards")["cards"]
    chosen = able(select(cards, names) if names else cards)
    runs = Runs(asked, bench).all(chosen, together)
    if as_json:
        print_json({"model": bench.model, "runs": runs})
    else:
        lines(bench_table(runs))
    troubles = failed(runs)
    if sys.stdout is not None:
        sys.stdout.flush()
    for trouble in troubles:
        note(trouble)
    if troubles:
        click.get_current_context().exit(1)
