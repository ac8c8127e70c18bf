"""Posts the environment's P104_WEBHOOK_BODY to its P104_WEBHOOK_URL, as JSON; exits 0 when it was taken. Stdlib only.

Run as the user to be told, by a shim that ends it when it takes too long; three tries, for a router may be asleep. The
URL may also be an argument, as what an earlier release owed has it.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request

_TRIES = 3
_TIMEOUT_SECONDS = 15.0


def post(url: str, body: bytes) -> str | None:
    """What went wrong; None when the other end took it."""
    if not url.startswith(("http://", "https://")):
        return "only http and https are spoken here"
    request = urllib.request.Request(  # noqa: S310 - the scheme was just checked
        url, data=body, headers={"Content-Type": "application/json", "User-Agent": "p104d"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
            return None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(error)


def main() -> int:
    """Try a few times, waiting longer each time."""
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ["P104_WEBHOOK_URL"]
    body = os.environ.get("P104_WEBHOOK_BODY", "{}").encode()
    for wait in range(_TRIES):
        problem = post(url, body)
        if problem is None:
            return 0
        print(f"{url}: {problem}", file=sys.stderr)
        if wait < _TRIES - 1:
            time.sleep(2.0**wait)
    return 1


if __name__ == "__main__":
    sys.exit(main())
