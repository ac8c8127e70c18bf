"""Errors in a job's output that point at its card."""

from __future__ import annotations

import pytest

from p104d.engines.gpu_errors import complaint


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (b"ggml_cuda: CUDA error: an illegal memory access was encountered\n  current device: 0", "an illegal memory"),
        (b"RuntimeError: CUDA error: unspecified launch failure", "unspecified launch failure"),
        (b"CUDNN_STATUS_EXECUTION_FAILED\n", "CUDNN_STATUS_EXECUTION_FAILED"),
        (b"x\xff\xfe CUDA_ERROR_ILLEGAL_ADDRESS \xff", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        (b"Misaligned Address ... later: GPU is lost", "GPU is lost"),
    ],
)
def test_errors_that_bad_memory_makes_too(output: bytes, found: str) -> None:
    told = complaint(output)
    assert told is not None and told.startswith(found)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"CUDA error: out of memory",
        b"CUDA_ERROR_OUT_OF_MEMORY CUBLAS_STATUS_ALLOC_FAILED",
        b"no kernel image is available for execution on the device",
        b"Traceback: ValueError: misaligned tensor",
    ],
)
def test_errors_that_say_nothing_of_the_card(output: bytes) -> None:
    assert complaint(output) is None
