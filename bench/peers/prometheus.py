"""Debian's Prometheus as a store of the same series: blocks made by promtool, asked over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bench.queues import Child, Unavailable

_READY_SECONDS = 60.0


def imported(lines: Iterable[str], folder: str) -> str:
    """A folder of blocks made of OpenMetrics text. Raises Unavailable where promtool is not installed."""
    if shutil.which("promtool") is None or shutil.which("prometheus") is None:
        raise Unavailable("prometheus is not installed: sudo apt install --no-install-recommends prometheus")
    source, data = f"{folder}/series.om", f"{folder}/data"
    with open(source, "w") as file:
        file.writelines(lines)
        file.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet", source, data]
    subprocess.run(command, check=True, capture_output=True)
    os.unlink(source)
    return data


def size(data: str) -> int:
    """Bytes of all blocks: chunks, index and the rest."""
    return sum(os.path.getsize(os.path.join(place, name)) for place, _folders, names in os.walk(data) for name in names)


@contextmanager
def served(data: str, folder: str) -> Iterator[str]:
    """The address of a server of these blocks, on the loopback alone, for the length of a block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = f"{folder}/prometheus.yml"
    with open(config, "w") as file:
        file.write("scrape_configs: []\n")
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}", "--log.level=error"]
    command += [f"--web.listen-address={address}", "--storage.tsdb.retention.time=10y"]
    with Child(command, env=dict(os.environ), cwd=folder) as child:
        deadline = time.monotonic() + _READY_SECONDS
        while not _ready(address):
            if child.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("prometheus did not become ready")
            time.sleep(0.1)
        yield address


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def samples(server: str, selector: str, at: float) -> int:
    """Ask for all samples of a range selector (``name[24h]``) that ends at ``at``; how many there were."""
    question = f"http://{server}/api/v1/query?query={selector}&time={at}"
    with urllib.request.urlopen(question, timeout=60) as answer:
        result = json.load(answer)["data"]["result"]
    return sum(len(series["values"]) for series in result)
