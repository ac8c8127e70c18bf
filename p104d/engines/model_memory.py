"""How much memory of cards a model takes: weights, keys and values, what computing needs. Pure sums.

The formulas follow gguf-parser-go's and llama.cpp's own; what was measured against llama.cpp is in docs/models.md. An
estimate errs upwards, and peaks that were measured correct it (``corrected``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from p104d.core.errors import RefusedError
from p104d.core.units import MIB
from p104d.engines.gguf_types import CACHE_KINDS
from p104d.engines.model_memory_shape import Layer, Shape

#: What CUDA itself takes on a P104-100 for a process, from an owner's record.
CUDA_CONTEXT_BYTES = 86 * MIB
#: What llama-server is to be started with (``--ubatch-size``): cards of this size have no room for its 512.
UBATCH = 128
#: llama.cpp rounds the tokens of a slot up to whole steps of this.
STEP = 256
#: With several cards llama.cpp keeps inputs this many times, so that the cards need not wait for each other.
_INPUT_COPIES = 4
_MOST = {"context": 2**26, "parallel": 256, "ubatch": 2**16}


class Ask(NamedTuple):
    """How a model shall be loaded.

    ``context`` is the tokens that each request may have, prompt and answer together; ``parallel`` requests run at a
    time, each with all of it: llama-server shares what it is given among its slots, so it is given ``tokens``.
    """

    context: int = 4096
    parallel: int = 1
    kv_cache: str = "f16"
    flash_attention: bool = True
    ubatch: int = UBATCH

    @property
    def slot(self) -> int:
        """The tokens of one slot, rounded up as llama.cpp does."""
        return -(-self.context // STEP) * STEP

    @property
    def tokens(self) -> int:
        """What ``--ctx-size`` is to be: of all slots together."""
        return self.slot * self.parallel


class Costs(NamedTuple):
    """What a process takes of each card beside the model: CUDA's own, and by how much earlier runs were off the sum."""

    context: int = CUDA_CONTEXT_BYTES
    surplus: int = 0


#: Where nothing was measured yet.
NO_RUNS = Costs()


class Run(NamedTuple):
    """One card of an earlier run: what the sum said (without surplus), and the most that was really used."""

    estimated: int
    peak: int


class CardSum(NamedTuple):
    """Bytes on one card, and how many layers it holds (the output counts as one, on the last card)."""

    layers: int
    weights: int
    kv: int
    compute: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it. Never less than weights and cache: those are allocated whatever else was measured."""
        return self.weights + self.kv + max(0, self.compute + self.overhead)


def check(shape: Shape, ask: Ask) -> None:
    """Raise RefusedError for what llama.cpp would refuse, or nobody can mean."""
    if ask.kv_cache not in CACHE_KINDS:
        raise RefusedError(f"kv_cache: {ask.kv_cache!r} is no kind of cache", mend=f"one of {', '.join(CACHE_KINDS)}")
    for name, most in _MOST.items():
        value = getattr(ask, name)
        if not 1 <= value <= most:
            raise RefusedError(f"{name}: {value} is out of range", mend=f"from 1 to {most}")
    block = CACHE_KINDS[ask.kv_cache].block
    if block > 1 and not ask.flash_attention:
        raise RefusedError(f"kv_cache: {ask.kv_cache} needs flash attention", mend="turn it on, or kv_cache: f16")
    if any(width % block for width in shape.head_widths):
        widths = " and ".join(str(width) for width in sorted(set(shape.head_widths)))
        what = f"kv_cache: {ask.kv_cache} goes by {block} numbers, and this model's heads have {widths}"
        raise RefusedError(what, mend="kv_cache: f16")


def kv_bytes(layer: Layer, ask: Ask) -> int:
    """What one layer remembers of all requests: keys and values, and a recurrent layer's state."""
    kind = CACHE_KINDS[ask.kv_cache]
    slot = ask.slot
    if layer.window:
        slot = min(slot, -(-(layer.window + ask.ubatch) // STEP) * STEP)
    tokens = slot * ask.parallel
    return kind.bytes_of(tokens * layer.keys) + kind.bytes_of(tokens * layer.values) + layer.state * ask.parallel


def compute_bytes(shape: Shape, ask: Ask, *, cards: int = 1, last: bool = True) -> int:
    """What one of ``cards`` needs to compute a batch; the ``last`` has the scores of all words of the vocabulary.

    Measured: llama.cpp's largest graph holds some six times a token's width and three times its feed-forward numbers,
    and without flash attention a score for each head and token.
    """
    plain, forward = 4 * shape.width * ask.ubatch, 4 * shape.feed_forward * ask.ubatch
    mask = (2 if ask.flash_attention else 4) * ask.slot * ask.ubatch * (1 if cards == 1 else _INPUT_COPIES)
    scores = 0 if ask.flash_attention else 4 * shape.heads * ask.slot * ask.ubatch + 2 * plain
    words = 4 * shape.vocabulary * ask.ubatch if last else 0
    return mask + max(6 * plain + scores, 6 * plain + 3 * forward) + words + _unpacked(shape, ask)


def _unpacked(shape: Shape, ask: Ask) -> int:
    """CUDA's flash attention unpacks a quantised cache of one layer to 16 bits while it reads a prompt."""
    if CACHE_KINDS[ask.kv_cache].block == 1:
        return 0
    return 2 * max((ask.tokens * (layer.keys + layer.values) for layer in shape.layers if not layer.window), default=0)


def spread(shape: Shape, ask: Ask, counts: Sequence[int], costs: Costs = NO_RUNS) -> tuple[CardSum, ...]:
    """What each card takes that holds so many layers in turn; ``counts`` come to one more than there are layers, for
    the output. Raises ValueError for others."""
    if sum(counts) != len(shape.layers) + 1 or min(counts) < 1:
        raise ValueError(f"{list(counts)} does not share out {len(shape.layers)} layers and the output")
    units = layer_sizes(shape, ask)
    found, begin = [], 0
    for place, count in enumerate(counts):
        mine = units[begin : begin + count]
        compute = compute_bytes(shape, ask, cards=len(counts), last=place == len(counts) - 1)
        weights, kv = (sum(unit[part] for unit in mine) for part in (0, 1))
        found.append(CardSum(count, weights, kv, compute, costs.context + costs.surplus))
        begin += count
    return tuple(found)


def layer_sizes(shape: Shape, ask: Ask) -> list[tuple[int, int]]:
    """Weights and cache of each layer, and the output's as the last."""
    return [*((layer.weights, kv_bytes(layer, ask)) for layer in shape.layers), (shape.output, 0)]


def corrected(costs: Costs, runs: Iterable[Run]) -> Costs:
    """``costs`` as earlier runs of this model on this kind of card teach them: the largest difference between what was
    used and what the sum had said, up or down. Contexts and kinds of cache may differ between the runs: weights and
    cache are known, and what is off is the rest. Without runs, ``costs`` as they are.
    """
    differences = [run.peak - run.estimated for run in runs]
    return costs._replace(surplus=max(differences)) if differences else costs
