"""Cards by id and name, and what may be expected of their memory."""

from __future__ import annotations

import pytest

from p104d.core.card import Verdict
from p104d.core.units import GIB, MIB
from p104d.hardware.catalog import ENTRIES, first_verdict, lookup, promised_bytes

P104 = lookup("10de:1b87", None)
P102 = lookup("10de:1b07", None)
GTX1070 = lookup("10de:1b81", None)


def test_cards_are_found_by_vendor_and_device_and_by_name_only_without_them() -> None:
    assert P104 is not None
    assert P104.name == "P104-100"
    assert lookup("10DE:1BC7", None).name == "P104-101"
    assert lookup("8086:1bc7", "P104-101") is None
    assert lookup(None, "NVIDIA P104-100") is P104
    assert lookup(None, "NVIDIA GeForce GTX 1070") is GTX1070
    assert lookup(None, "GTX 1070 Ti").name.endswith("1070 Ti")
    assert lookup(None, "NVIDIA H100 80GB HBM3") is None
    assert lookup(None, None) is None
    assert lookup("10de:20c2", None).name == lookup("10de:2082", None).name == "CMP 170HX"


def test_no_id_or_name_is_listed_twice() -> None:
    ids = [one for entry in ENTRIES for one in entry.device_ids]
    assert len(ids) == len(set(ids))
    assert all(lookup(None, entry.name) is entry for entry in ENTRIES)


@pytest.mark.parametrize(
    ("entry", "mib", "verdict"),
    [
        (P104, 4042, Verdict.LOCKED),
        (P104, 4096, Verdict.LOCKED),
        (P104, 8192, Verdict.UNVERIFIED),
        (P104, 8109, Verdict.UNVERIFIED),
        (P104, 6144, Verdict.UNVERIFIED),
        (P102, 5059, Verdict.LOCKED),
        (P102, 10156, Verdict.UNVERIFIED),
        (GTX1070, 8192, Verdict.UNVERIFIED),
        (lookup(None, "P106-100"), 6144, Verdict.UNVERIFIED),
        (lookup(None, "P106-090"), 3072, Verdict.UNVERIFIED),
        (None, 4096, Verdict.UNVERIFIED),
    ],
)
def test_locked_is_a_card_with_an_unlock_at_its_stock_size(entry: object, mib: int, verdict: Verdict) -> None:
    assert first_verdict(entry, mib * MIB) is verdict


def test_an_unreadable_size_is_not_called_locked() -> None:
    assert first_verdict(P104, None) is Verdict.UNVERIFIED


@pytest.mark.parametrize(("entry", "mib"), [(P104, 8109), (P104, 8192), (P102, 10156), (GTX1070, 8106)])
def test_a_healthy_card_keeps_what_it_promises_even_after_a_test_of_98_per_cent(entry: object, mib: int) -> None:
    assert promised_bytes(entry, mib * MIB) <= mib * MIB * 0.98


@pytest.mark.parametrize(("entry", "mib"), [(P104, 4096), (P104, 4042), (P102, 5120)])
def test_a_locked_card_does_not(entry: object, mib: int) -> None:
    assert promised_bytes(entry, mib * MIB) > mib * MIB * 1.5


def test_unlisted_cards_promise_what_they_report() -> None:
    assert 75 * GIB < promised_bytes(None, 80 * GIB) < 80 * GIB
    assert promised_bytes(None, None) == 0
