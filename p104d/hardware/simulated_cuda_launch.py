"""The functions of the simulated CUDA driver for modules, launches, streams and events."""

from __future__ import annotations

import ctypes
import re
from typing import TYPE_CHECKING, Any

from p104d.hardware.simulated_cuda_memory import INVALID_VALUE, CudaFailure
from p104d.hardware.simulated_cuda_values import (
    INVALID_HANDLE,
    INVALID_PTX,
    NOT_FOUND,
    NOT_READY,
    SUCCESS,
    Call,
    Event,
    Module,
    Stream,
    address,
    check_stream,
    number,
    put,
    text,
    the_object,
)

if TYPE_CHECKING:
    from p104d.hardware.simulated_cuda import SimulatedCuda

_TARGET = re.compile(rb"\.target\s+sm_(\d+)")
#: In a block, on any card since 2010.
_MOST_THREADS = 1024


def _module_load(library: SimulatedCuda, module: Any, image: Any, *_options: Any) -> None:
    ptx = text(image)
    target = _TARGET.search(ptx)
    capability = int(library.device().spec.compute_capability.replace(".", ""))
    if target is None or int(target[1]) > capability:
        raise CudaFailure(INVALID_PTX)
    put(module, library.handle(Module(ptx)))


def _destroy(kind: type) -> Call:
    def destroy(library: SimulatedCuda, handle: Any) -> None:
        the_object(library, handle, kind)
        del library.objects[number(handle)]

    return destroy


def _module_function(library: SimulatedCuda, function: Any, module: Any, name: Any) -> None:
    ptx, wanted = the_object(library, module, Module).text, text(name)
    kernel = library.kernels.get(wanted.decode())
    if kernel is None or not re.search(rb"\.entry\s+" + re.escape(wanted) + rb"\b", ptx):
        raise CudaFailure(NOT_FOUND)
    put(function, library.handle(kernel))


def _launch(library: SimulatedCuda, function: Any, *rest: Any) -> None:
    *sizes, _shared, stream, parameters, _extra = rest
    kernel = library.objects.get(number(function))
    if not callable(kernel):
        raise CudaFailure(INVALID_HANDLE)
    check_stream(library, stream)
    grid, block = [number(one) for one in sizes[:3]], [number(one) for one in sizes[3:]]
    if min(*grid, *block) < 1 or block[0] * block[1] * block[2] > _MOST_THREADS or not address(parameters):
        raise CudaFailure(INVALID_VALUE)
    places = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))
    types: tuple[Any, ...] = kernel.parameters
    values = [kind.from_address(places[slot]).value for slot, kind in enumerate(types)]
    try:
        moved = kernel(library.device_memory(), *values)
    except CudaFailure as failure:
        library.break_context(failure.code)
        raise
    library.timeline.work(moved / library.bandwidth())


# --- streams and events


def _stream_create(library: SimulatedCuda, stream: Any, _flags: Any) -> None:
    put(stream, library.handle(Stream()))


def _event_create(library: SimulatedCuda, event: Any, _flags: Any) -> None:
    put(event, library.handle(Event()))


def _event_record(library: SimulatedCuda, event: Any, stream: Any) -> None:
    check_stream(library, stream)
    found = the_object(library, event, Event)
    found.done, found.ready = library.timeline.done, library.timeline.ready


def _event_query(library: SimulatedCuda, event: Any) -> int:
    return NOT_READY if the_object(library, event, Event).ready > library.clock() else SUCCESS


def _event_synchronize(library: SimulatedCuda, event: Any) -> None:
    library.wait(the_object(library, event, Event).ready)


def _event_elapsed(library: SimulatedCuda, milliseconds: Any, begin: Any, end: Any) -> None:
    first, last = the_object(library, begin, Event), the_object(library, end, Event)
    if first.done is None or last.done is None:
        raise CudaFailure(INVALID_HANDLE)
    if max(first.ready, last.ready) > library.clock():
        raise CudaFailure(NOT_READY)
    put(milliseconds, (last.done - first.done) * 1000)


LAUNCHING: dict[str, Call] = {
    "cuModuleLoadDataEx": _module_load,
    "cuModuleUnload": _destroy(Module),
    "cuModuleGetFunction": _module_function,
    "cuLaunchKernel": _launch,
    "cuStreamCreate": _stream_create,
    "cuStreamDestroy_v2": _destroy(Stream),
    "cuEventCreate": _event_create,
    "cuEventDestroy_v2": _destroy(Event),
    "cuEventRecord": _event_record,
    "cuEventQuery": _event_query,
    "cuEventSynchronize": _event_synchronize,
    "cuEventElapsedTime": _event_elapsed,
}
