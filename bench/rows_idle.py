"""What the daemon costs while nothing happens: twelve cards read once a second."""

from __future__ import annotations

import time

from bench.proc import cpu_nanoseconds, memory_bytes
from bench.queues import Queue
from bench.setting import Setting, spread
from bench.table import Ratios, Row, mebibytes

CARDS = 12
CPU_LIMIT_PERCENT = 1.0
MEMORY_LIMIT = 80 * 2**20
SECONDS = 30.0
#: Caches fill and the allocator settles in the first cycles.
SETTLE_SECONDS = 5.0


def percent(value: float) -> str:
    """``0.42 %``, of one core."""
    return f"{value:.2f} %"


def measure(setting: Setting) -> list[Row]:
    """Processor time and proportional set size of daemon and children, over the same seconds as the peers'."""
    with setting.peers() as peers, setting.rig(cards=CARDS) as rig:
        rig.wait(rig.submit_text(rig.document(["true"])))
        queues: dict[str, Queue] = {rig.name: rig, **peers}
        pids = {name: queue.processes() for name, queue in queues.items()}
        time.sleep(1.0 if setting.quick else SETTLE_SECONDS)
        before = {name: cpu_nanoseconds(found) for name, found in pids.items()}
        started = time.monotonic()
        time.sleep(SECONDS / 10 if setting.quick else SECONDS)
        elapsed = time.monotonic() - started
        used = {name: (cpu_nanoseconds(found) - before[name]) / elapsed / 1e7 for name, found in pids.items()}
        memory = {name: float(memory_bytes(found)) for name, found in pids.items()}
    return cost_rows(f"idle, {CARDS} cards at 1 Hz, daemon and children", used, memory)


def cost_rows(what: str, used: dict[str, float], memory: dict[str, float]) -> list[Row]:
    """The two rows of what it costs: per cent of one core and bytes, by name, ours as ``p104d``."""
    cpu, size = Ratios(used.pop("p104d")), Ratios(memory.pop("p104d"))
    for name in used:
        if used[name] > 0:
            cpu.against(name, used[name])
        size.against(name, memory[name])
    return [
        Row(
            f"{what}: of one core",
            percent(cpu.ours),
            spread(used, percent),
            cpu.text,
            f"< {CPU_LIMIT_PERCENT:.0f} %",
            cpu.ours < CPU_LIMIT_PERCENT,
        ),
        Row(
            f"{what}: memory (PSS)",
            mebibytes(size.ours),
            spread(memory, mebibytes),
            size.text,
            f"< {mebibytes(MEMORY_LIMIT)}",
            size.ours < MEMORY_LIMIT,
        ),
    ]
