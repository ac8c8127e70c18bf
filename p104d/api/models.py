"""The wire of ``p104ctl models``: what a model file needs. (Read by p104ctl itself; no daemon is asked.)"""

from __future__ import annotations

import msgspec


class ModelFile(msgspec.Struct, kw_only=True):
    """What the header tells. ``context`` is what the model was trained to, null if it does not say; ``host_bytes`` are
    weights that stay in the host's memory; ``notes`` say what could only be estimated roughly."""

    path: str
    name: str | None
    architecture: str
    file_type: str | None
    parameters: int
    file_bytes: int
    parts: int
    layers: int
    context: int | None
    host_bytes: int
    notes: list[str]


class ModelAsked(msgspec.Struct, kw_only=True):
    """For what it was worked out: ``context`` tokens for each of ``parallel`` requests, on cards of ``card_bytes``."""

    context: int
    parallel: int
    kv_cache: str
    flash_attention: bool
    ubatch: int
    card_bytes: int


class ModelCard(msgspec.Struct, kw_only=True):
    """What one card holds; the output counts as a layer. ``overhead_bytes`` is CUDA's own."""

    layers: int
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    overhead_bytes: int
    total_bytes: int


class ModelPlacement(msgspec.Struct, kw_only=True):
    """The fewest cards, or as many as were asked for, and llama-server's ``--split-mode`` and ``--tensor-split``."""

    split_mode: str
    tensor_split: list[int]
    cards: list[ModelCard]


class ModelContext(msgspec.Struct, kw_only=True):
    """Whether a context fits, as asked or with another ``fits_with_kv_cache`` (null: with none); ``card_bytes`` is what
    the fullest card needs (null: the model cannot be shared among so many)."""

    context: int
    fits: bool
    fits_with_kv_cache: str | None
    card_bytes: int | None


class ModelFits(msgspec.Struct, kw_only=True):
    """What fits on so many cards; ``largest_context`` is 0 where nothing does."""

    cards: int
    contexts: list[ModelContext]
    largest_context: int


class Models(msgspec.Struct, kw_only=True):
    """What a model file needs; ``sum`` as if on one card, however large, ``placement`` null where it fits nowhere."""

    model: ModelFile
    asked: ModelAsked
    sum: ModelCard
    placement: ModelPlacement | None
    fits: list[ModelFits]
    suggestion: str | None
