"""Acts on the daemon's socket for a test, as the user it was started as. Orders are lines of JSON, so are answers.

``send``: raw bytes on a connection of their own, answered by all that comes until the other end closes. ``open``: that
many connections more, each given ``raw``, kept open. ``answers``: what has come on them since, and how many are still
open. ``shut``: close them all.
"""

import base64
import contextlib
import json
import socket
import sys

held = []


def connected(seconds):
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.connect(sys.argv[1])  # waiting: the daemon's backlog may be full for a moment
    made.settimeout(seconds)
    return made


def send(order):
    with connected(order["seconds"]) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(base64.b64decode(order["raw"]))
        found = b""
        try:
            while chunk := connection.recv(1 << 20):
                found += chunk
        except ConnectionResetError:
            pass
        except TimeoutError:
            if not order.get("silent"):
                return {"error": "no answer", "raw": base64.b64encode(found).decode()}
        return {"raw": base64.b64encode(found).decode()}


def open_many(order):
    data = base64.b64decode(order["raw"])
    let_in = 0
    for _ in range(order["count"]):
        connection = connected(10)
        held.append(connection)
        try:
            if data:
                connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            continue
        let_in += 1
    return {"let_in": let_in}


def answers(order):
    """What has come on the connections held, at once: how many are still open."""
    is_open, texts = 0, []
    for connection in held:
        connection.settimeout(order["seconds"])
        try:
            data = connection.recv(65536)
        except (TimeoutError, BlockingIOError):
            is_open += 1
            continue
        except ConnectionResetError:
            data = b""
        texts.append(base64.b64encode(data).decode())
    return {"open": is_open, "raw": texts}


def shut(_order):
    count = len(held)
    while held:
        held.pop().close()
    return {"shut": count}


KNOWN = {"send": send, "open": open_many, "answers": answers, "shut": shut}
for line in sys.stdin:
    asked = json.loads(line)
    try:
        said = KNOWN[asked["do"]](asked)
    except OSError as problem:
        said = {"error": problem.strerror or str(problem)}
    print(json.dumps(said), flush=True)
