"""llama-server for the demo and the tests: its option names over the same C++ server, which the package ``xllamacpp``
embeds.

    python demo/llama/llama_server.py --model tiny.gguf --host /tmp/x/s.sock --ctx-size 1024 --parallel 4
    path = command("/tmp/x")       # an executable /tmp/x/llama-server, where a program by name is wanted

As the real one: a ``--host`` that ends in ``.sock`` is a Unix socket, an unknown option or a model that cannot be
loaded ends it with 1 and llama.cpp's own messages, SIGTERM and SIGINT end it with 0; built without a GPU, it warns of
``--gpu-layers`` and serves. It computes with one thread unless told otherwise: several wait
for each other at every layer, which takes for ever on a host with other work.
Of llama-server's variables it knows those of VARIABLES. ``TEST_LOAD_SECONDS`` in the environment makes it take longer
until it listens.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENDING = {signal.SIGTERM, signal.SIGINT}
#: Cache types, as llama-server names them.
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
SPLIT_MODES = ("none", "layer", "row", "tensor")
NO_GPU = (
    "warning: no usable GPU found, --gpu-layers option will be ignored\n"
    "warning: one possible reason is that llama.cpp was compiled without GPU support\n"
    "warning: consult docs/build.md for compilation instructions"
)

Setter = Callable[[Any, Any, str], None]


class UsageError(Exception):
    """What llama-server says of its arguments."""


def command(folder: str | Path) -> Path:
    """An executable of the name ``llama-server`` in ``folder``; there is one process of it, no shell in between."""
    path = Path(folder) / "llama-server"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    path.chmod(0o755)
    return path


# --- options ---


def _number(name: str) -> Setter:
    return lambda params, _xlc, text: setattr(params, name, int(text))


def _flag(name: str, value: bool) -> Setter:
    return lambda params, _xlc, _text: setattr(params, name, value)


def _cache(name: str) -> Setter:
    def put(params: Any, xlc: Any, text: str) -> None:
        if text not in CACHE_TYPES:
            raise UsageError(f"Unsupported cache type: {text}")
        setattr(params, name, getattr(xlc.ggml_type, f"GGML_TYPE_{text.upper()}"))

    return put


def _model(params: Any, _xlc: Any, text: str) -> None:
    params.model.path = text


def _host(params: Any, _xlc: Any, text: str) -> None:
    params.hostnames = [text]


def _alias(params: Any, _xlc: Any, text: str) -> None:
    params.model_alias = {text}


def _gpu_layers(_params: Any, _xlc: Any, text: str) -> None:
    if text not in ("auto", "all"):
        int(text)
    print(NO_GPU, file=sys.stderr, flush=True)


def _split_mode(params: Any, xlc: Any, text: str) -> None:
    if text not in SPLIT_MODES:
        raise UsageError("invalid value")
    params.split_mode = getattr(xlc.llama_split_mode, f"LLAMA_SPLIT_MODE_{text.upper()}")


def _tensor_split(_params: Any, _xlc: Any, text: str) -> None:
    """Read and left alone: there is no card to split over."""
    if not all(float(part) >= 0 for part in text.replace("/", ",").split(",")):
        raise UsageError("invalid value")


def _threads(params: Any, _xlc: Any, text: str) -> None:
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(text)


def _pooling(params: Any, xlc: Any, text: str) -> None:
    params.pooling_type = getattr(xlc.llama_pooling_type, f"LLAMA_POOLING_TYPE_{text.upper()}")


def _on_off(name: str) -> Setter:
    def put(params: Any, _xlc: Any, text: str) -> None:
        if text not in ("on", "off"):
            raise UsageError("invalid value")
        setattr(params, name, text == "on")

    return put


def _flash(params: Any, xlc: Any, text: str) -> None:
    kinds = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
    params.flash_attn_type = getattr(xlc.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{kinds[text]}")


def _nothing(_params: Any, _xlc: Any, _text: str) -> None:
    """Known to llama-server, of no effect here."""


#: What takes a value, and what does not; all names of one option together.
VALUED: dict[tuple[str, ...], Setter] = {
    ("-m", "--model"): _model,
    ("-a", "--alias"): _alias,
    ("--host",): _host,
    ("--port",): _number("port"),
    ("-c", "--ctx-size"): _number("n_ctx"),
    ("-np", "--parallel"): _number("n_parallel"),
    ("-b", "--batch-size"): _number("n_batch"),
    ("-ub", "--ubatch-size"): _number("n_ubatch"),
    ("-n", "--predict", "--n-predict"): _number("n_predict"),
    ("-t", "--threads"): _threads,
    ("-ctk", "--cache-type-k"): _cache("cache_type_k"),
    ("-ctv", "--cache-type-v"): _cache("cache_type_v"),
    ("-ngl", "--gpu-layers", "--n-gpu-layers"): _gpu_layers,
    ("-sm", "--split-mode"): _split_mode,
    ("-ts", "--tensor-split"): _tensor_split,
    ("-mg", "--main-gpu"): _number("main_gpu"),
    ("-fa", "--flash-attn"): _flash,
    ("-fit", "--fit"): _on_off("fit_params"),
    ("--pooling",): _pooling,
    ("-to", "--timeout"): _nothing,
    ("-s", "--seed"): _nothing,
    ("-dev", "--device"): _nothing,
}
PLAIN: dict[tuple[str, ...], Setter] = {
    ("--metrics",): _flag("endpoint_metrics", True),
    ("--slots",): _flag("endpoint_slots", True),
    ("--no-slots",): _flag("endpoint_slots", False),
    ("--props",): _flag("endpoint_props", True),
    ("--embedding", "--embeddings"): _flag("embedding", True),
    ("--no-webui", "--no-ui"): _flag("ui", False),
    ("--no-warmup",): _flag("warmup", False),
    ("--warmup",): _flag("warmup", True),
    ("--jinja",): _flag("use_jinja", True),
    ("--no-context-shift",): _flag("ctx_shift", False),
    ("-cb", "--cont-batching"): _flag("cont_batching", True),
    ("--no-mmap",): _nothing,
    ("--offline",): _flag("offline", True),
}

#: Where 1 means on, as it does to the real one.
VARIABLES: dict[str, Setter] = {
    "LLAMA_ARG_FIT": _on_off("fit_params"),
    "LLAMA_ARG_FLASH_ATTN": lambda params, xlc, text: _flash(params, xlc, "on" if text == "1" else text),
    "LLAMA_ARG_NO_WEBUI": _flag("ui", False),
    "LLAMA_ARG_NO_ENDPOINT_SLOTS": _flag("endpoint_slots", False),
}


def parse(arguments: list[str], xlc: Any) -> Any:
    """CommonParams as llama-server would have made them. Raises UsageError with its message."""
    params = xlc.CommonParams()
    params.hostnames, params.port = ["127.0.0.1"], 8080
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    valued = {name: put for names, put in VALUED.items() for name in names}
    plain = {name: put for names, put in PLAIN.items() for name in names}
    for variable, put in VARIABLES.items():
        if variable in os.environ:
            put(params, xlc, os.environ[variable])
    rest = iter(arguments)
    for argument in rest:
        if argument in plain:
            plain[argument](params, xlc, "")
            continue
        if argument not in valued:
            raise UsageError(f"error: invalid argument: {argument}")
        value = next(rest, None)
        if value is None:
            raise UsageError(f'error while handling argument "{argument}": expected value for argument')
        try:
            valued[argument](params, xlc, value)
        except (ValueError, KeyError, AttributeError, UsageError) as error:
            raise UsageError(f'error while handling argument "{argument}": {error}') from None
    return params


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM. Returns the exit code."""
    # Blocked before llama.cpp starts its threads: the signal is nobody's but this one's.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    import xllamacpp

    try:
        params = parse(arguments, xllamacpp)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 1
    time.sleep(float(os.environ.get("TEST_LOAD_SECONDS", "0")))
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        # llama.cpp has said why.
        return 1
    signal.sigwait(ENDING)
    del server
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
