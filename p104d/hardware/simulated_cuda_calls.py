"""The functions of the simulated CUDA driver, one for each of the driver API's that the memory test calls: the device,
contexts, memory and copies. Kernels, streams and events are in ``simulated_cuda_launch``."""

from __future__ import annotations

import ctypes
import hashlib
import re
from typing import TYPE_CHECKING, Any

from p104d.hardware.simulated_cuda_launch import LAUNCHING
from p104d.hardware.simulated_cuda_memory import CONTEXT_BYTES, INVALID_VALUE, OUT_OF_MEMORY, CudaFailure
from p104d.hardware.simulated_cuda_values import (
    ERRORS,
    INVALID_CONTEXT,
    INVALID_DEVICE,
    SUCCESS,
    Call,
    Context,
    HostMemory,
    address,
    check_stream,
    number,
    put,
)

if TYPE_CHECKING:
    from p104d.hardware.simulated_cuda import SimulatedCuda

#: CUdevice_attribute numbers, but for those that depend on the card: threads, warp, SM clock (kHz), multiprocessors,
#: memory clock (kHz), bus width, L2 cache, copy engines. A P104-100's.
_ATTRIBUTES = {1: 1024, 10: 32, 13: 1_733_500, 16: 15, 36: 5_005_000, 37: 256, 38: 2 << 20, 40: 2}
#: Of copies to and from the host.
_CHUNK_BYTES = 64 * 1024


def _error_text(position: int) -> Call:
    def text(_library: SimulatedCuda, code: Any, out: Any) -> int:
        known = ERRORS.get(number(code))
        put(out, known[position] if known else None)
        return SUCCESS if known else INVALID_VALUE

    return text


def _driver_version(_library: SimulatedCuda, version: Any) -> None:
    put(version, 12080)


def _init(library: SimulatedCuda, flags: Any) -> None:
    if number(flags):
        raise CudaFailure(INVALID_VALUE)
    library.initialise()


# --- the device


def _the_device(library: SimulatedCuda, ordinal: Any) -> Any:
    if number(ordinal):
        raise CudaFailure(INVALID_DEVICE)
    return library.device()


def _device_count(library: SimulatedCuda, count: Any) -> None:
    library.device()
    put(count, 1)


def _device_get(library: SimulatedCuda, device: Any, ordinal: Any) -> None:
    _the_device(library, ordinal)
    put(device, 0)


def _device_name(library: SimulatedCuda, name: Any, length: Any, device: Any) -> None:
    room = number(length) - 1
    shown = _the_device(library, device).spec.name.encode()[:room] + b"\0"
    ctypes.memmove(address(name), shown, len(shown))


def _device_uuid(library: SimulatedCuda, uuid: Any, device: Any) -> None:
    uuid_text = _the_device(library, device).spec.uuid
    digits = uuid_text.removeprefix("GPU-").replace("-", "")
    # A rig file may name a card as no driver would; CUDA has 16 bytes for it.
    valid = re.fullmatch(r"[0-9a-fA-F]{32}", digits)
    data = bytes.fromhex(digits) if valid else hashlib.sha256(uuid_text.encode()).digest()[:16]
    ctypes.memmove(address(uuid), data, 16)


def _device_attribute(library: SimulatedCuda, value: Any, attribute: Any, device: Any) -> None:
    card = _the_device(library, device)
    domain, bus, place = card.bus_id(library.rig.now()).removesuffix(".0").split(":")
    major, _, minor = card.spec.compute_capability.partition(".")
    own = {33: int(bus, 16), 34: int(place, 16), 50: int(domain, 16), 75: int(major), 76: int(minor)}
    put(value, {**_ATTRIBUTES, **own}.get(number(attribute), 0))


def _device_memory(library: SimulatedCuda, size: Any, device: Any) -> None:
    _the_device(library, device)
    put(size, library.device_memory().total)


# --- contexts and memory


def _context_create(library: SimulatedCuda, context: Any, _flags: Any, device: Any) -> None:
    card, now = _the_device(library, device), library.rig.now()
    others = card.memory_used(now) + len(library.contexts) * CONTEXT_BYTES
    if library.device_memory().total - others < CONTEXT_BYTES:
        raise CudaFailure(OUT_OF_MEMORY)
    new = Context(now)
    handle = library.handle(new)
    library.contexts[handle] = new
    put(context, handle)


def _context_destroy(library: SimulatedCuda, context: Any) -> None:
    if library.contexts.pop(number(context), None) is None:
        raise CudaFailure(INVALID_CONTEXT)
    if not library.contexts:
        library.device_memory().release_all()


def _synchronize(library: SimulatedCuda, stream: Any = None) -> None:
    check_stream(library, stream)
    library.wait()


def _memory_info(library: SimulatedCuda, free: Any, total: Any) -> None:
    put(free, library.free_bytes())
    put(total, library.device_memory().total)


