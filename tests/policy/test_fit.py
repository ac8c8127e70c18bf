"""The predicate, and what people read of it."""

from __future__ import annotations

import pytest
from policy_worlds import FULL, LOCKED, alone, card, host, shared

from p104d.core.job import Requirement
from p104d.core.units import GIB, MIB
from p104d.policy.fit import both_sizes, host_refusal, impossible, jobs_text, matches, refusal

WHOLE = Requirement()
PART = Requirement(vram_bytes=7500 * MIB)


@pytest.mark.parametrize(
    ("view", "req", "said"),
    [
        (card(), WHOLE, None),
        (card(), PART, None),
        (card(closed="drained"), WHOLE, "drained"),
        (card(closed="suspect: fell off the bus"), PART, "suspect: fell off the bus"),
        (card(holds=(alone(12),)), WHOLE, "holds job 12 alone"),
        (card(holds=(alone(12),)), PART, "holds job 12 alone"),
        (card(holds=(shared(12, GIB), shared(13, GIB))), WHOLE,
         "holds jobs 12, 13; a job without vram needs the card whole"),
        (card(holds=(shared(12, 4 * GIB),)), PART, "4.0 GiB free of 7.3 GiB asked"),
        (card(holds=(shared(12, FULL - 7499 * MIB),)), PART, "7499 MiB free of 7500 MiB asked"),
        (card(foreign_bytes=256 * MIB), WHOLE, None),
        (card(foreign_bytes=257 * MIB), WHOLE, "used by other processes: 257 MiB"),
        (card(foreign_bytes=2 * GIB), PART, "used by other processes: 2.0 GiB; 6.0 GiB free of 7.3 GiB asked"),
        (card(capacity_bytes=LOCKED), WHOLE,
         "has 4.0 GiB; a job without vram needs the 7.8 GiB that a P104-100 promises"),
        (card(capacity_bytes=LOCKED), PART, "has 4.0 GiB, 7.3 GiB asked"),
        (card(), Requirement(only=("GPU-9", "GTX 1070")), "not among this job's only: GPU-9, GTX 1070"),
        (card(closed="drained"), Requirement(cards=0), None),
    ],
)  # fmt: skip
def test_refusal(view, req, said) -> None:
    assert refusal(view, req) == said


def test_the_last_byte_counts() -> None:
    held = card(holds=(shared(1, 3 * GIB),))
    assert refusal(held, Requirement(vram_bytes=5 * GIB)) is None
    assert refusal(held, Requirement(vram_bytes=5 * GIB + 1)) is not None


@pytest.mark.parametrize("only", [(), ("GPU-0000",), ("p104-100",), ("NVIDIA P104-100",), ("x", "P104-100")])
@pytest.mark.parametrize("name", ["P104-100", "NVIDIA P104-100"])
def test_only_matches(only, name) -> None:
    assert matches(card(name=name), only)


@pytest.mark.parametrize("only", [("GPU-000",), ("gpu-0000",), ("P104",), ("P104-101",), ("0",)])
def test_only_does_not_match(only) -> None:
    assert not matches(card(), only)


def test_host_refusal() -> None:
    def ask(req: Requirement, ram: int = GIB, slots: int = 1) -> str | None:
        return host_refusal(req, ram_free_bytes=ram, slots_free=slots, slots_total=2)

    assert ask(Requirement(ram_bytes=GIB)) is None
    assert ask(Requirement(ram_bytes=2 * GIB)) == "host memory: 1.0 GiB free of 2.0 GiB asked"
    assert ask(Requirement(), ram=-5, slots=0) is None
    assert ask(Requirement(cards=0), slots=0) == "all 2 places for jobs without a card are taken"


RIG = (card(0), card(1, capacity_bytes=LOCKED), card(2, closed="missing"))


@pytest.mark.parametrize(
    ("req", "said"),
    [
        (Requirement(cards=2), None),
        (Requirement(cards=3, vram_bytes=4 * GIB), None),
        (Requirement(cards=2, vram_bytes=8 * GIB), None),
        (Requirement(cards=4), "asks 4 cards; this rig has 3"),
        (Requirement(cards=3), "asks 3 cards whole; 2 of this rig's hold all that their kind promises: "
                               "give the job a vram of at most 4.0 GiB"),
        (Requirement(vram_bytes=100 * GIB), "asks 100.0 GiB on a card; the largest has 8.0 GiB"),
        (Requirement(cards=3, vram_bytes=5 * GIB), "asks 5.0 GiB on 3 cards; 2 of this rig's have it"),
        (Requirement(cards=2, only=("GPU-0000",)), "asks 2 cards; 1 of this rig's is among only: GPU-0000"),
        (Requirement(only=("GTX 1070",)), "asks 1 card; none of this rig's is among only: GTX 1070"),
        (Requirement(only=("GPU-0001",), vram_bytes=5 * GIB), "asks 5.0 GiB on a card; the largest has 4.0 GiB"),
        (Requirement(ram_bytes=9 * GIB), "asks 9.0 GiB of host memory; this host has 8.0 GiB for jobs"),
        (Requirement(cards=0), None),
    ],
)  # fmt: skip
def test_impossible(req, said) -> None:
    assert impossible(RIG, host(ram_free_bytes=0, cpu_slots_free=0), req) == said


def test_impossible_forgives_what_passes() -> None:
    tested = card(2, closed="its memory is being tested", capacity_bytes=0, temporary=True)
    busy = (card(0, holds=(alone(1),)), card(1, foreign_bytes=7 * GIB), tested)
    assert impossible(busy, host(), Requirement(cards=3)) is None
    assert impossible(busy, host(), Requirement(cards=3, vram_bytes=7 * GIB)) is None


def test_no_place_for_jobs_without_cards_at_all() -> None:
    none = host(cpu_slots_free=0, cpu_slots_total=0)
    assert impossible((), none, Requirement(cards=0)) == "this daemon takes no jobs without cards (cpu_jobs is 0)"


def test_a_locked_rig_names_the_way_out() -> None:
    said = impossible((card(0, capacity_bytes=LOCKED),), host(), WHOLE)
    assert said is not None and said.endswith("give the job a vram of at most 4.0 GiB")


def test_sizes_are_told_apart() -> None:
    assert both_sizes(4 * GIB, 8 * GIB) == ("4.0 GiB", "8.0 GiB")
    assert both_sizes(7500 * MIB, 7501 * MIB) == ("7500 MiB", "7501 MiB")
    assert both_sizes(GIB, GIB + 1) == (f"{GIB} B", f"{GIB + 1} B")
    assert both_sizes(GIB, GIB) == ("1.0 GiB", "1.0 GiB")


def test_jobs_are_listed_up_to_four() -> None:
    assert jobs_text([7]) == "job 7"
    assert jobs_text([9, 7, 7]) == "jobs 7, 9"
    assert jobs_text(range(1, 8)) == "jobs 1, 2, 3, 4 and 3 more"
