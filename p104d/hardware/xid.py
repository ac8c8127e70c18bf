"""XID errors from two sources that both miss some: NVML's events and the kernel log. Each is told once."""

from __future__ import annotations

import os
import re

import msgspec

from p104d.core.card import XidEvent

#: As the kernel module prints it; there is no PCI function in the address. Source: docs.nvidia.com/deploy/xid-errors.
_LINE = re.compile(
    r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})[^)]*\): "
    r"(\d+)(?:, pid=([^,]+), name=([^,]*))?,? ?(.*)"
)
#: NVML and the kernel log tell of the same error within this time; later, an equal one is another.
_SAME_SECONDS = 10.0
#: Records read in one go: a log in flood must not hold up the readings.
_MAX_RECORDS = 2000


def normal_bus_id(text: str) -> str:
    """A bus address as NVML prints it (``00000000:01:00.0``), from any of the usual ways to write it."""
    head, _, device = text.strip().upper().rpartition(":")
    domain, _, bus = head.rpartition(":")
    return f"{int(domain or '0', 16):08X}:{bus}:{device.partition('.')[0]}.0"


def parse_line(line: str) -> XidEvent | None:
    """The XID that a line of the kernel log tells of, if it does."""
    match = _LINE.search(line)
    if match is None:
        return None
    bus, code, pid, _name, text = match.groups()
    pid = (pid or "").strip("'<> ")
    return XidEvent(
        code=int(code), bus_id=normal_bus_id(bus), pid=int(pid) if pid.isdigit() else None, text=text.strip() or None
    )


class KernelLog:
    """/dev/kmsg, read without waiting. ``sequence`` is the last record seen, to go on behind after a restart."""

    def __init__(self, path: str, after: int | None) -> None:
        """Raises OSError where the log cannot be read. ``after`` None: only what comes from now on."""
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.sequence = after
        if after is None:
            # Not by seeking to the end: the number of the last record is what a successor goes on behind.
            while self._records():
                pass
            self.sequence = self.sequence if self.sequence is not None else -1

    def read(self) -> list[XidEvent]:
        """The XIDs since the last call."""
        events = [parse_line(text) for text in self._records() if "Xid" in text]
        return [event for event in events if event is not None]

    def _records(self) -> list[str]:
        """The texts of the next records, some thousand at most."""
        texts = []
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(self._file, 8192)
            except BlockingIOError:
                break
            except OSError:
                # EPIPE: the record was overwritten before we read it; the next read goes on behind the gap.
                continue
            if not record:
                break
            texts += [text for line in record.decode("utf-8", "replace").splitlines() if (text := self._fresh(line))]
        return texts

    def _fresh(self, line: str) -> str | None:
        """The text of a record (``priority,sequence,time,flags;text``) that was not seen before."""
        head, _, text = line.partition(";")
        fields = head.split(",")
        if len(fields) < 2 or not fields[1].isdigit():
            return None  # a record's further lines: its device and subsystem
        sequence = int(fields[1])
        if self.sequence is not None and sequence <= self.sequence:
            return None
        self.sequence = sequence
        return text

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)


class Deduplicator:
    """Lets each XID pass once: one told by one source is matched with one equal of the other, in either order."""

    def __init__(self) -> None:
        self._unmatched: dict[tuple[str, int], list[tuple[float, str]]] = {}

    def fresh(self, event: XidEvent, source: str, card: str, now: float) -> bool:
        """Whether ``event`` of ``card`` is news: nothing equal came from the other source within the last seconds."""
        key = (card, event.code)
        waiting = [one for one in self._unmatched.get(key, ()) if now - one[0] <= _SAME_SECONDS]
        twin = next((one for one in waiting if one[1] != source), None)
        if twin is not None:
            waiting.remove(twin)
        else:
            waiting.append((now, source))
        if waiting:
            self._unmatched[key] = waiting
        else:
            self._unmatched.pop(key, None)
        return twin is None


class XidCollector:
    """Both sources together; ``cards`` maps bus address to UUID."""

    def __init__(self, log: KernelLog | None) -> None:
        self.log = log
        self._seen = Deduplicator()

    def collect(self, events: list[XidEvent], cards: dict[str, str], now: float) -> tuple[XidEvent, ...]:
        """The news in NVML's ``events`` and the kernel log. The log comes first: it tells the process and a text."""
        news = []
        for event in self.log.read() if self.log is not None else ():
            event = msgspec.structs.replace(event, uuid=cards.get(event.bus_id or ""))
            if self._seen.fresh(event, "log", event.uuid or event.bus_id or "", now):
                news.append(event)
        for event in events:
            if self._seen.fresh(event, "nvml", event.uuid or event.bus_id or "", now):
                news.append(event)
        return tuple(news)
