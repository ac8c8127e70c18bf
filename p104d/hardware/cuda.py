"""The CUDA driver API, as much of it as a memory test needs, by ctypes: no toolkit on the user's machine.

Names and types are those of NVIDIA's "CUDA Driver API" reference manual. No argument types are declared on the library,
so that any object with these functions can stand in its place; every argument is an explicit ctypes value instead.
All of it belongs to the thread that made the context.
"""

from __future__ import annotations

import contextlib
import ctypes
import uuid
from collections.abc import Sequence
from ctypes import byref, c_char, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any

from p104d.core.errors import UnavailableError

#: Of the CUresult codes those that are told apart.
OUT_OF_MEMORY = 2
NO_DEVICE = 100
NOT_FOUND = 500
#: Attribute numbers (CUdevice_attribute).
MULTIPROCESSORS = 16
#: The thread sleeps instead of spinning while it waits: the processor has two cores for everything.
_BLOCKING_SYNC = 4
_LIBRARY = "libcuda.so.1"

#: A kernel's parameter, by value.
Argument = c_uint | c_uint64


class CudaError(Exception):
    """A driver call failed: ``call`` is its name, ``code`` the CUresult, ``name`` and ``text`` what the driver says."""

    def __init__(self, call: str, code: int, name: str, text: str) -> None:
        super().__init__(f"{call}: {text} ({name}, {code})")
        self.call, self.code, self.name, self.text = call, code, name, text


class NoCudaError(UnavailableError):
    """There is no CUDA driver on this machine."""


class Cuda:
    """The driver's library, initialised. ``library`` is the path of another one, or an object with its functions.

    Raises NoCudaError where the library cannot be loaded, CudaError where it does not start.
    """

    def __init__(self, library: Any = None) -> None:
        self.library = self._load(library) if library is None or isinstance(library, str) else library
        self.call("cuInit", c_uint(0))

    @staticmethod
    def _load(path: str | None) -> Any:
        try:
            return ctypes.CDLL(path or _LIBRARY)
        except OSError as error:
            if path is not None:
                raise NoCudaError(f"{path} cannot be loaded: {error}") from None
            raise NoCudaError(
                f"no CUDA driver: {_LIBRARY} is not found",
                mend="install the NVIDIA driver's compute part (package libcuda1 or nvidia-compute-utils)",
            ) from None

    def call(self, name: str, *arguments: Any) -> None:
        """Call the function. Raises CudaError for any result but success, an absent function included."""
        code = self.result(name, *arguments)
        if code:
            raise CudaError(name, code, *self._words(code))

    def result(self, name: str, *arguments: Any) -> int:
        """Call the function; its CUresult."""
        try:
            function = getattr(self.library, name)
        except AttributeError:
            return NOT_FOUND
        return int(function(*arguments))

    def _words(self, code: int) -> tuple[str, str]:
        found = []
        for function, otherwise in (("cuGetErrorName", "unknown error"), ("cuGetErrorString", "unknown error")):
            text = c_char_p()
            with contextlib.suppress(Exception):  # a driver that cannot even name its error must not hide it
                self.result(function, c_int(code), byref(text))
            found.append(text.value.decode("utf-8", "replace") if text.value else otherwise)
        return found[0], found[1]

    def driver_version(self) -> int:
        """The CUDA version that the driver speaks, 12080 for 12.8."""
        version = c_int()
        self.call("cuDriverGetVersion", byref(version))
        return version.value

    def device(self, ordinal: int = 0) -> Device:
        """The device of that number among those that CUDA_VISIBLE_DEVICES lets it see."""
        handle = c_int()
        self.call("cuDeviceGet", byref(handle), c_int(ordinal))
        return Device(self, handle)


class Device:
    """One card."""

    def __init__(self, cuda: Cuda, handle: c_int) -> None:
        self._cuda, self.handle = cuda, handle

    def name(self) -> str:
        """As the driver calls it."""
        buffer = (c_char * 256)()
        self._cuda.call("cuDeviceGetName", buffer, c_int(len(buffer)), self.handle)
        return buffer.value.decode("utf-8", "replace")

    def uuid(self) -> str:
        """As NVML writes it, ``GPU-3f...``."""
        raw = (c_ubyte * 16)()
        if self._cuda.result("cuDeviceGetUuid_v2", byref(raw), self.handle):
            self._cuda.call("cuDeviceGetUuid", byref(raw), self.handle)  # drivers before 11.4
        return f"GPU-{uuid.UUID(bytes=bytes(raw))}"

    def attribute(self, number: int) -> int:
        """A CUdevice_attribute."""
        value = c_int()
        self._cuda.call("cuDeviceGetAttribute", byref(value), c_int(number), self.handle)
        return value.value

    def total_bytes(self) -> int:
        """What CUDA has of the card's memory."""
        total = c_size_t()
        self._cuda.call("cuDeviceTotalMem_v2", byref(total), self.handle)
        return total.value

    def context(self) -> Context:
        """A context, current in this thread. To be closed."""
        handle = c_void_p()
        self._cuda.call("cuCtxCreate_v2", byref(handle), c_uint(_BLOCKING_SYNC), self.handle)
        return Context(self._cuda, handle)


class Held:
    """Something of the driver's that is to be given back; giving back never fails: what the driver cannot free is gone
    with the process."""

    _free = ""

    def __init__(self, cuda: Cuda, handle: c_void_p | c_uint64) -> None:
        self._cuda, self.handle = cuda, handle
        self._closed = False

    def close(self) -> None:
        """Give it back; again does nothing."""
        if not self._closed:
            self._closed = True
            self._cuda.result(self._free, self.handle)


