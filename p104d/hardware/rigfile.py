"""Reads the TOML file that describes a simulated rig, and fills in what the catalog knows of its cards."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tomllib
from collections.abc import Iterable
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec

from p104d.core.errors import UsageError
from p104d.core.units import GIB, parse_duration, parse_size
from p104d.hardware import catalog
from p104d.hardware.rig import FAULT_KINDS, BadBit, Rig, RigCard, RigFault, RigProcess

#: An emergency backstop: boards take 19 cards at most.
MAX_CARDS = 64
#: Pids of simulated foreign processes start above PID_MAX_LIMIT (2**22), so that none is a real one.
FIRST_FOREIGN_PID = 5_000_000
_BUS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.0)?", re.IGNORECASE)
#: Host-to-device bytes per second of one PCIe 1.0 lane, as measured on these cards (0.74 GiB/s on x4).
_LANE_BYTES_PER_SECOND = 0.185 * GIB
#: What a program gets of a memory's nominal bandwidth, and the nominal one where the catalog has none.
_BANDWIDTH_SHARE, _BANDWIDTH = 0.8, 256e9

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_Index = Annotated[int, msgspec.Meta(ge=0)]


class _BadBit(msgspec.Struct):
    address: str | _Index
    stuck_at: Annotated[int, msgspec.Meta(ge=0, le=1)]
    bit: Annotated[int, msgspec.Meta(ge=0, le=7)] = 0


class _Card(msgspec.Struct):
    name: str = "P104-100"
    memory: str | None = None
    physical_memory: str | None = None
    bad_bits: list[dict[str, Any]] = []
    link_width: Annotated[int, msgspec.Meta(ge=1, le=32)] | None = None
    link_width_max: Annotated[int, msgspec.Meta(ge=1, le=32)] | None = None
    link_generation: Annotated[int, msgspec.Meta(ge=1, le=7)] | None = None
    link_generation_max: Annotated[int, msgspec.Meta(ge=1, le=7)] | None = None
    host_to_device: str | None = None
    memory_bandwidth: str | None = None
    vbios: str = "86.04.7A.00.20"
    uuid: str | None = None
    bus_id: str | None = None
    device_id: str | None = None
    subsystem_id: str = "10de:1201"
    memory_used_by_others: str | None = None
    power_limit: Annotated[float, msgspec.Meta(gt=0, le=2000)] | None = None
    power_limit_min: Annotated[float, msgspec.Meta(gt=0, le=2000)] | None = None
    power_limit_max: Annotated[float, msgspec.Meta(gt=0, le=2000)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=-20, le=120)] = 34.0
    compute_capability: str | None = None
    unsupported: list[str] = []


class _Fault(msgspec.Struct, rename={"duration": "for"}):
    kind: str
    at: str = "0s"
    card: _Index | None = None
    code: _Index | None = None
    duration: str | None = None
    bus_id: str | None = None


class _Process(msgspec.Struct, rename={"duration": "for"}):
    card: _Index
    memory: str
    at: str = "0s"
    duration: str | None = None
    pid: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Top(msgspec.Struct):
    card: list[dict[str, Any]]
    fault: list[dict[str, Any]] = []
    process: list[dict[str, Any]] = []
    driver: str = "580.95.05"
    speedup: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 10.0


class _Reader:
    """Where in the file we are, for messages."""

    def __init__(self, path: str) -> None:
        self.path = path

    def refuse(self, where: str, message: str, mend: str | None = None) -> NoReturn:
        place = f"{self.path}: {where}: " if where else f"{self.path}: "
        raise UsageError(place + message, mend=mend or "see the rig files in the documentation")

    def convert(self, table: dict[str, Any], kind: type[_Struct], where: str) -> _Struct:
        """``table`` as ``kind``: unknown keys, missing keys and wrong types are refused."""
        known = [field.encode_name for field in msgspec.structs.fields(kind)]
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                mend = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
                self.refuse(where, f"unknown key {key!r}", mend)
        try:
            return msgspec.convert(table, kind)
        except msgspec.ValidationError as error:
            reason, _, path = str(error).partition(" - at ")
            key = path.strip("`").removeprefix("$").lstrip(".")
            named = ", ".join(filter(None, (where, f"key {key!r}" if key else "")))
            self.refuse(named, reason[:1].lower() + reason[1:])

    def size(self, text: str | None, where: str, key: str) -> int | None:
        if text is None:
            return None
        try:
            return parse_size(text)
        except ValueError as error:
            self.refuse(f"{where}, key {key!r}", str(error))

    def seconds(self, text: str | None, where: str, key: str) -> float | None:
        if text is None:
            return None
        if text.strip() in {"0", "0s"}:
            return 0.0
        try:
            return parse_duration(text)
        except ValueError as error:
            self.refuse(f"{where}, key {key!r}", str(error))

    def speed(self, text: str | None, where: str, key: str) -> float | None:
        if text is None:
            return None
        if not text.endswith("/s"):
            self.refuse(f"{where}, key {key!r}", f"{text!r} is not a speed", "write it as 0.16GiB/s")
        size = self.size(text.removesuffix("/s"), where, key)
        return None if size is None else float(size)

    def bus_id(self, text: str, where: str) -> str:
        match = _BUS.fullmatch(text)
        if match is None:
            self.refuse(f"{where}, key 'bus_id'", f"{text!r} is not a bus address", "write it as 0000:01:00.0")
        return f"{int(match[1] or '0', 16):08X}:{match[2].upper()}:{match[3].upper()}.0"


def load(path: str) -> Rig:
    """The rig that the file at ``path`` describes. Raises UsageError naming file, key and mend."""
    reader = _Reader(path)
    top = reader.convert(_read(reader, path), _Top, "")
    if not 1 <= len(top.card) <= MAX_CARDS:
        reader.refuse("[[card]]", f"{len(top.card)} cards", f"describe 1 to {MAX_CARDS}")
    seed = os.path.basename(path)
    cards = tuple(_card(reader, table, position, seed) for position, table in enumerate(top.card))
    _unique(reader, "uuid", [card.uuid for card in cards])
    _unique(reader, "bus_id", [card.bus_id for card in cards])
    return Rig(
        cards=cards,
        faults=tuple(_fault(reader, table, number, len(cards)) for number, table in enumerate(top.fault)),
        processes=tuple(_process(reader, table, number, len(cards)) for number, table in enumerate(top.process)),
        driver_version=top.driver,
        speedup=top.speedup,
        source=path,
    )


def healthy(count: int) -> Rig:
    """``count`` healthy unlocked P104-100."""
    if not 1 <= count <= MAX_CARDS:
        raise UsageError(f"a rig of {count} cards cannot be simulated", mend=f"give 1 to {MAX_CARDS}, or a rig file")
    reader = _Reader("--simulate")
    cards = tuple(_card(reader, {}, position, "healthy") for position in range(count))
    return Rig(cards=cards, source=f"{count} simulated P104-100")


def _read(reader: _Reader, path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        reader.refuse("", f"cannot be read: {error.strerror}", "give --simulate a number of cards, or a rig file")
    except UnicodeDecodeError:
        reader.refuse("", "is not UTF-8 text", "save it as UTF-8")
    except tomllib.TOMLDecodeError as error:
        reader.refuse("", f"is not TOML: {error}", "mend that line")


def _unique(reader: _Reader, key: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for number, value in enumerate(values):
        if value in seen:
            reader.refuse(f"[[card]] {number}, key {key!r}", f"{value} is used twice", "give each card its own")
        seen.add(value)


def _uuid(seed: str, position: int, name: str) -> str:
    """Stable while the file keeps its name and the card its place and kind, whatever else is edited:
    a rig whose VBIOS or memory changes is still the same rig."""
    digest = hashlib.sha256(f"p104d simulated card\0{seed}\0{position}\0{name}".encode()).hexdigest()
    return f"GPU-{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def _card(reader: _Reader, table: dict[str, Any], position: int, seed: str) -> RigCard:
    where = f"[[card]] {position}"
    raw = reader.convert(table, _Card, where)
    entry = catalog.lookup(raw.device_id, raw.name)
    memory = reader.size(raw.memory, where, "memory") or (entry.full_bytes if entry else 8 * GIB)
    physical = reader.size(raw.physical_memory, where, "physical_memory") or memory
    default_limit = (entry.power_watts if entry else None) or 180.0
    limits = _limits(reader, raw, default_limit, where)
    generation_max = raw.link_generation_max or (entry.link_generation if entry else None) or 1
    width_max = raw.link_width_max or (entry.link_width if entry else None) or 4
    generation, width = raw.link_generation or generation_max, raw.link_width or width_max
    speed = reader.speed(raw.host_to_device, where, "host_to_device")
    bandwidth = reader.speed(raw.memory_bandwidth, where, "memory_bandwidth")
    return RigCard(
        name=raw.name,
        uuid=raw.uuid or _uuid(seed, position, raw.name),
        bus_id=reader.bus_id(raw.bus_id or f"{position + 1:02x}:00", where),
        device_id=_pci_id(reader, raw.device_id or (entry.device_ids[0] if entry else "10de:0000"), where),
        subsystem_id=_pci_id(reader, raw.subsystem_id, where),
        vbios=raw.vbios,
        memory=memory,
        physical_memory=physical,
        bad_bits=tuple(_bad_bit(reader, bit, where, memory) for bit in raw.bad_bits),
        link_generation=generation,
        link_width=width,
        link_generation_max=max(generation, generation_max),
        link_width_max=max(width, width_max),
        host_to_device=speed or _LANE_BYTES_PER_SECOND * width * 2 ** (generation - 1),
        memory_bandwidth=bandwidth or ((entry.bandwidth if entry else None) or _BANDWIDTH) * _BANDWIDTH_SHARE,
        memory_used_by_others=reader.size(raw.memory_used_by_others, where, "memory_used_by_others") or 0,
        power_limit=limits[1],
        power_limit_min=limits[0],
        power_limit_max=limits[2],
        power_limit_default=default_limit,
        temperature=raw.temperature,
        compute_capability=_capability(reader, raw.compute_capability, entry, where),
        unsupported=tuple(raw.unsupported),
    )


def _limits(reader: _Reader, raw: _Card, default: float, where: str) -> tuple[float, float, float]:
    # An owner's P104-100 (180 W) allows 90 to 217 W; others are given the same proportions.
    low = raw.power_limit_min or round(default * 0.5)
    high = raw.power_limit_max or max(low, round(default * 1.206))
    limit = raw.power_limit or min(max(default, low), high)
    if not low <= limit <= high:
        reader.refuse(
            f"{where}, key 'power_limit'",
            f"{limit:g} W is outside {low:g}..{high:g} W",
            "give power_limit_min and power_limit_max too",
        )
    return float(low), float(limit), float(high)


def _pci_id(reader: _Reader, text: str, where: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{4}", text):
        reader.refuse(where, f"{text!r} is not a PCI id", "write it as 10de:1b87")
    return text.lower()


def _capability(reader: _Reader, text: str | None, entry: catalog.CatalogEntry | None, where: str) -> str:
    text = text or (entry.compute_capability if entry else None) or "6.1"
    if not re.fullmatch(r"[0-9]{1,2}\.[0-9]{1,2}", text):
        reader.refuse(f"{where}, key 'compute_capability'", f"{text!r} is not one", "write it as 6.1")
    return text


def _bad_bit(reader: _Reader, table: dict[str, Any], where: str, memory: int) -> BadBit:
    where = f"{where}, bad_bits"
    raw = reader.convert(table, _BadBit, where)
    try:
        address = int(raw.address, 0) if isinstance(raw.address, str) else raw.address
    except ValueError:
        reader.refuse(where, f"{raw.address!r} is not an address", "write it as 0x1_4000_0000")
    if not 0 <= address < memory:
        reader.refuse(where, f"address {address:#x} is outside the card's memory", f"it ends at {memory:#x}")
    return BadBit(address=address, bit=raw.bit, stuck_at=raw.stuck_at)


def _fault(reader: _Reader, table: dict[str, Any], number: int, cards: int) -> RigFault:
    where = f"[[fault]] {number}"
    raw = reader.convert(table, _Fault, where)
    if raw.kind not in FAULT_KINDS:
        near = difflib.get_close_matches(raw.kind, FAULT_KINDS, 1)
        mend = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FAULT_KINDS)}"
        reader.refuse(f"{where}, key 'kind'", f"unknown kind {raw.kind!r}", mend)
    if raw.card is None and raw.kind != "driver_reload":
        reader.refuse(where, f"a {raw.kind!r} needs a card", "add card = 0, the position of a [[card]]")
    if raw.card is not None and raw.card >= cards:
        reader.refuse(f"{where}, key 'card'", f"there is no card {raw.card}", f"cards are 0 to {cards - 1}")
    if raw.kind == "xid" and raw.code is None:
        reader.refuse(where, "an 'xid' needs its code", "add code = 79")
    if raw.kind == "moved" and raw.bus_id is None:
        reader.refuse(where, "a 'moved' needs the new bus address", 'add bus_id = "0000:0a:00.0"')
    return RigFault(
        at=reader.seconds(raw.at, where, "at") or 0.0,
        kind=raw.kind,
        card=raw.card,
        code=raw.code,
        seconds=reader.seconds(raw.duration, where, "for"),
        bus_id=reader.bus_id(raw.bus_id, where) if raw.bus_id else None,
    )


def _process(reader: _Reader, table: dict[str, Any], number: int, cards: int) -> RigProcess:
    where = f"[[process]] {number}"
    raw = reader.convert(table, _Process, where)
    if raw.card >= cards:
        reader.refuse(f"{where}, key 'card'", f"there is no card {raw.card}", f"cards are 0 to {cards - 1}")
    return RigProcess(
        card=raw.card,
        memory=reader.size(raw.memory, where, "memory") or 0,
        at=reader.seconds(raw.at, where, "at") or 0.0,
        seconds=reader.seconds(raw.duration, where, "for"),
        pid=raw.pid or FIRST_FOREIGN_PID + number,
    )
