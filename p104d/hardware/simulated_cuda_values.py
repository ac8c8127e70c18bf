"""How values reach a driver from ctypes and come back, its result codes, and what its handles stand for."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from p104d.hardware.simulated_cuda_memory import ILLEGAL_ADDRESS, INVALID_VALUE, OUT_OF_MEMORY, CudaFailure

if TYPE_CHECKING:
    from p104d.hardware.simulated_cuda import SimulatedCuda

#: A driver function: its result, None for success. Raises CudaFailure for others.
Call = Callable[..., int | None]

SUCCESS, NOT_INITIALIZED, NO_DEVICE, INVALID_DEVICE, INVALID_CONTEXT, INVALID_PTX = 0, 3, 100, 101, 201, 218
INVALID_HANDLE, NOT_FOUND, NOT_READY, CONTEXT_IS_DESTROYED, MISALIGNED_ADDRESS = 400, 500, 600, 709, 716
LAUNCH_FAILED, UNKNOWN = 719, 999

#: What the driver calls them: name and text.
ERRORS = {
    SUCCESS: (b"CUDA_SUCCESS", b"no error"),
    INVALID_VALUE: (b"CUDA_ERROR_INVALID_VALUE", b"invalid argument"),
    OUT_OF_MEMORY: (b"CUDA_ERROR_OUT_OF_MEMORY", b"out of memory"),
    NOT_INITIALIZED: (b"CUDA_ERROR_NOT_INITIALIZED", b"initialization error"),
    NO_DEVICE: (b"CUDA_ERROR_NO_DEVICE", b"no CUDA-capable device is detected"),
    INVALID_DEVICE: (b"CUDA_ERROR_INVALID_DEVICE", b"invalid device ordinal"),
    INVALID_CONTEXT: (b"CUDA_ERROR_INVALID_CONTEXT", b"invalid device context"),
    INVALID_PTX: (b"CUDA_ERROR_INVALID_PTX", b"a PTX JIT compilation failed"),
    INVALID_HANDLE: (b"CUDA_ERROR_INVALID_HANDLE", b"invalid resource handle"),
    NOT_FOUND: (b"CUDA_ERROR_NOT_FOUND", b"named symbol not found"),
    NOT_READY: (b"CUDA_ERROR_NOT_READY", b"device not ready"),
    ILLEGAL_ADDRESS: (b"CUDA_ERROR_ILLEGAL_ADDRESS", b"an illegal memory access was encountered"),
    CONTEXT_IS_DESTROYED: (b"CUDA_ERROR_CONTEXT_IS_DESTROYED", b"context is destroyed"),
    MISALIGNED_ADDRESS: (b"CUDA_ERROR_MISALIGNED_ADDRESS", b"misaligned address"),
    LAUNCH_FAILED: (b"CUDA_ERROR_LAUNCH_FAILED", b"unspecified launch failure"),
    UNKNOWN: (b"CUDA_ERROR_UNKNOWN", b"unknown error"),
}


class Context:
    """A CUDA context: since when (seconds of the rig) it is there, and what it answers if it broke."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.broken = SUCCESS


class Event:
    """``done``: seconds of work up to it, ``ready``: when that is over (real time); None: never recorded."""

    done: float | None = None
    ready = 0.0


class Module:
    """A loaded image: its PTX."""

    def __init__(self, text: bytes) -> None:
        self.text = text


class Stream:
    """All of them are one queue."""


class HostMemory:
    """Memory of the host that the driver gave: pages of its own, zeroed."""

    def __init__(self, size: int) -> None:
        self._pages = mmap.mmap(-1, size)
        self._hold: Any = (ctypes.c_char * size).from_buffer(self._pages)
        self.address = ctypes.addressof(self._hold)

    def close(self) -> None:
        """Give it back."""
        self._hold = None
        self._pages.close()


def number(value: Any) -> int:
    """A number, given as a ctypes value or as it is; NULL is 0."""
    return int(getattr(value, "value", value) or 0)


def _target(reference: Any) -> Any:
    """What a reference or pointer points at; an array or a buffer is itself."""
    if hasattr(reference, "_obj"):
        return reference._obj
    return reference.contents if hasattr(reference, "contents") else reference


def put(reference: Any, value: Any) -> None:
    """Store ``value`` where a reference points."""
    _target(reference).value = value


def address(buffer: Any) -> int:
    """Where a buffer of the host lies, however it was given."""
    if buffer is None:
        return 0
    if isinstance(buffer, int):
        return buffer
    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    if isinstance(buffer, ctypes.c_void_p):
        return buffer.value or 0
    if isinstance(buffer, ctypes.c_char_p):
        return ctypes.cast(buffer, ctypes.c_void_p).value or 0
    if isinstance(buffer, (ctypes.c_uint64, ctypes.c_size_t)):
        return int(buffer.value)
    return ctypes.addressof(_target(buffer))


def text(buffer: Any) -> bytes:
    """The zero-terminated text at a buffer."""
    return buffer if isinstance(buffer, bytes) else ctypes.string_at(address(buffer))


def the_object(library: SimulatedCuda, handle: Any, kind: type) -> Any:
    """What a handle stands for. Raises CudaFailure if that is not of the ``kind``."""
    found = library.objects.get(number(handle))
    if not isinstance(found, kind):
        raise CudaFailure(INVALID_HANDLE)
    return found


def check_stream(library: SimulatedCuda, stream: Any) -> None:
    """Raises CudaFailure for what is no stream."""
    if number(stream):
        the_object(library, stream, Stream)
