"""The rig file's keys for memory tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from p104d.core.errors import UsageError
from p104d.hardware.rig import healthy_rig, load_rig


def test_bandwidth_and_speedup(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(
        'speedup = 250\n[[card]]\nmemory_bandwidth = "200GB/s"\n[[card]]\nname = "P106-100"\n[[card]]\nname = "other"'
    )
    rig = load_rig(str(path))
    assert rig.speedup == 250.0
    assert [card.memory_bandwidth for card in rig.cards] == pytest.approx([200e9, 0.8 * 192e9, 0.8 * 256e9])
    healthy = healthy_rig(1)
    assert (healthy.speedup, healthy.cards[0].memory_bandwidth) == (10.0, pytest.approx(0.8 * 320e9))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('[[card]]\nmemory_bandwidth = "200GB"', ["'memory_bandwidth'", "not a speed"]),
        ('[[card]]\nmemory_bandwidth = "fast/s"', ["'memory_bandwidth'", "not a size"]),
        ("speedup = 0\n[[card]]", ["'speedup'"]),
        ('speedup = "x10"\n[[card]]', ["'speedup'"]),
    ],
)
def test_what_is_wrong_with_them_is_named(tmp_path: Path, text: str, names: list[str]) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as refusal:
        load_rig(str(path))
    assert all(name in refusal.value.line() for name in names), refusal.value.line()
