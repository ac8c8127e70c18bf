"""Where the metrics are served over TCP: an address of the configuration, or a socket that systemd hands over.

The service's sandbox has no network at all. A socket unit makes the socket outside of it and passes it in, so that
`/metrics` works over TCP and nothing else of the daemon gets a network.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

from p104d.api.metrics_server import MetricsServer, own_names
from p104d.core.errors import UnavailableError, UsageError
from p104d.daemon.metrics import CONTENT_TYPE, Metrics
from p104d.daemon.metrics_config import SYSTEMD, Address, MetricsConfig, parse_listen, read_token, refuse_open

#: ``FileDescriptorName`` of p104d-metrics.socket.
_SOCKET_NAME = "metrics"
log = logging.getLogger(__name__)
#: sd_listen_fds(3): descriptors are passed from this one on.
_FIRST_DESCRIPTOR = 3


async def serve_if_possible(config: MetricsConfig, metrics: Metrics) -> MetricsServer | None:
    """``serve_metrics``; an address that cannot be had keeps nobody's jobs waiting."""
    try:
        return await serve_metrics(config, metrics)
    except UnavailableError as error:
        log.warning("%s", error.line(), extra={"action": "metrics_failed"})
        return None


async def serve_metrics(config: MetricsConfig, metrics: Metrics) -> MetricsServer | None:
    """Serve ``metrics`` as configured; None where it is not wanted. ``stop`` what is returned.

    Raises UsageError for a token that cannot be read and an address that is open to others without one: then the daemon
    must not start. Raises UnavailableError where the address cannot be had, which is no reason to leave jobs alone.
    """
    if not config.listen:
        return None
    token = read_token(config.token_file) if config.token_file else None
    sockets = inherited(os.environ) if config.listen == SYSTEMD else [bind(parse_listen(config.listen))]
    server = MetricsServer(metrics.page, CONTENT_TYPE, token=token, names=own_names(config.hosts))
    try:
        hosts = [each.getsockname()[0] for each in sockets]
        refuse_open("metrics.listen", hosts, has_token=token is not None)
        await server.start(sockets)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return server


def bind(address: Address) -> socket.socket:
    """A socket at ``address``. Raises UnavailableError where it cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        # getaddrinfo turns the zone of fe80::1%eth0 into a number; a literal address asks no name server.
        found = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UnavailableError(
            f"metrics.listen: {address.host}:{address.port}: {error.strerror}",
            mend='under systemd set metrics.listen = "systemd" and enable p104d-metrics.socket',
        ) from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # An address is what it says: [::] does not also mean every IPv4 address.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(found[0][4])
    except OSError as error:
        made.close()
        raise UnavailableError(f"metrics.listen: {address.host}:{address.port}: {error.strerror}") from None
    return made


def inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that p104d-metrics.socket made. Takes systemd's variables out of ``environ``, so that no child
    believes they are its own. Raises UnavailableError where there is none, UsageError for one that is no TCP socket."""
    pid, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    number = int(count) if pid == str(os.getpid()) and count.isdigit() else 0
    named = zip(range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + number), names.split(":"), strict=False)
    found = [_taken(descriptor) for descriptor, name in named if name == _SOCKET_NAME]
    if not found:
        raise UnavailableError(
            "metrics.listen: systemd has passed no socket",
            mend="systemctl enable p104d-metrics.socket, then stop and start p104d",
        )
    if any(each.family not in (socket.AF_INET, socket.AF_INET6) or each.type != socket.SOCK_STREAM for each in found):
        for each in found:
            each.close()
        raise UsageError(
            "metrics.listen: what systemd has passed is no TCP socket", mend="write ListenStream=ADDRESS:PORT"
        )
    return found


def _taken(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
