"""XIDs from the kernel log and from NVML: parsed, and told once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p104d.core.card import XidEvent
from p104d.hardware.xid import Deduplicator, KernelLog, XidCollector, normal_bus_id, parse_line

UUID = "GPU-a"
BUS = "00000000:01:00.0"


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("NVRM: Xid (PCI:0000:01:00): 79, pid=1234, name=python3, GPU has fallen off the bus.",
         XidEvent(code=79, bus_id=BUS, pid=1234, text="GPU has fallen off the bus.")),
        ("NVRM: Xid (PCI:0000:0a:00): 31, pid='<unknown>', name=<unknown>, Ch 00000010",
         XidEvent(code=31, bus_id="00000000:0A:00.0", text="Ch 00000010")),
        ("NVRM: Xid (0000:01:00): 62, 0a1b2c3d 00000000", XidEvent(code=62, bus_id=BUS, text="0a1b2c3d 00000000")),
        ("NVRM: Xid (PCI:0000:01:00 GPU-I:03): 45", XidEvent(code=45, bus_id=BUS)),
        ("NVRM: GPU 0000:01:00.0: RmInitAdapter failed!", None),
        ("NVRM: Xid (PCI:garbage): 79", None),
    ],
)  # fmt: skip
def test_lines_as_the_kernel_prints_them(line: str, event: XidEvent | None) -> None:
    assert parse_line(line) == event


@pytest.mark.parametrize("text", ["0000:01:00.0", "00000000:01:00.0", "01:00", "0000:01:00"])
def test_bus_addresses_are_of_one_form(text: str) -> None:
    assert normal_bus_id(text) == BUS


def test_the_same_error_of_both_sources_is_told_once_in_either_order() -> None:
    event, seen = XidEvent(code=79, uuid=UUID), Deduplicator()
    assert seen.fresh(event, "log", UUID, 0.0)
    assert not seen.fresh(event, "nvml", UUID, 1.0)
    assert seen.fresh(event, "nvml", UUID, 2.0)
    assert not seen.fresh(event, "log", UUID, 3.0)


def test_two_errors_are_two_and_so_are_other_codes_cards_and_times() -> None:
    event, seen = XidEvent(code=31, uuid=UUID), Deduplicator()
    assert seen.fresh(event, "log", UUID, 0.0)
    assert seen.fresh(event, "log", UUID, 0.5)
    assert not seen.fresh(event, "nvml", UUID, 1.0)
    assert not seen.fresh(event, "nvml", UUID, 1.0)
    assert seen.fresh(event, "nvml", UUID, 1.1)
    assert seen.fresh(event, "log", "GPU-b", 1.2)
    assert seen.fresh(XidEvent(code=32, uuid=UUID), "log", UUID, 1.2)
    assert seen.fresh(event, "log", UUID, 60.0)


def test_only_new_records_are_read_and_other_lines_are_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    old = "4,7,1,-;NVRM: Xid (PCI:0000:01:00): 31\n"
    log.write_text(old)
    kernel = KernelLog(str(log), None)
    collector = XidCollector(kernel)
    assert collector.collect([], {BUS: UUID}, 0.0) == ()
    with log.open("a") as file:
        file.write("6,8,2,-;usb 1-1: new device\n SUBSYSTEM=usb\n")
        file.write("4,9,3,-;NVRM: Xid (PCI:0000:01:00): 79, pid=5, name=x, off the bus\n")
    nvml = XidEvent(code=79, uuid=UUID, bus_id=BUS)
    (told,) = collector.collect([nvml], {BUS: UUID}, 1.0)
    assert (told.uuid, told.pid, told.text) == (UUID, 5, "off the bus")
    assert kernel.sequence == 9
    kernel.close()
    later = KernelLog(str(log), 7)
    assert [event.code for event in later.read()] == [79]
    later.close()


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="the kernel log may not be read here")
def test_the_real_kernel_log_is_read_without_waiting() -> None:
    kernel = KernelLog("/dev/kmsg", None)
    assert kernel.sequence is not None
    assert isinstance(kernel.read(), list)
    kernel.close()
