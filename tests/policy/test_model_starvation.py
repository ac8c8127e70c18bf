"""Commands and model jobs do not starve each other: no stream of newer jobs keeps one from starting for ever."""

from __future__ import annotations

import pytest
from policy_model_order import check_all
from policy_model_starvation import starves
from torture import amount


@pytest.mark.torture
def test_an_endless_stream_of_newer_jobs_starves_nobody() -> None:
    starved = [told for seed in range(amount(250, 20_000)) if (told := starves(seed)) is not None]
    assert starved == []


@pytest.mark.torture
def test_every_plan_of_a_busy_rig_with_models_keeps_the_properties() -> None:
    for seed in range(50_000, 50_000 + amount(60, 6000)):
        assert starves(seed, check_all) is None
