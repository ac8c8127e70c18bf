"""p104d as ever, but for SQLite's page cache, which is kept small.

A queue that grows fills the cache of its two connections with some 400 bytes a job and more, for days, up to 16 MiB:
by design, and as much as the leaks that the soak looks for. A small cache is full within seconds.
"""

from __future__ import annotations

import sys

from p104d.daemon.main import main
from p104d.store import engine

#: Of 4 KiB, for each connection.
_PAGES = 100

if __name__ == "__main__":
    engine._CACHE_PAGES = _PAGES
    sys.exit(main())
