"""A daemon that speaks the wire and knows nothing: canned answers, every request kept."""

from __future__ import annotations

import contextlib
import json
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


class Reply(NamedTuple):
    """``pieces`` are sent as chunks, with a callable among them called instead; ``cut`` hangs up before the end."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] | None = None
    pieces: list[bytes | Callable[[], None]] | None = None
    cut: bool = False
    framed: bool = True


def refusal(status: int, exit_code: int, message: str, mend: str | None = None, retry: bool = False) -> Reply:
    return Reply({"error": {"message": message, "mend": mend, "exit_code": exit_code, "retry": retry}}, status)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        self.close_connection = True
        parts = urlsplit(self.path)
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = Request(self.command, parts.path, parse_qs(parts.query), headers, body)
        self.server.fake.requests.append(request)
        answer = self.server.fake.answer(request)
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send(reply)

    do_GET = do_POST = _serve

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for key, value in {"P104-Wire": "1", **(reply.headers or {})}.items():
            self.send_header(key, value)
        if reply.pieces is None:
            payload = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_header("Content-Length", str(len(payload) + (1 if reply.cut else 0)))
            self.end_headers()
            self.wfile.write(payload)
            return
        self.send_header(*(("Transfer-Encoding", "chunked") if reply.framed else ("Connection", "close")))
        self.end_headers()
        for piece in reply.pieces:
            if callable(piece):
                piece()
                continue
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if reply.framed else piece)
            self.wfile.flush()
        if reply.framed and not reply.cut:
            self.wfile.write(b"0\r\n\r\n")


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 16
    fake: FakeDaemon


class FakeDaemon:
    """Listens on ``path`` until closed. ``answers`` maps (method, path) to an answer, or a callable of the request."""

    def __init__(self, path: str | None = None) -> None:
        self._folder = tempfile.mkdtemp(prefix="p104t", dir="/tmp")
        self.path = path or f"{self._folder}/p104d.sock"
        self.requests: list[Request] = []
        self.answers: dict[tuple[str, str], Any] = {}
        self._server = _Server(self.path, _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def answer(self, request: Request) -> Any:
        found = self.answers.get((request.method, request.path))
        if found is None:
            return refusal(404, 5, f"no such thing: {request.path}")
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return found(request) if callable(found) else found

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)


GIB = 2**30
UUIDS = [f"GPU-{digit * 8}-0000-4000-8000-00000000000{digit}" for digit in "0123"]


def card(index: int, **changes: Any) -> dict[str, Any]:
    return {
        "index": index,
        "uuid": UUIDS[index],
        "name": "NVIDIA P104-100",
        "catalog_name": "P104-100",
        "bus_id": f"00000000:0{index + 1}:00.0",
        "device_id": "10de:1b87",
        "subsystem_id": "1462:5105",
        "vbios": "86.04.7A.00.20",
        "driver": "535.183.01",
        "compute_capability": "6.1",
        "verdict": "unverified",
        "state": "ready",
        "memory_total_bytes": 8 * GIB,
        "memory_used_bytes": 6 * 2**20,
        "memory_reserved_bytes": 0,
        "memory_proven_bytes": None,
        "memory_foreign_bytes": 0,
        "temperature_celsius": 41,
        "power_watts": 8.2,
        "power_limit_watts": 180.0,
        "power_limit_min_watts": 90.0,
        "power_limit_max_watts": 217.0,
        "power_limit_default_watts": 180.0,
        "utilization_percent": 0,
        "fan_percent": None,
        "sm_clock_mhz": 139,
        "memory_clock_mhz": 405,
        "link_generation": 1,
        "link_width": 1,
        "link_generation_max": 1,
        "link_width_max": 4,
        "throttle": [],
        "jobs": [],
        "models": [],
        "note": None,
        "first_seen_at": "2026-11-01T10:00:00.000+00:00",
        "last_seen_at": "2026-11-23T22:00:00.000+00:00",
        **changes,
    }


def job(number: int, state: str = "queued", **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "name": "posters",
        "state": state,
        "reason": None,
        "waiting_because": None,
        "priority": 0,
        "user": "anna",
        "labels": {},
        "submitted_at": "2026-11-23T12:00:00.000+00:00",
        "started_at": None,
        "ended_at": None,
        "exit_code": None,
        "cards": [],
        "measurements": [],
        **changes,
    }


def memory_test(index: int, verdict: str | None = "proven", **changes: Any) -> dict[str, Any]:
    """A test of card ``index`` as the daemon tells it: finished with ``verdict``, or (None) another way."""
    held = verdict in ("proven", "locked")
    return {
        "id": 40 + index,
        "card": UUIDS[index],
        "index": index,
        "name": "NVIDIA P104-100",
        "depth": "full",
        "cause": "asked for",
        "asked_by": "anna",
        "state": "finished" if verdict else "running",
        "waiting_because": None,
        "verdict": verdict,
        "text": "7.8 GiB tested, no errors" if held else None,
        "started_at": "2026-11-23T22:00:00.000+00:00",
        "ended_at": "2026-11-23T22:01:02.000+00:00" if verdict else None,
        "progress": None,
        "driver": "535.183.01",
        "vbios": "86.04.7A.00.20",
        "memory_total_bytes": 8 * GIB,
        "memory_cuda_bytes": 8109 * 2**20,
        "memory_tested_bytes": 8000 * 2**20 if verdict else None,
        "memory_proven_bytes": 8000 * 2**20 if held else None,
        "coverage_percent": 98.7 if verdict else None,
        "errors": 0 if held else None,
        "write_bytes_per_second": 251.4e9 if verdict else None,
        "read_bytes_per_second": 262.3e9 if verdict else None,
        "copy_bytes_per_second": 255.0e9 if verdict else None,
        "host_to_device_bytes_per_second": 0.172e9 if verdict else None,
        "device_to_host_bytes_per_second": 0.183e9 if verdict else None,
        "fault": None,
        "alias_offset_bytes": None,
        "flipped_or": None,
        "flipped_and": None,
        "first_addresses": [],
        "ranges": [],
        "stuck": [],
        "passes": [{"name": "hash", "errors": 0, "seconds": 0.07, "moved_bytes": 16 * GIB}] if verdict else [],
        "temperature_max_celsius": 61 if verdict else None,
        "sm_clock_min_mhz": 1607 if verdict else None,
        "sm_clock_max_mhz": 1733 if verdict else None,
        "map_cell_bytes": None,
        "map_cells": None,
        **changes,
    }


def going(index: int, percent: float, errors: int = 0, **changes: Any) -> dict[str, Any]:
    """A test under way."""
    progress = {"percent": percent, "step": "hash, second seed", "errors": errors, "seconds_left": 80.0}
    return memory_test(index, None, progress=progress, **changes)


def stuck(index: int, **changes: Any) -> dict[str, Any]:
    """A test that found a bit stuck at 1."""
    address = "0x140000000"
    one = {"start": address, "end": "0x140000008", "errors": 3, "read_as_1": "0x8", "read_as_0": "0x0"}
    return memory_test(
        index,
        "faulty",
        text=f"errors in 3 words at {address}, bit 3 stuck at 1",
        errors=3,
        memory_proven_bytes=7999 * 2**20,
        fault="stuck",
        flipped_or="0x8",
        flipped_and="0x8",
        first_addresses=[address],
        ranges=[one],
        stuck=[{"address": address, "bit": 3, "stuck_at": 1}],
        **changes,
    )


def verifying(*steps: list[dict[str, Any]], cut: int = 7, **fields: Any) -> Reply:
    """The stream of ``verify``: each step a line, the last one done, in pieces of ``cut`` bytes."""
    lines = [{"tests": step, "done": step is steps[-1]} for step in steps]
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return Reply(pieces=[text[at : at + cut] for at in range(0, len(text), cut)], **fields)


def rig() -> list[dict[str, Any]]:
    """Four cards of which each shows something else."""
    busy = {"state": "busy", "memory_used_bytes": int(5.9 * GIB), "memory_reserved_bytes": int(7.3 * GIB)}
    load = {"temperature_celsius": 71, "power_watts": 148.3, "utilization_percent": 99}
    return [
        card(0, **busy, **load, jobs=[12, 13]),
        card(1, verdict="proven", memory_proven_bytes=8 * GIB, memory_used_bytes=None, temperature_celsius=None),
        card(2, verdict="locked", memory_total_bytes=4 * GIB, note="reports its stock 4 GiB: see p104ctl doctor"),
        card(3, name="NVIDIA GeForce GTX 1070", catalog_name=None, state="suspect", note="fell off the bus (XID 79)"),
    ]


def status(**changes: Any) -> dict[str, Any]:
    running = [
        job(
            12,
            "running",
            cards=[UUIDS[0]],
            started_at="2026-11-23T12:00:00.000+00:00",
            measurements=[{"name": "iterations_per_second", "value": 2.52, "unit": "it/s"}],
        ),
        job(13, "running", name="captions", cards=[UUIDS[0], UUIDS[1]], started_at="2026-11-23T12:00:00.000+00:00"),
    ]
    return {
        "daemon": {
            "version": "0.1.0",
            "pid": 4242,
            "started_at": "2026-11-23T10:00:00.000+00:00",
            "mode": "real",
            "paused": False,
            "user_mode": False,
            **changes,
        },
        "cards": rig(),
        "queue": {"running": 2, "queued": 7, "held": 1, "succeeded": 41, "failed": 2, "lost": 0},
        "running": running,
        "warnings": ["card 3 is suspect: fell off the bus (XID 79); reseat its riser, then p104ctl undrain 3"],
    }
