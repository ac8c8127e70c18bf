"""Descriptors run out while people connect: they wait, the daemon does not stand still, and its log stays short."""

from __future__ import annotations

import logging
import socket
import time

import pytest
from server_rig import WAIT_SECONDS, Served
from starving import starved

from p104d.api import acceptor


def test_who_comes_while_there_are_no_descriptors_is_served_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "_PAUSE_SECONDS", 0.2)
    caplog.set_level(logging.WARNING)
    rig = Served()
    callers = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(6)]
    try:
        with starved():
            for each in callers:
                each.settimeout(WAIT_SECONDS)
                each.connect(rig.path)
                each.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            deadline = time.monotonic() + 1.0
            turns = 0
            while time.monotonic() < deadline:
                rig.tasks()
                turns += 1
        assert turns > 100, "the loop stood still"
        assert [record.message for record in caplog.records] == ["no connection can be accepted: Too many open files"]
        for each in callers:
            assert each.recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        for each in callers:
            each.close()
        rig.close()
