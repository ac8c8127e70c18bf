"""p104ctl models: what a model needs, and on how many cards it fits."""

from __future__ import annotations

from typing import Any

import click

from p104d.cli.common import ParamType, json_option, lines, print_json
from p104d.cli.verbs import VERBS

#: As in job.yaml. The reader knows more kinds; these are what llama.cpp's CUDA build keeps on a card by itself.
_CACHES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


class Size(ParamType):
    """A size with its unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from p104d.core.units import parse_size

        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("models", short_help=VERBS["models"])
@click.argument("model", metavar="MODEL.gguf", type=click.Path(), required=False)
@click.option("--context", metavar="N", type=click.IntRange(1, 2**26), help="Tokens that each request may have: 4096.")
@click.option("--parallel", metavar="N", type=click.IntRange(1, 256), help="Requests at a time: 1.")
@click.option(
    "--kv-cache", metavar="KIND", type=click.Choice(_CACHES), help="How keys and values are kept: f16, q8_0, ..."
)
@click.option("--no-flash-attention", is_flag=True, help="As if flash attention were off.")
@click.option("--cards", metavar="N", type=click.IntRange(1, 16), help="Share it among N cards, not the fewest.")
@click.option("--memory", metavar="SIZE", type=Size(), help="Memory of a card. Default: a P104-100's 7.9GiB.")
@json_option
def command(
    model: str | None,
    context: int | None,
    parallel: int | None,
    kv_cache: str | None,
    no_flash_attention: bool,
    cards: int | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Work out from a model's file what memory it needs, and which contexts fit on one, two and four cards.

    Needs no daemon. Of a split model name the first part. Weights and cache are exact, the rest is an estimate.
    """
    if model is None:
        raise click.UsageError("name a model: p104ctl models MODEL.gguf")
    from p104d.cli.modelling import page, read

    asked = {"context": context, "parallel": parallel, "kv_cache": kv_cache, "cards": cards, "card_bytes": memory}
    given: dict[str, Any] = {key: one for key, one in asked.items() if one is not None}
    answer = read(model, given | {"flash_attention": not no_flash_attention})
    if as_json:
        print_json(answer)
    else:
        lines(page(answer))
