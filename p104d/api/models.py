"""The wire of ``p104ctl models``: what a model file needs (read by p104ctl itself; no daemon is asked), and the models
that are resident on cards."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from p104d.core.errors import UsageError

#: What can be done to models.
ModelVerb = Literal["pin", "unpin", "unload"]
MODEL_VERBS: tuple[ModelVerb, ...] = get_args(ModelVerb)
#: As long as Linux takes a path.
_MAX_MODEL_CHARS = 4096


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


class ResidentModel(msgspec.Struct, kw_only=True):
    """A copy of a model on its cards, with the server that holds it.

    ``name`` is the file's stem; ``path`` is null for those who may not see it. ``memory_reserved_bytes`` is that of all
    its cards together; ``context`` is what each of ``parallel`` requests may have. ``job`` is the one that runs on it.
    ``user`` is whose rights the server has, null: the shared model user's. ``ready_at`` is an estimate while it loads;
    ``load_seconds`` what loading took, null until then; ``unload_at`` when the idle limit unloads it, null: never, or
    not now.
    """

    id: int
    name: str
    path: str | None
    state: Literal["loading", "ready", "busy", "stopping"]
    cards: list[str]
    memory_reserved_bytes: int
    context: int
    parallel: int
    kv_cache: str
    tensor_split: list[int] | None
    job: int | None
    user: str | None
    shared: bool
    pinned: bool
    loaded_at: str | None
    load_seconds: float | None
    ready_at: str | None
    last_used_at: str | None
    unload_at: str | None
    pid: int | None
    embeddings: bool


class Pin(msgspec.Struct, kw_only=True):
    """A model whose copies are not unloaded for others nor for idleness. ``model`` is its path, null for those who may
    not see it, ``name`` the file's stem; ``by`` who pinned it, null: the configuration."""

    model: str | None
    name: str
    by: str | None
    at: str | None


class LoadTime(msgspec.Struct, kw_only=True):
    """What loading a model takes: the mean of ``count`` loads, as if each on the rig's fastest link."""

    model: str
    path: str | None
    seconds: float
    count: int


class Residents(msgspec.Struct, kw_only=True):
    """The copies on the cards by id, the pins, and the load times learnt. A verb answers with the copies and pins of
    the models that it was about, as they stand now, and no load times."""

    models: list[ResidentModel]
    pins: list[Pin]
    load_times: list[LoadTime] = []


class ModelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The model that a verb is for: an absolute path, a copy's id as ``#3``, or a name as listed."""

    model: str

    def checked(self) -> str:
        """The model, if it can be one. Raises UsageError."""
        if not self.model.strip() or "\0" in self.model or len(self.model) > _MAX_MODEL_CHARS:
            raise UsageError(f"{self.model[:40]!r} names no model", mend="name it by its path, its id or its name")
        return self.model
