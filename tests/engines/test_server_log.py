"""What a server's output says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p104d.engines.server_log import MOST_ERROR_CHARS, said

DATA = Path(__file__).parent.parent / "data"
ALLOCATING = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 13285.50 MiB on device 0: cudaMalloc failed: "


def error(*lines: str) -> str | None:
    return said("\n".join(lines).encode()).error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut", "error loading model: tensor 'blk.1.ffn_down.weight' data is not within the file bounds, model is "),
        ("junk", "invalid magic characters: 'hell', expected 'GGUF'"),
        ("missing", "failed to open GGUF file 'missing.gguf' (No such file or directory)"),
    ],
)
def test_what_was_recorded(name, words):
    found = said((DATA / "server" / f"load_error_{name}.txt").read_bytes())
    assert found.error is not None and found.error.startswith(words)
    assert (found.cpu_only, found.loaded) == (False, False)


def test_a_server_that_serves_on_the_processor():
    assert said((DATA / "output" / "llama-server.stderr.txt").read_bytes()) == (None, True, True)


def test_memory_is_said_before_what_follows_from_it():
    followed = [
        "alloc_tensor_range: failed to allocate CUDA0 buffer of size 5064192000",
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
        "llama_model_load_from_file_impl: failed to load model",
        "main: exiting due to model loading error",
    ]
    assert error(ALLOCATING + "out of memory", *followed) == ALLOCATING.partition(": ")[2] + "out of memory"
    assert error(*followed) == "error loading model: unable to allocate CUDA0 buffer"
    assert error("CUDA error: out of memory", "  current device: 0, in function alloc at ggml-cuda.cu:88") == (
        "CUDA error: out of memory"
    )


@pytest.mark.parametrize(
    "line",
    [
        "error: invalid argument: --no-such",
        'error while handling argument "-ctk": Unsupported cache type: q9_9',
        "error loading model: unknown model architecture: 'new'",
        "quantized V cache requires flash_attn to be enabled",
        "./llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file",
        "CUDA error: an illegal memory access was encountered",
        "couldn't bind HTTP server socket, hostname: /run/x.sock, port: 8080",
    ],
)
def test_one_line_that_tells(line):
    usage = "usage: llama-server [options]"
    assert error("build: 4500 (abc) with cc", line, "", usage) == line
    assert error(f"0.00.004.584 E {line}", "0.00.004.600 I srv  operator(): cleaning up before exit...") == line


def test_what_was_overcome_or_is_one_requests_does_not_count():
    retry = "llama_init_from_model: compute buffer allocation failed, failed to allocate compute buffers, retrying"
    assert error(retry, "main: model loaded") is None
    assert error(retry) is not None
    request = "0.09.000.000 E srv    send_error: task id = 3, error: request (2000 tokens) exceeds the context size"
    assert error("0.00.084.175 I srv  llama_server: model loaded", request) is None
    assert error("main: server is listening on http://x.sock - starting the main loop", "CUDA error: bad") is not None
    assert error("warning: failed to mlock 20 bytes of memory") is None
    assert error("0.00.01.000 E something odd") is None and error("0.00.001.000 E something odd") == "something odd"


@pytest.mark.parametrize(
    ("line", "only"),
    [
        ("warning: no usable GPU found, --gpu-layers option will be ignored", True),
        ("ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime", True),
        ("0.00.001.000 W ggml_cuda_init: no CUDA devices found", True),
        ("load_tensors: offloaded 0/33 layers to GPU", True),
        ("load_tensors: offloaded 33/33 layers to GPU", False),
        ("ggml_cuda_init: found 1 CUDA devices:", False),
        # A request that speaks of it, as a log may show it.
        ('srv  operator(): got exception: {"error": "warning: no usable GPU found"}', False),
    ],
)
def test_whether_it_found_a_card(line, only):
    assert said(f"begin\n{line}\nend".encode()).cpu_only is only


def test_it_is_one_line_and_bounded():
    long = error("\x1b[31merror: failed to\tread " + "x" * 5000 + "\x07\x1b[0m")
    assert long is not None and len(long) == MOST_ERROR_CHARS and long.startswith("error: failed to read xxx")
    assert said(b"") == (None, False, False)


@given(st.binary(max_size=300))
def test_it_never_raises(tail):
    found = said(b"error: failed to " + tail).error
    assert found is None or (found.isprintable() and len(found) <= MOST_ERROR_CHARS)
