"""The client: which socket, long paths, framing of answers, a daemon that is stuck or somebody else."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager

import pytest
from fake_daemon import Reply

from p104d.api import client, messages, sockets
from p104d.api.client import Client, ForeignError, connect, find_socket, is_named, socket_candidates
from p104d.core.errors import UnreachableError


def test_client_and_server_speak_the_same_wire():
    assert client.WIRE_VERSION == messages.WIRE_VERSION


def test_candidates_in_order():
    environ = {"XDG_RUNTIME_DIR": "/run/user/5", "XDG_STATE_HOME": "/s", "HOME": "/home/a"}
    assert socket_candidates(None, environ) == [
        "/run/user/5/p104d/p104d.sock",
        "/run/user/5/p104d-simulated/p104d.sock",
        "/s/p104d/run/p104d.sock",
        "/s/p104d-simulated/run/p104d.sock",
        "/run/p104d/p104d.sock",
    ]
    assert socket_candidates(None, environ | {"P104_SOCKET": "/x"}) == ["/x"]
    assert socket_candidates("/y", environ | {"P104_SOCKET": "/x"}) == ["/y"]
    home = os.path.expanduser("~")
    assert socket_candidates(None, {})[0] == f"{home}/.local/state/p104d/run/p104d.sock"


def test_a_dead_socket_is_passed_over(daemon, tmp_path):
    dead = f"{os.path.dirname(daemon.path)}/dead.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(dead)
    path, connection = find_socket([dead, "/nonexistent", daemon.path], 5.0)
    connection.close()
    assert path == daemon.path
    with pytest.raises(UnreachableError, match=r"dead.sock: nobody listens, /nonexistent: no such socket"):
        find_socket([dead, "/nonexistent"], 5.0)


def test_no_permission_names_the_group(monkeypatch):
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sockets, "connect", deny)
    with pytest.raises(UnreachableError) as caught:
        find_socket(["/run/p104d/p104d.sock", "/other"], 5.0)
    assert "permission denied" in caught.value.message and "adduser $USER p104" in (caught.value.mend or "")


def test_a_strangers_daemon_is_passed_over_unless_it_was_named(daemon, monkeypatch):
    """XDG_RUNTIME_DIR may be of another user's session, and a daemon of theirs would be sent what is submitted."""
    own = os.getuid()
    monkeypatch.setattr(sockets.os, "getuid", lambda: own + 4711)
    monkeypatch.setattr(sockets, "_UCRED", Credentials(own or 4712))
    with pytest.raises(UnreachableError, match=f"of uid {own or 4712}, neither root nor you, /none: no such") as caught:
        find_socket([daemon.path, "/none"], 5.0)
    assert "--socket" in (caught.value.mend or "") and daemon.requests == []
    path, connection = find_socket([daemon.path], 5.0, named=True)
    connection.close()
    assert path == daemon.path
    daemon.answers["GET", "/v1/status"] = {"fine": True}
    assert Client([daemon.path], named=True).get("/v1/status") == {"fine": True}
    with pytest.raises(UnreachableError):
        Client([daemon.path]).get("/v1/status")
    # Root's is believed, and one's own.
    for uid in (0, own + 4711):
        monkeypatch.setattr(sockets, "_UCRED", Credentials(uid))
        find_socket([daemon.path], 5.0)[1].close()


class Credentials:
    """The kernel's answer, of a listener of that uid."""

    size = 12

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def unpack(self, raw: bytes) -> tuple[int, int, int]:
        assert len(raw) == self.size
        return 1, self.uid, 0


@pytest.mark.parametrize(
    ("explicit", "environ", "named"),
    [(None, {}, False), ("/x", {}, True), (None, {"P104_SOCKET": "/x"}, True), ("", {"P104_SOCKET": ""}, False)],
)
def test_what_counts_as_named(explicit, environ, named):
    assert is_named(explicit, environ) is named


def test_paths_longer_than_the_kernel_s_limit(daemon, tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    os.symlink(daemon.path, deep / "p104d.sock")
    daemon.answers["GET", "/v1/status"] = {"fine": True}
    assert Client([str(deep / "p104d.sock")]).get("/v1/status") == {"fine": True}


def test_a_full_backlog_is_waited_for(tmp_path):
    path = str(tmp_path / "s") if len(str(tmp_path)) < 90 else f"/tmp/p104t-{os.getpid()}.sock"
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            first = connect(path, 5.0)
            with pytest.raises(OSError) as caught:
                connect(path, 0.05)
            assert sockets.why(caught.value) == "no answer"
            accepting = threading.Thread(target=lambda: listener.accept()[0].close())
            accepting.start()
            connect(path, 10.0).close()
            accepting.join()
            first.close()
    finally:
        os.unlink(path)


@pytest.mark.parametrize("framed", [True, False])
def test_streams_come_as_they_are(daemon, framed):
    pieces = [b"a" * 100_000, b"b", b"\r\n0\r\n\r\n"]
    daemon.answers["GET", "/log"] = lambda _: Reply(pieces=pieces, framed=framed)
    with Client([daemon.path]).stream("/log") as answer:
        assert b"".join(answer.pieces()) == b"".join(pieces)


@pytest.mark.parametrize("reply", [Reply({"a": 1}, cut=True), Reply(pieces=[b"{}"], cut=True)])
def test_a_cut_answer_is_no_answer(daemon, reply):
    daemon.answers["GET", "/v1/status"] = lambda _: reply
    with pytest.raises(UnreachableError, match="hung up"):
        Client([daemon.path]).get("/v1/status")


def test_queries_are_quoted(daemon):
    daemon.answers["GET", "/v1/jobs"] = {}
    Client([daemon.path]).get("/v1/jobs", {"name": "a&b=c é%", "label": ["x=1", "y=2"], "none": None, "empty": []})
    assert daemon.requests[-1].query == {"name": ["a&b=c é%"], "label": ["x=1", "y=2"]}


@contextmanager
def listening(answer: bytes | None):
    """Somebody who takes one request and answers with these bytes, or (None) says nothing until the end."""
    path, over = f"/tmp/p104t-{os.getpid()}-{threading.get_ident()}.sock", threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            if answer is None:
                over.wait(20)
            else:
                connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            over.set()
            thread.join()
            os.unlink(path)


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-x\r\n", b"HTTP/1.1 fine\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nno json", b"HTTP/1.1" + b"x" * 99_999],
)
def test_somebody_else_is_told_apart(answer):
    with listening(answer) as path, pytest.raises(ForeignError, match="is not p104d"):
        Client([path]).get("/v1/status")


def test_a_stuck_daemon_is_given_up():
    with listening(None) as path, pytest.raises(UnreachableError, match="did not answer within"):
        Client([path]).get("/v1/status", timeout=0.1)


def test_nobody_answering_at_all():
    with listening(b"") as path, pytest.raises(UnreachableError, match="hung up"):
        Client([path]).get("/v1/status")


def test_an_early_refusal_of_a_large_body_is_heard():
    body = b'{"error": {"message": "too large", "exit_code": 4, "retry": true}}'
    refusal = b"HTTP/1.1 413 x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with listening(refusal) as path, pytest.raises(Exception, match="too large") as caught:
        Client([path]).post("/v1/submit", {"text": "x" * 3_000_000})
    assert caught.value.exit_code == 4 and caught.value.retry is True
