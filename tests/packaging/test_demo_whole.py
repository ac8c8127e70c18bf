"""The demo as people start it: it tells what it saw, and leaves nothing behind, interrupted or not."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from packaging_support import ROOT

#: Bounds, not waits: on an idle machine the demo takes 15 s.
WHOLE_SECONDS = 240.0
STEP_SECONDS = 120.0


@pytest.fixture
def commands(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment in which p104d and p104ctl are found, installed beside this Python or not."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in (("p104d", "p104d.daemon.main"), ("p104ctl", "p104d.cli.main")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        script.chmod(0o755)
    return {**environment, "PATH": environment["PATH"] + os.pathsep + str(folder)}


class Demo:
    """A demo under way, and the folder that it made."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo", "--simulate"],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""

    def read_until(self, what: str, seconds: float) -> None:
        """Read its output until ``what`` is there; "" reads to the end."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not (what and what in self.text):
                assert selector.select(max(0.0, deadline - time.monotonic())), f"no {what!r} in:\n{self.text}"
                piece = self.process.stdout.read()
                if piece == b"":
                    assert not what, f"it ended without {what!r}:\n{self.text}"
                    return
                self.text += (piece or b"").decode(errors="replace")

    @property
    def folder(self) -> str:
        """Its temporary folder, as it told."""
        found = re.search(r"--socket (/tmp/p104d-demo-\w+)/", self.text)
        assert found, self.text
        return found[1]

    def left(self) -> list[str]:
        """What is left of it: its folder, processes that know its folder."""
        found = [self.folder] if os.path.exists(self.folder) else []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if any(self.folder in part for part in [process.cwd(), *words]):
                    found.append(f"{process.pid}: {' '.join(words)}")
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        """End it, should a test have failed in the middle."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def demo(commands: dict[str, str]) -> Iterator[Demo]:
    """The demo, just started."""
    demo = Demo(commands)
    yield demo
    demo.close()


@pytest.mark.slow
def test_whole_demo(demo: Demo) -> None:
    demo.read_until("", WHOLE_SECONDS)
    assert demo.process.wait(10) == 0, demo.text
    parts = ["SIMULATED RIG", "== Before", "== During", "== Afterwards", "== Leaving nothing behind"]
    assert sorted(parts, key=demo.text.index) == parts
    assert demo.text.count("$ p104ctl status") == 3
    assert re.search(r"broken .*failed .*exit code 3", demo.text)
    assert re.search(r"picture +iterations_per_second +[0-9.]+ it/s", demo.text)
    if "no language models in this demo" not in demo.text:
        assert re.search(r"ask +generation_tokens_per_second +[0-9.]+ tokens/s", demo.text)
        assert demo.text.count("$ p104ctl models") == 2 and re.search(r"haiku .*busy, job|prose .*busy, job", demo.text)
        assert re.search(r"haiku .*ready .*in 1[45]m", demo.text)
        assert "30 answers in all" in demo.text and "6 jobs on 2 models" in demo.text
    assert demo.left() == []


def test_interrupted_demo_leaves_nothing_behind(demo: Demo) -> None:
    demo.read_until("== During", STEP_SECONDS)
    assert any("picture.py" in line for line in demo.left()), "no job was running to be interrupted"
    # Ctrl-C in a terminal reaches the whole foreground group.
    os.killpg(demo.process.pid, signal.SIGINT)
    demo.read_until("", STEP_SECONDS)
    assert demo.process.wait(10) == 130, demo.text
    assert "Traceback" not in demo.text
    assert demo.left() == []


def test_demo_goes_on_without_llama(tmp_path: Path) -> None:
    """A processor that the llama.cpp package was not built for ends the attempt with SIGILL."""
    from demo.__main__ import llama_runs
    from demo.daemon import DemoDaemon

    with DemoDaemon(simulated=True) as daemon:
        killed = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
        (tmp_path / "tiny_model.py").write_text("")
        (tmp_path / "llama_try.py").write_text(killed)
        assert llama_runs(daemon, tmp_path) is False
        (tmp_path / "llama_try.py").write_text("")
        assert llama_runs(daemon, tmp_path) is True
        folder = daemon.folder
    assert not folder.exists()