class Block(Held):
    """A piece of the card's memory: ``address`` on the device, ``size`` in bytes."""

    _free = "cuMemFree_v2"

    def __init__(self, cuda: Cuda, handle: c_uint64, size: int) -> None:
        super().__init__(cuda, handle)
        self.address, self.size = int(handle.value), size


class HostBuffer(Held):
    """Pinned memory of the host, which the card reads and writes by itself. ``view`` are its bytes."""

    _free = "cuMemFreeHost"

    def __init__(self, cuda: Cuda, handle: c_void_p, size: int) -> None:
        super().__init__(cuda, handle)
        assert handle.value is not None
        self.size = size
        self.view = memoryview((c_char * size).from_address(handle.value)).cast("B")


class Event(Held):
    """A moment in a stream."""

    _free = "cuEventDestroy_v2"

    def record(self, stream: Stream) -> None:
        """Let it happen when all that is in the stream up to now is done."""
        self._cuda.call("cuEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until it has happened."""
        self._cuda.call("cuEventSynchronize", self.handle)

    def seconds_since(self, earlier: Event) -> float:
        """On the card's own clock, to about a microsecond; both must have happened."""
        milliseconds = c_float()
        self._cuda.call("cuEventElapsedTime", byref(milliseconds), earlier.handle, self.handle)
        return milliseconds.value / 1000


class Module(Held):
    """Kernels, loaded."""

    _free = "cuModuleUnload"

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name."""
        handle = c_void_p()
        self._cuda.call("cuModuleGetFunction", byref(handle), self.handle, c_char_p(name.encode()))
        return Kernel(self._cuda, handle)


class Kernel:
    """A function to be launched."""

    def __init__(self, cuda: Cuda, handle: c_void_p) -> None:
        self._cuda, self._handle = cuda, handle

    def launch(self, stream: Stream, blocks: int, threads: int, arguments: Sequence[Argument]) -> None:
        """Put it into the stream. ``arguments`` must be of the kernel's own types: nothing checks them."""
        # The driver copies the values before it returns; until then `arguments` keeps them alive.
        pointers = (c_void_p * len(arguments))(*[ctypes.addressof(argument) for argument in arguments])
        shape = (c_uint(blocks), c_uint(1), c_uint(1), c_uint(threads), c_uint(1), c_uint(1))
        self._cuda.call("cuLaunchKernel", self._handle, *shape, c_uint(0), stream.handle, pointers, c_void_p())


class Stream(Held):
    """Work that is done in the order it was given."""

    _free = "cuStreamDestroy_v2"

    def synchronize(self) -> None:
        """Wait until all of it is done."""
        self._cuda.call("cuStreamSynchronize", self.handle)

    def copy(self, destination: int, source: int, size: int) -> None:
        """Within the card."""
        self._cuda.call("cuMemcpyDtoDAsync_v2", c_uint64(destination), c_uint64(source), c_size_t(size), self.handle)

    def upload(self, destination: int, source: HostBuffer, size: int) -> None:
        """From the host to the card."""
        self._cuda.call("cuMemcpyHtoDAsync_v2", c_uint64(destination), source.handle, c_size_t(size), self.handle)

    def download(self, destination: HostBuffer, source: int, size: int) -> None:
        """From the card to the host; ``destination`` holds it once the stream is done."""
        self._cuda.call("cuMemcpyDtoHAsync_v2", destination.handle, c_uint64(source), c_size_t(size), self.handle)

    def clear(self, destination: int, size: int) -> None:
        """Zeros."""
        self._cuda.call("cuMemsetD8Async", c_uint64(destination), c_ubyte(0), c_size_t(size), self.handle)


class Context(Held):
    """What this process has on a card. Closing it frees all the rest too."""

    _free = "cuCtxDestroy_v2"

    def memory(self) -> tuple[int, int]:
        """Bytes (free, total), as CUDA counts them."""
        free, total = c_size_t(), c_size_t()
        self._cuda.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> Block | None:
        """``size`` bytes of the card's memory; None where there is not so much in one piece."""
        address = c_uint64()
        code = self._cuda.result("cuMemAlloc_v2", byref(address), c_size_t(size))
        if code == OUT_OF_MEMORY:
            return None
        if code:
            raise CudaError("cuMemAlloc_v2", code, *self._cuda._words(code))
        return Block(self._cuda, address, size)

    def host_buffer(self, size: int) -> HostBuffer:
        """``size`` bytes of pinned memory."""
        address = c_void_p()
        self._cuda.call("cuMemHostAlloc", byref(address), c_size_t(size), c_uint(0))
        return HostBuffer(self._cuda, address, size)

    def module(self, image: bytes) -> Module:
        """The kernels of a PTX text, compiled for the card by the driver."""
        handle = c_void_p()
        self._cuda.call("cuModuleLoadDataEx", byref(handle), c_char_p(image), c_uint(0), c_void_p(), c_void_p())
        return Module(self._cuda, handle)

    def stream(self) -> Stream:
        """A stream of its own, that does not wait for others."""
        handle = c_void_p()
        self._cuda.call("cuStreamCreate", byref(handle), c_uint(1))
        return Stream(self._cuda, handle)

    def event(self) -> Event:
        """An event that sleeps while it is waited for."""
        handle = c_void_p()
        self._cuda.call("cuEventCreate", byref(handle), c_uint(1))
        return Event(self._cuda, handle)
