"""The quick test on a real card: that all of it works there, how much it reaches, and how fast."""

from __future__ import annotations

import pytest
from engine_rig import Heard, finished, host_config

from p104d.hardware.cuda import Cuda, CudaError, NoCudaError
from p104d.memtest.messages import Depth
from p104d.memtest.run import attempt


@pytest.fixture(scope="module")
def uuid() -> str:
    """Of the first card that CUDA shows."""
    try:
        return Cuda().device().uuid()
    except (CudaError, NoCudaError) as error:
        pytest.skip(f"no card to test: {error}")


@pytest.mark.gpu
def test_a_real_card_is_tested_whole_and_at_the_speed_of_a_copy(uuid: str) -> None:
    heard = Heard()
    result = finished(attempt(host_config(Depth.QUICK, uuid=uuid), heard))
    print(f"\n{result}")
    assert result.errors == 0
    assert result.tested_bytes >= 0.98 * result.cuda_free_bytes
    assert result.tested_bytes >= 0.97 * result.cuda_total_bytes  # of a small card our own context takes two per cent
    both = 2 / (1 / result.write_bytes_per_second + 1 / result.read_bytes_per_second)
    assert both >= 0.85 * result.copy_bytes_per_second
    assert result.host_to_device_bytes_per_second > 100e6
    assert heard.progress[-1].fraction == 1
