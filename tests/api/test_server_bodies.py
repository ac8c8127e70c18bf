"""Bodies: bounded before they are read, counted before they are decoded, never unpacked."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest
from server_rig import Served

from p104d.api import bodies
from p104d.api.bodies import IDS_BYTES, MAX_BODY_BYTES, MAX_IDS, SMALL_BYTES, ids_of, submission_of
from p104d.api.service import Caller
from p104d.api.spec_fields import MAX_ENV
from p104d.api.spec_set import MAX_OPTIONS
from p104d.api.yaml_nodes import MAX_DOCUMENTS
from p104d.core.errors import RefusedError

SUBMISSION: dict[str, Any] = {"documents": [{"file": "a", "text": "x"}], "cwd": "/"}
#: The largest body of each kind of route.
CAPS = [("submit", MAX_BODY_BYTES), ("jobs/wait", IDS_BYTES), ("jobs/cancel", IDS_BYTES), ("schedules/hold", IDS_BYTES),
        ("pause", SMALL_BYTES), ("cards/drain", SMALL_BYTES), ("models/pin", SMALL_BYTES)]  # fmt: skip


def early(served: Served, path: str, *headers: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
    """(status, error) of a request whose body has not come, or not ended."""
    head = [f"POST /v1/{path} HTTP/1.1", "Host: x", *headers]
    with served.connect() as connection:
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        answer, _, content = connection.recv(65536).partition(b"\r\n\r\n")
        return int(answer.split()[1]), json.loads(content or connection.recv(65536))["error"]


@pytest.mark.parametrize("packing", ["gzip", "deflate", "br", "zstd", "identity", "zz"])
def test_what_is_packed_is_refused_unread(served: Served, packing: str) -> None:
    """A few kilobytes of it would be gigabytes, unpacked on the loop before anybody has looked at them."""
    status, error = early(served, "submit", f"Content-Encoding: {packing}", "Content-Length: 100000")
    assert status == 400 and "Content-Encoding" in error["message"] and error["mend"]
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 2**20))
    assert served.ask("POST", "/v1/submit", bomb, Content_Encoding=packing).status == 400
    assert served.service.calls == []
    assert served.ask("GET", "/v1/status").status == 200


def test_what_is_refused_is_not_unpacked_on_its_way_out(served: Served) -> None:
    """A connection is read to the end of its request before it is closed: that took 160 ms of the loop for these."""
    bomb = gzip.compress(bytes(200 * 2**20))
    began = time.process_time()
    assert served.ask("POST", "/v1/submit", bomb, Content_Encoding="gzip").status == 400
    assert time.process_time() - began < 0.08


@pytest.mark.parametrize(("path", "most"), CAPS)
def test_a_body_too_large_is_refused_unread(served: Served, path: str, most: int) -> None:
    status, error = early(served, path, f"Content-Length: {most + 1}")
    assert (status, error["exit_code"]) == (409, 4) and "too large" in error["message"]
    assert ("16 MiB" if path == "submit" else "KiB") in error["mend"]
    assert served.service.calls == []
    assert served.ask("POST", f"/v1/{path}", b" " * most).status in (200, 400), "it was read"


@pytest.mark.parametrize(("path", "most"), CAPS)
def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_large(served: Served, path: str, most: int) -> None:
    body = b"%x\r\n%s\r\n" % (most + 1, b" " * (most + 1))
    assert early(served, path, "Transfer-Encoding: chunked", body=body)[0] == 409
    assert served.service.calls == []


def test_a_body_too_large_is_refused_and_the_next_served(served: Served) -> None:
    assert served.ask("POST", "/v1/submit", b" " * (MAX_BODY_BYTES + 2**20)).error["exit_code"] == 4
    assert served.ask("GET", "/v1/status").status == 200


def test_the_largest_submission_is_taken(served: Served) -> None:
    text = "#" + '"' * (16 * 2**20 - 1)
    assert served.ask("POST", "/v1/submit", {**SUBMISSION, "documents": [{"file": "a", "text": text}]}).status == 200
    assert served.service.calls[0][2].documents[0].text == text


@pytest.mark.parametrize("text", ['"', "\\", '\\"', '"' * 300, "a: b"])
def test_as_many_strings_as_may_be_are_taken(text: str) -> None:
    body = {
        "documents": [{"file": text, "text": text}] * MAX_DOCUMENTS,
        "cwd": text,
        "set": [text] * MAX_OPTIONS,
        "keep_env": {f"A{n}{text}": text for n in range(MAX_ENV)},
    }
    assert len(submission_of(json.dumps(body).encode()).documents) == MAX_DOCUMENTS


@pytest.mark.parametrize("text", ["", "\\", '"', "x"])
@pytest.mark.parametrize("where", ["documents", "set", "keep_env"])
def test_more_strings_than_may_be_are_not_decoded(where: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """33 MiB of empty variables take the loop two seconds to decode, and hundreds of megabytes."""
    many = 10 * MAX_DOCUMENTS
    body: dict[str, Any] = {
        "documents": [{"file": text, "text": text}] * many,
        "set": [text] * many,
        "keep_env": {f"{n}{text}": text for n in range(many)},
    }
    monkeypatch.setattr(bodies, "decoded", lambda *_: pytest.fail("decoded"))
    with pytest.raises(RefusedError, match="too many files"):
        submission_of(json.dumps({**SUBMISSION, where: body[where]}).encode())


def test_as_many_ids_as_may_be_are_taken(served: Served) -> None:
    ids = [2**53 - n for n in range(MAX_IDS)]
    assert served.ask("POST", "/v1/jobs/wait", {"ids": ids, "priority": None, "timeout_seconds": 0}).status == 200
    assert served.service.calls[0][2] == ids


def test_more_ids_than_may_be_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids_of(b'{"ids":[1,2,3],"priority":null,"timeout_seconds":0}', 3).ids == [1, 2, 3]
    with pytest.raises(RefusedError, match="4 ids"):
        ids_of(b'{"ids":[1,2,3,4]}', 3)
    monkeypatch.setattr(bodies, "decoded", lambda *_: pytest.fail("decoded"))
    with pytest.raises(RefusedError, match="more than 3 ids"):
        ids_of(b'{"ids":[' + b"1," * 7 + b"1]}", 3)


@pytest.mark.parametrize(
    "path",
    ["pause", "resume", "cards/drain", "cards/power", "cards/verify", "models/pin", "models/unpin", "models/unload"],
)
def test_who_is_no_admin_is_told_before_anything_is_read(
    served: Served, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.server._gate, "caller", lambda _: Caller(4711, "anna", admin=False))
    status, error = early(served, path, "Content-Length: 1000")
    assert status == 403 and "p104-admin" in error["message"] and error["mend"]
    assert served.service.calls == []


@pytest.mark.parametrize(("path", "paused"), [("pause/", True), ("resume/", False)])
def test_a_slash_at_the_end_changes_nothing(served: Served, path: str, paused: bool) -> None:
    assert served.ask("POST", f"/v1/{path}").status == 200
    assert served.service.calls[0][2] is paused
