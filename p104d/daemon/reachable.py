"""The daemon's sockets are made again when somebody took them away.

$XDG_RUNTIME_DIR goes when a user logs out for good (without lingering), and comes back empty with the next login; a
clean-up of /tmp takes what is there. A daemon whose socket has lost its name runs on, and nobody can ask it anything.
"""

from __future__ import annotations

import asyncio
import logging
import os

from p104d.api.server import Server
from p104d.core.errors import P104Error
from p104d.daemon.listening import listen
from p104d.daemon.paths import Places, make_folders
from p104d.processes.listener import EventSocket

log = logging.getLogger(__name__)
#: Nothing tells of it, and whoever logs in again waits so long.
_EVERY_SECONDS = 5.0


async def stay_reachable(server: Server, events: EventSocket, places: Places, *, system: bool) -> None:
    """Look after both sockets for as long as the daemon runs. Where they cannot be made, that is said once, and tried
    again: the folder may come back."""
    failing = False
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        try:
            if os.path.lexists(places.socket) and os.path.lexists(events.path):
                continue
            make_folders(places, system=system)
            events.look_after()
            if not os.path.lexists(places.socket):
                server.move(listen(places.socket, system=system))
                log.warning("%s was gone, and is made again", places.socket, extra={"action": "socket_made"})
            failing = False
        except (OSError, P104Error) as error:
            if not failing:
                log.error("the socket is gone: %s", error, extra={"action": "socket_failed"})
            failing = True
