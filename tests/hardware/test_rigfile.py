"""Rig files: what they say is taken, what is wrong in them is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from p104d.core.errors import UsageError
from p104d.core.units import GIB
from p104d.hardware.rig import healthy_rig, load_rig

WHOLE = """
driver = "535.183.01"
[[card]]
name = "P104-100"
memory = "8GiB"
physical_memory = "4GiB"
bad_bits = [{ address = "0x1_4000_0000", stuck_at = 1, bit = 3 }]
link_width = 1
host_to_device = "0.16GiB/s"
vbios = "86.04.7A.00.20"
[[card]]
name = "NVIDIA GeForce GTX 1070"
[[fault]]
at = "30s"
card = 1
kind = "xid"
code = 79
for = "10s"
[[fault]]
kind = "driver_reload"
at = "1m"
[[process]]
card = 0
memory = "2GiB"
"""


def load(folder: Path, text: str, name: str = "rig.toml") -> object:
    path = folder / name
    path.write_text(text)
    return load_rig(str(path))


def test_every_key_is_taken(tmp_path: Path) -> None:
    rig = load(tmp_path, WHOLE)
    first, second = rig.cards
    assert (first.memory, first.physical_memory, first.link_width, first.link_width_max) == (8 * GIB, 4 * GIB, 1, 4)
    assert (first.bad_bits[0].address, first.bad_bits[0].bit, first.bad_bits[0].stuck_at) == (0x1_4000_0000, 3, 1)
    assert first.host_to_device == pytest.approx(0.16 * GIB, rel=1e-6)
    assert (second.device_id, second.link_generation, second.link_width) == ("10de:1b81", 3, 16)
    assert (second.memory, second.power_limit_default) == (8 * GIB, 150.0)
    assert [(one.kind, one.at, one.card, one.code, one.seconds) for one in rig.faults] == [
        ("xid", 30.0, 1, 79, 10.0),
        ("driver_reload", 60.0, None, None, None),
    ]
    assert rig.processes[0].memory == 2 * GIB
    assert rig.driver_version == "535.183.01"


def test_uuids_stay_when_the_file_is_edited_or_moved_and_differ_between_rigs(tmp_path: Path) -> None:
    first = [card.uuid for card in load(tmp_path, WHOLE).cards]
    edited = WHOLE.replace("00.20", "00.21").replace('"4GiB"', '"8GiB"').replace("xid", "hot")
    (tmp_path / "elsewhere").mkdir()
    assert [card.uuid for card in load(tmp_path / "elsewhere", edited).cards] == first
    assert not set(first) & {card.uuid for card in load(tmp_path, WHOLE, "other.toml").cards}
    assert len({*first, *(card.uuid for card in healthy_rig(12).cards)}) == 14
    assert healthy_rig(3).cards == healthy_rig(12).cards[:3]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('[[card]]\nmemroy = "8GiB"', ["[[card]] 0", "'memroy'", "did you mean 'memory'"]),
        ('[[card]]\nmemory = "8"', ["[[card]] 0", "'memory'", "not a size"]),
        ("[[card]]\nmemory = 8", ["'memory'", "int"]),
        ("[[card]]\nlink_width = 0", ["'link_width'"]),
        ('[[card]]\nlink_width = "x4"', ["'link_width'"]),
        ('[[card]]\nbad_bits = [{ address = "9GiB", stuck_at = 1 }]', ["bad_bits", "0x1_4000_0000"]),
        ('[[card]]\nbad_bits = [{ address = "0x2_0000_0000", stuck_at = 1 }]', ["outside"]),
        ("[[card]]\nbad_bits = [{ address = 1, stuck_at = 2 }]", ["stuck_at"]),
        ("[[card]]\nbad_bits = [{ address = 1, stuck_at = 1, bit = 8 }]", ["bit"]),
        ('[[card]]\nhost_to_device = "1GiB"', ["0.16GiB/s"]),
        ('[[card]]\nbus_id = "first"', ["'bus_id'", "0000:01:00.0"]),
        ("[[card]]\npower_limit = 900", ["'power_limit'", "900"]),
        ('[[card]]\n[[fault]]\nkind = "hangs"\ncard = 0', ["[[fault]] 0", "did you mean 'hang'"]),
        ('[[card]]\n[[fault]]\nkind = "hang"\ncard = 1', ["[[fault]] 0", "no card 1"]),
        ('[[card]]\n[[fault]]\nkind = "hang"', ["needs a card"]),
        ('[[card]]\n[[fault]]\nkind = "xid"\ncard = 0', ["code"]),
        ('[[card]]\n[[fault]]\nkind = "hot"\ncard = 0\nat = "soon"', ["'at'", "not a duration"]),
        ("[[card]]\n[[process]]\ncard = 0", ["[[process]] 0", "memory"]),
        ('[[card]]\nuuid = "A"\n[[card]]\nuuid = "A"', ["[[card]] 1", "'uuid'", "twice"]),
        ("", ["card"]),
        ("card = []", ["0 cards"]),
        ("[[card]", ["line 1"]),
        ("cards = 4", ["did you mean 'card'"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, names: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        load(tmp_path, text)
    line = refusal.value.line()
    assert all(name in line for name in ["rig.toml", *names]), line
    assert "\n" not in line


def test_unreadable_files_and_absurd_numbers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_rig(str(tmp_path / "none.toml"))
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(UsageError, match="UTF-8"):
        load_rig(str(tmp_path / "latin.toml"))
    for count in (0, -1, 1000):
        with pytest.raises(UsageError):
            healthy_rig(count)
