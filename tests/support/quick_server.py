"""A model server that loads nothing and answers at once, with llama-server's options: for tests of what is around it.

    path = command("/tmp/x")            # an executable /tmp/x/llama-server; starts in some 20 ms

It notes what happens to it in ``served``, beside its model, a line a write: ``start PID CARDS MODEL``, ``think PID``,
``ask PID PROMPT``, ``conflict PID CARDS``. Where there is a folder ``locks`` beside the model, it holds a lock on each
of its cards for life, as the jobs of the crash tests do. What it is to do wrong stands in ``MODEL.how``, one JSON
object that is read again for every request:

    {"load": 0.5}         seconds until it listens; below 0: it never does
    {"exit": 3}           it ends at once with this code ("words" is what it says before, a line)
    {"live": 1.0}         seconds after which it ends by itself
    {"die_on": 5}         the request, counted from 1, at which it dies by SIGKILL
    {"status": 500}       what it answers to every request but a one-token question; "sick": true: to these too
    {"think": 60}         seconds that a one-token question takes
    {"slow": 0.2}         seconds that a request takes
    {"stubborn": true}    it ignores SIGTERM

An answer's text is the first line of ``MODEL.text``, as the server found it when it started, or nothing, and what it
was asked: that tells which of two models of one name has answered.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

ALIVE = "1"
_alive_until_the_end: list[int] = []


def command(folder: str | os.PathLike[str]) -> str:
    """An executable of the name ``llama-server`` in ``folder``."""
    path = os.path.join(folder, "llama-server")
    with open(path, "w") as file:
        file.write(f"#!{sys.executable} -IS\n__file__ = {__file__!r}\n")
        file.write("exec(compile(open(__file__).read(), __file__, 'exec'))\n")
    os.chmod(path, 0o755)
    return path


class Server:
    """One model, one socket, a thread a connection."""

    def __init__(self, model: str, address: str) -> None:
        self._model, self._address = model, address
        self._asked = 0
        self._lock = threading.Lock()
        self._text = self._read(".text").partition("\n")[0]

    def _read(self, suffix: str) -> str:
        try:
            with open(self._model + suffix) as file:
                return file.read()
        except OSError:
            return ""

    def how(self) -> dict[str, Any]:
        return dict(json.loads(self._read(".how") or "{}"))

    def note(self, line: str) -> None:
        descriptor = os.open(
            os.path.join(os.path.dirname(self._model), "served"),
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        os.write(descriptor, line.encode() + b"\n")
        os.close(descriptor)

    def run(self) -> None:
        how = self.how()
        cards = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        self.note(f"start {os.getpid()} {cards} {os.path.basename(self._model)}")
        self._take(cards)
        if how.get("stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if "exit" in how:
            print(how.get("words", "error: it was told to"), flush=True)
            os._exit(how["exit"])
        if "live" in how:
            threading.Timer(how["live"], os._exit, [9]).start()
        load = how.get("load", 0.0)
        if load < 0:
            threading.Event().wait()
        time.sleep(load)
        self._serve()

    def _take(self, cards: str) -> None:
        folder = os.path.join(os.path.dirname(self._model), "locks")
        for card in cards.split(",") if os.path.isdir(folder) else ():
            descriptor = os.open(os.path.join(folder, card), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _alive_until_the_end.append(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.note(f"conflict {os.getpid()} {cards}")

    def _serve(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._address)
        listener.listen(64)
        while True:
            connection, _address = listener.accept()
            threading.Thread(target=self._talk, args=[connection], daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            try:
                while self._one(connection, file):
                    pass
            except OSError:
                return

    def _one(self, connection: socket.socket, file: Any) -> bool:
        first = file.readline().split(b" ")
        length = 0
        while (line := file.readline().strip()) != b"":
            name, _colon, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if len(first) < 2:
            return False
        if first[0] == b"GET":
            return _send(connection, 200, {"status": "ok"})
        raw = file.read(length)
        if len(raw) < length:
            return False
        return self._answer(connection, str(json.loads(raw).get("prompt")))

    def _answer(self, connection: socket.socket, prompt: str) -> bool:
        how = self.how()
        if prompt != ALIVE:
            self.note(f"ask {os.getpid()} {prompt}")
            with self._lock:
                self._asked += 1
                if self._asked == how.get("die_on"):
                    os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(how.get("slow", 0.0))
        elif "think" in how:
            self.note(f"think {os.getpid()}")
            time.sleep(how["think"])
        if how.get("sick") or ("status" in how and prompt != ALIVE):
            status = how.get("status", 500)
            return _send(connection, status, {"error": {"code": status, "message": "it was told to"}})
        timings = {"prompt_n": 3, "prompt_ms": 3.0, "predicted_n": 4, "predicted_ms": 4.0}
        return _send(connection, 200, {"content": f"{self._text}{prompt}", "timings": timings})


def _send(connection: socket.socket, status: int, body: dict[str, Any]) -> bool:
    raw = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    connection.sendall(head.encode() + raw)
    return True


def main(arguments: list[str]) -> None:
    """Serve as the options say; those that mean nothing here are taken."""
    options = dict(itertools.pairwise(arguments))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Server(options["--model"], options["--host"]).run()


if __name__ == "__main__":
    main(sys.argv[1:])
