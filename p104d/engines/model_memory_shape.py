"""What of a model takes memory, layer by layer, as its header tells it.

Which layers keep keys and values, which a recurrent state, which look back only through a window: taken from the
tensors each layer has and from the metadata, as llama.cpp does. What cannot be told is counted in full and noted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from p104d.engines.gguf import Listed, Model, ModelFileError

#: Backstops: llama.cpp itself reads at most 512 layers; no model comes near the others.
_MOST_LAYERS, _MOST_WIDTH, _MOST_HEADS, _MOST_TOKENS = 512, 2**22, 2**16, 2**31
_BLOCK = re.compile(r"(?:(?:enc|dec)\.)?blk\.(\d{1,4})\.(.+)", re.DOTALL)
#: Looked up by token, so they stay in the host's memory.
_HOST = ("token_embd", "token_types", "position_embd", "per_layer_token_embd")
_ATTENTION = ("attn_k.", "attn_k_b.", "attn_kv_", "attn_kv.")
_RECURRENT = ("ssm_", "time_mix_", "shortconv.")
#: One layer in so many sees all of the context, the last of each group, where the header does not say which: as
#: llama.cpp has it. An architecture with a window that is not here is counted without it.
_WINDOW_GROUPS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "llama4": 4, "olmo2": 4}
_LLAMA4_CHUNK = 8192
#: Files of these architectures go with a model or steer one; they are none.
_NO_MODELS = {"clip": "is a projector (mmproj), not a model", "imatrix": "is an importance matrix, not a model"}


class Layer(NamedTuple):
    """``weights`` in bytes; ``keys`` and ``values`` are numbers kept for each token, of the last ``window`` tokens (0:
    of all); ``state`` is bytes for each request, however long."""

    weights: int
    keys: int
    values: int
    window: int = 0
    state: int = 0


class Shape(NamedTuple):
    """``output`` is bytes on the card of the last layer, ``host`` bytes that stay in the host's memory; ``heads``,
    ``width`` (of a token on its way through a layer) and ``feed_forward`` are numbers; ``head_widths`` those of single
    keys and values; ``context`` is what it was trained to (0: unknown). ``notes`` say what was only guessed."""

    layers: tuple[Layer, ...]
    output: int
    host: int
    heads: int
    width: int
    feed_forward: int
    vocabulary: int
    context: int
    head_widths: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """Bytes of weights on all cards together."""
        return sum(layer.weights for layer in self.layers) + self.output


def shape_of(model: Model) -> Shape:
    """What of ``model`` takes memory. Raises ModelFileError where its header does not tell, or it is no model."""
    keys = _Keys(model)
    _check(model, keys)
    count = keys.whole("block_count", 1, _MOST_LAYERS)
    heads = keys.per_layer("attention.head_count", count, 0, _MOST_HEADS)
    width = keys.whole("embedding_length", 1, _MOST_WIDTH)
    blocks, output, host = _weights(model, count, keys)
    head_widths = _head_widths(keys, width, max(heads))
    return Shape(
        layers=_layers(keys, blocks, heads, head_widths),
        output=output,
        host=host,
        heads=max(heads),
        width=max(width, max(heads) * head_widths[0]),
        feed_forward=_feed_forward(keys),
        vocabulary=_vocabulary(model, keys),
        context=keys.whole("context_length", 0, _MOST_TOKENS, 0),
        head_widths=head_widths if any(heads) else (),
        notes=_notes(model, keys, blocks),
    )


class _Keys:
    """The metadata of one architecture, checked."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.architecture = model.architecture

    def has(self, name: str) -> bool:
        return f"{self.architecture}.{name}" in self.model.metadata

    def whole(self, name: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number; of a list its largest."""
        return max(self.per_layer(name, 0, least, most, default))

    def per_layer(self, name: str, count: int, least: int, most: int, default: int | None = None) -> tuple[int, ...]:
        """A whole number for each of ``count`` layers (0: as the header has it), told once or as a list."""
        key = f"{self.architecture}.{name}"
        value = self.model.metadata.get(key, default)
        if value is None:
            raise self.wrong(f"the header lacks {key}")
        listed = isinstance(value, tuple) and not isinstance(value, Listed)
        numbers = value if listed else (value,) * (count or 1)
        whole = tuple(one for one in numbers if isinstance(one, int) and least <= one <= most)  # type: ignore[union-attr]
        if len(whole) < max(len(numbers), count, 1):  # type: ignore[arg-type]
            raise self.wrong(f"the header is damaged: {key} is {_short(value)}")
        return whole

    def wrong(self, what: str) -> ModelFileError:
        return ModelFileError(
            f"{self.model.path}: {what}", mend="download the model again, or another conversion of it"
        )


def _short(value: object) -> str:
    text = f"a list of {value.length}" if isinstance(value, Listed) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check(model: Model, keys: _Keys) -> None:
    mend = "name the model itself"
    kind = model.text("general.type")
    if model.architecture in _NO_MODELS:
        raise ModelFileError(f"{model.path}: {_NO_MODELS[model.architecture]}", mend=mend)
    if kind in ("adapter", "imatrix"):
        raise ModelFileError(f"{model.path}: is an {kind}, not a model", mend=mend)
    if not model.architecture:
        raise keys.wrong("the header lacks general.architecture")
    if not model.tensors:
        raise ModelFileError(f"{model.path}: has no tensors, a vocabulary at most", mend=mend)


# --- weights ---


class _Block(NamedTuple):
    weights: int
    names: frozenset[str]


def _weights(model: Model, count: int, keys: _Keys) -> tuple[list[_Block], int, int]:
    """The blocks, and bytes of the output layer and of what stays in the host's memory."""
    sizes = [0] * count
    names: list[set[str]] = [set() for _ in range(count)]
    output = host = embeddings = 0
    tied = True
    for tensor in model.tensors:
        block = _BLOCK.fullmatch(tensor.name)
        if block is not None:
            place = int(block[1])
            if place >= count:
                raise keys.wrong(f"the header is damaged: {tensor.name!r} of a model of {count} layers")
            sizes[place] += tensor.size
            names[place].add(block[2])
        elif tensor.name.partition(".")[0] in _HOST:
            host += tensor.size
            embeddings += tensor.size if tensor.name.startswith("token_embd.") else 0
        else:
            output += tensor.size
            tied = tied and not tensor.name.startswith("output.")
    # Where no output layer of its own is in the file, the embeddings are that too, as a copy on the card.
    output += embeddings if tied and _generates(keys) else 0
    return [_Block(size, frozenset(some)) for size, some in zip(sizes, names, strict=True)], output, host


def _generates(keys: _Keys) -> bool:
    """Whether it writes text; models for embeddings alone keep no keys and values."""
    return keys.model.metadata.get(f"{keys.architecture}.attention.causal", True) is not False


# --- keys and values ---


def _head_widths(keys: _Keys, width: int, heads: int) -> tuple[int, int]:
    usual = width // heads if heads else 0
    key = keys.whole("attention.key_length", 0, _MOST_WIDTH, usual)
    return key, keys.whole("attention.value_length", 0, _MOST_WIDTH, usual)


def _layers(keys: _Keys, blocks: Sequence[_Block], heads: Sequence[int], widths: tuple[int, int]) -> tuple[Layer, ...]:
    count = len(blocks)
    kept = (
        keys.per_layer("attention.head_count_kv", count, 0, _MOST_HEADS)
        if keys.has("attention.head_count_kv")
        else tuple(heads)
    )
    windows = _windows(keys, count)
    attends = _attending(blocks) if _generates(keys) else [False] * count
    shared = count - keys.whole("attention.shared_kv_layers", 0, count, 0)
    state = _state(keys)
    found = []
    for place, block in enumerate(blocks):
        many = kept[place] if attends[place] and place < shared else 0
        key, value = _windowed_widths(keys, widths) if windows[place] else widths
        recurrent = any(name.startswith(_RECURRENT) for name in block.names)
        found.append(Layer(block.weights, many * key, many * value, windows[place], state if recurrent else 0))
    return tuple(found)


def _windowed_widths(keys: _Keys, widths: tuple[int, int]) -> tuple[int, int]:
    """Layers with a window may have keys and values of another width."""
    key = keys.whole("attention.key_length_swa", 0, _MOST_WIDTH, widths[0])
    return key, keys.whole("attention.value_length_swa", 0, _MOST_WIDTH, widths[1])


def _attending(blocks: Sequence[_Block]) -> list[bool]:
    """Which layers keep keys and values; all, where none can be told by its tensors."""
    found = [_attends(block.names) for block in blocks]
    recurrent = any(name.startswith(_RECURRENT) for block in blocks for name in block.names)
    return found if any(found) or recurrent else [True] * len(blocks)


def _attends(names: frozenset[str]) -> bool:
    if any(name.startswith(_ATTENTION) for name in names):
        return True
    # Linear attention has a tensor of this name too, beside those of its state.
    together = any(name.startswith("attn_qkv.") for name in names)
    return together and not any(name.startswith(_RECURRENT) for name in names)


def _window(keys: _Keys) -> int:
    return keys.whole(
        "attention.sliding_window", 0, _MOST_TOKENS, _LLAMA4_CHUNK if keys.architecture == "llama4" else 0
    )


def _windows(keys: _Keys, count: int) -> list[int]:
    """The window of each layer, 0 for those that see all."""
    window = _window(keys)
    pattern = keys.model.metadata.get(f"{keys.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and not isinstance(pattern, Listed) and len(pattern) >= count:
        return [window if one else 0 for one in pattern[:count]]
    group = _WINDOW_GROUPS.get(keys.architecture, 0)
    if group and isinstance(pattern, int) and not isinstance(pattern, bool) and 0 < pattern <= count:
        group = pattern
    return [window if group and place % group < group - 1 else 0 for place in range(count)]


def _state(keys: _Keys) -> int:
    """Bytes that a recurrent layer keeps for each request, in 32-bit numbers, as llama.cpp counts them."""
    if keys.has("wkv.head_size"):
        width = keys.whole("embedding_length", 1, _MOST_WIDTH)
        shifts = keys.whole("token_shift_count", 0, 64, 2)
        return 4 * width * (shifts + keys.whole("wkv.head_size", 0, _MOST_WIDTH))
    if keys.has("shortconv.l_cache"):
        return 4 * keys.whole("embedding_length", 1, _MOST_WIDTH) * (keys.whole("shortconv.l_cache", 1, 2**16) - 1)
    inner, state = (keys.whole(f"ssm.{name}", 0, _MOST_WIDTH, 0) for name in ("inner_size", "state_size"))
    groups, kernel = keys.whole("ssm.group_count", 0, 2**16, 0), keys.whole("ssm.conv_kernel", 1, 2**16, 1)
    return 4 * ((kernel - 1) * (inner + 2 * groups * state) + state * inner)


# --- the rest ---


def _feed_forward(keys: _Keys) -> int:
    """Numbers a token has within a feed-forward layer; of a mixture of experts, in all that it is sent to."""
    dense = keys.whole("feed_forward_length", 0, _MOST_WIDTH, 0)
    used = keys.whole("expert_used_count", 0, _MOST_HEADS, 0)
    expert = keys.whole("expert_feed_forward_length", 0, _MOST_WIDTH, dense)
    return max(dense, used * expert + keys.whole("expert_shared_feed_forward_length", 0, _MOST_WIDTH, 0))


def _vocabulary(model: Model, keys: _Keys) -> int:
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    listed = tokens.length if isinstance(tokens, Listed) else 0
    embeddings = next((one.dimensions for one in model.tensors if one.name == "token_embd.weight"), ())
    told = embeddings[1] if len(embeddings) > 1 else 0
    return max(min(max(listed, told), _MOST_TOKENS), keys.whole("vocab_size", 0, _MOST_TOKENS, 0))


def _notes(model: Model, keys: _Keys, blocks: Sequence[_Block]) -> tuple[str, ...]:
    names = {name for block in blocks for name in block.names}
    found = {
        "kinds of numbers newer than this p104d: their room in the file is counted": not all(
            tensor.known for tensor in model.tensors
        ),
        "layers that predict further tokens are counted, though llama.cpp may not load them": keys.has(
            "nextn_predict_layers"
        ),
        "latent attention (MLA): newer llama.cpp keeps less": keys.has("attention.kv_lora_rank"),
        "an encoder with a decoder: its cache is only roughly known": any("cross_attn" in name for name in names),
        "its window is not counted: all layers as if they saw all": bool(_window(keys))
        and not any(_windows(keys, len(blocks))),
        "recurrent layers of an unknown kind: their state is not counted": any(
            name.startswith(_RECURRENT) for name in names
        )
        and not _state(keys),
    }
    return tuple(text for text, holds in found.items() if holds)