def _allocate(library: SimulatedCuda, pointer: Any, size: Any) -> None:
    put(pointer, library.device_memory().allocate(number(size), library.free_bytes()))


def _free(library: SimulatedCuda, pointer: Any) -> None:
    library.wait()
    library.device_memory().release(number(pointer))


def _host_allocate(library: SimulatedCuda, pointer: Any, size: Any, _flags: Any) -> None:
    if not number(size):
        raise CudaFailure(INVALID_VALUE)
    memory = HostMemory(number(size))
    library.objects[memory.address] = memory
    put(pointer, memory.address)


def _host_free(library: SimulatedCuda, pointer: Any) -> None:
    library.wait()
    memory = library.objects.get(number(pointer))
    if not isinstance(memory, HostMemory):
        raise CudaFailure(INVALID_VALUE)
    del library.objects[number(pointer)]
    memory.close()


# --- copies: in chunks, so that large buffers of one value are recognised in cache and never held as a whole


def _to_card(library: SimulatedCuda, target: Any, origin: Any, size: Any, stream: Any = None) -> None:
    check_stream(library, stream)
    memory, count = library.device_memory(), number(size)
    place = memory.locate(number(target), count, INVALID_VALUE)
    for start in range(0, count, _CHUNK_BYTES):
        memory.symbolic.write(
            place + start, ctypes.string_at(address(origin) + start, min(_CHUNK_BYTES, count - start))
        )
    library.timeline.work(count / library.device().spec.host_to_device)


def _from_card(library: SimulatedCuda, target: Any, origin: Any, size: Any, stream: Any = None) -> None:
    check_stream(library, stream)
    memory, count = library.device_memory(), number(size)
    place = memory.locate(number(origin), count, INVALID_VALUE)
    for start in range(0, count, _CHUNK_BYTES):
        size_now = min(_CHUNK_BYTES, count - start)
        ctypes.memmove(address(target) + start, memory.symbolic.read(place + start, size_now), size_now)
    library.timeline.work(count / library.device().spec.host_to_device)


def _within_card(library: SimulatedCuda, target: Any, origin: Any, size: Any, stream: Any = None) -> None:
    check_stream(library, stream)
    memory, count = library.device_memory(), number(size)
    addresses = [memory.locate(number(one), count, INVALID_VALUE) for one in (target, origin)]
    memory.symbolic.copy(addresses[0], addresses[1], count)
    library.timeline.work(2 * count / library.bandwidth())


def _set(library: SimulatedCuda, target: Any, value: Any, size: Any, stream: Any = None) -> None:
    check_stream(library, stream)
    memory, count = library.device_memory(), number(size)
    memory.symbolic.set_bytes(memory.locate(number(target), count, INVALID_VALUE), number(value) & 255, count)
    library.timeline.work(count / library.bandwidth())


def _waiting(copy: Call) -> Call:
    def call(library: SimulatedCuda, *arguments: Any) -> None:
        copy(library, *arguments)
        library.wait()

    return call


#: Answered without a card and without cuInit.
ALWAYS: dict[str, Call] = {
    "cuInit": _init,
    "cuDriverGetVersion": _driver_version,
    "cuGetErrorName": _error_text(0),
    "cuGetErrorString": _error_text(1),
}
WITHOUT_CONTEXT = frozenset(
    {
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDeviceGetName",
        "cuDeviceGetUuid",
        "cuDeviceGetUuid_v2",
        "cuDeviceGetAttribute",
        "cuDeviceTotalMem_v2",
        "cuCtxCreate_v2",
        "cuCtxDestroy_v2",
    }
)
FUNCTIONS: dict[str, Call] = {
    "cuDeviceGetCount": _device_count,
    "cuDeviceGet": _device_get,
    "cuDeviceGetName": _device_name,
    "cuDeviceGetUuid": _device_uuid,
    "cuDeviceGetUuid_v2": _device_uuid,
    "cuDeviceGetAttribute": _device_attribute,
    "cuDeviceTotalMem_v2": _device_memory,
    "cuCtxCreate_v2": _context_create,
    "cuCtxDestroy_v2": _context_destroy,
    "cuCtxSynchronize": _synchronize,
    "cuMemGetInfo_v2": _memory_info,
    "cuMemAlloc_v2": _allocate,
    "cuMemFree_v2": _free,
    "cuMemHostAlloc": _host_allocate,
    "cuMemFreeHost": _host_free,
    "cuMemcpyHtoDAsync_v2": _to_card,
    "cuMemcpyDtoHAsync_v2": _from_card,
    "cuMemcpyDtoDAsync_v2": _within_card,
    "cuMemcpyHtoD_v2": _waiting(_to_card),
    "cuMemcpyDtoH_v2": _waiting(_from_card),
    "cuMemsetD8Async": _set,
    "cuStreamSynchronize": _synchronize,
    **LAUNCHING,
}
