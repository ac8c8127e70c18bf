"""p104d as it is, but that its zygote, and so every shim, is started under P104_TEST_SHIMS (a JSON object) as well.

The daemon gives its zygote an environment of one variable; what the tests put between a process and libc must reach the
shims too. P104_TEST_TELEMETRY, seconds, is how often telemetry is written, in the place of once a minute. While the
file P104_TEST_STUCK is there, no step of the loop comes to its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

from p104d.daemon import sampler
from p104d.daemon.loop import Loop
from p104d.daemon.main import main
from p104d.processes import pool


def _zygote(*arguments: Any, env: dict[str, str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(*arguments, env={**env, **json.loads(os.environ["P104_TEST_SHIMS"])}, **options)


def _stuck_while(path: str) -> None:
    plain = Loop.step

    def step(self: Loop, *given: Any) -> Any:
        while os.path.exists(path):
            time.sleep(0.02)
        return plain(self, *given)

    Loop.step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    pool.subprocess = SimpleNamespace(Popen=_zygote, DEVNULL=subprocess.DEVNULL)  # type: ignore[assignment]
    sampler._MOST_SECONDS = float(os.environ.get("P104_TEST_TELEMETRY", sampler._MOST_SECONDS))
    if "P104_TEST_STUCK" in os.environ:
        _stuck_while(os.environ["P104_TEST_STUCK"])
    sys.exit(main())
