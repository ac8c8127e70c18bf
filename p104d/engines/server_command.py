"""The command line of a llama-server, and its environment: what works with its releases of the last two years. Pure.

Its options have changed (``--flash-attn`` was a flag and takes a value, ``--no-webui`` came and was renamed), and one
that it does not know ends it. A variable that it does not know is left alone. So what every release knows is an option,
and the rest is in the environment, where ``1`` means yes to old and new ones alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from p104d.engines.gguf_types import CACHE_KINDS
from p104d.engines.model_memory import Ask

#: More layers than any model has: all of them. The word for it (``all``) is younger.
ALL_LAYERS = 999
#: Tokens that go through the model before the next turn of the other slots: with small cards' some hundred tokens a
#: second, 2048 (llama-server's own) would keep everybody's answers waiting for seconds.
BATCH = 512
#: Of the parts of a Unix socket's address the kernel takes 107 bytes.
MOST_SOCKET_BYTES = 107
#: How an embedding is made of tokens' where the model's header does not say: as is usual.
POOLING = "mean"


def server_argv(
    program: str | Sequence[str],
    model: str,
    socket: str,
    ask: Ask,
    *,
    cards: int,
    tensor_split: Sequence[int] | None = None,
    embeddings: bool = False,
    pooling: bool = True,
    alias: str = "",
    extra: Sequence[str] = (),
) -> list[str]:
    """The argv that serves ``model`` over the Unix socket ``socket``; ``extra`` comes last, so it wins.

    ``cards``: how many the server will see. ``tensor_split``: the layers of each (``model_fit.placed``).
    ``embeddings``: it is to make embeddings, for which ``pooling`` tells whether the model's header says how. Raises
    ValueError for a socket that llama-server would not take for one, or the kernel would refuse.
    """
    if not socket.endswith(".sock") or len(socket.encode(errors="surrogateescape")) > MOST_SOCKET_BYTES:
        raise ValueError(f"{socket}: a server's socket ends in .sock, in at most {MOST_SOCKET_BYTES} bytes")
    return [
        *([program] if isinstance(program, str) else program),
        *("--model", model),
        *("--host", socket),
        *("--ctx-size", str(ask.tokens)),
        *("--parallel", str(ask.parallel)),
        *("--n-gpu-layers", str(ALL_LAYERS)),
        *("--batch-size", str(max(BATCH, ask.ubatch, ask.parallel))),
        *("--ubatch-size", str(ask.ubatch)),
        *_cache(ask),
        *_split(cards, tensor_split),
        *(["--embeddings"] if embeddings else []),
        *(["--pooling", POOLING] if embeddings and not pooling else []),
        *(["--alias", alias] if alias else []),
        *extra,
    ]


def _cache(ask: Ask) -> list[str]:
    if ask.kv_cache == "f16":
        return []
    return ["--cache-type-k", ask.kv_cache, "--cache-type-v", ask.kv_cache]


def _split(cards: int, tensor_split: Sequence[int] | None) -> list[str]:
    # For one card nothing: ``--split-mode none`` ends a server that sees no card, before it can say that it sees none.
    if cards < 2:
        return []
    shares = ["--tensor-split", ",".join(map(str, tensor_split))] if tensor_split else []
    return ["--split-mode", "layer", *shares]


def server_environment(ask: Ask) -> dict[str, str]:
    """Variables for the server, beside its account's and CUDA's.

    Flash attention is left to llama.cpp, which turns it on where its kernels for the card can do it (releases before
    September 2025 leave it off), but for a quantised cache, which cannot do without.
    """
    found = {
        # It would adjust what the sums here have decided, and loads a model twice for that.
        "LLAMA_ARG_FIT": "off",
        # Nobody browses a Unix socket. Renamed once.
        "LLAMA_ARG_NO_WEBUI": "1",
        "LLAMA_ARG_NO_UI": "1",
        # It shows everybody who may connect what others ask.
        "LLAMA_ARG_NO_ENDPOINT_SLOTS": "1",
    }
    if CACHE_KINDS[ask.kv_cache].block > 1:
        found["LLAMA_ARG_FLASH_ATTN"] = "1"
    return found
