"""What the output of a failed job says against its card: errors that a bug makes too, but bad memory makes as well.

The texts are those of ``cudaGetErrorString`` and of the status names of CUDA, cuBLAS and cuDNN (docs.nvidia.com/cuda).
Out of memory and a missing kernel for the card's architecture are not among them: they say nothing of the card.
"""

from __future__ import annotations

import re

_TEXTS = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "unspecified launch failure",
    "misaligned address",
    "hardware stack error",
    "invalid program counter",
    "uncorrectable ECC error encountered",
    "the GPU has fallen off the bus",
    "GPU is lost",
)
_NAMES = (
    r"CUDA_ERROR_(?:ILLEGAL_ADDRESS|ILLEGAL_INSTRUCTION|LAUNCH_FAILED|MISALIGNED_ADDRESS|HARDWARE_STACK_ERROR|INVALID_PC"
    r"|ECC_UNCORRECTABLE)",
    r"CUBLAS_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)",
    r"CUDNN_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)",
)
_COMPLAINT = re.compile("|".join((*map(re.escape, _TEXTS), *_NAMES)), re.IGNORECASE)


def complaint(output: bytes) -> str | None:
    """The last such error in the output, as it stands there; None where there is none."""
    found = _COMPLAINT.findall(output.decode("utf-8", "replace"))
    return found[-1] if found else None
