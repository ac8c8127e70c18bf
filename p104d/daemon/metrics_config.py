"""The keys ``metrics.*`` of the configuration: where Prometheus finds the daemon over TCP, and who may ask."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from pathlib import Path

import msgspec

from p104d.core.errors import UsageError

#: ``metrics.listen``: take the socket that systemd made (``p104d-metrics.socket``).
SYSTEMD = "systemd"
_WRITE_LISTEN = 'write it as "127.0.0.1:9104", "[::1]:9104" or "systemd"'
_PLAIN = re.compile(r"([0-9.]+|\[[^\]]+\]):([0-9]{1,5})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})", re.ASCII)
#: Shorter ones are guessed; 16 characters of `openssl rand -hex 8` are 64 bits.
_LEAST_TOKEN = 16
_MOST_TOKEN_FILE = 4096


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``listen``: an IP address with its port, ``systemd``, or nothing. ``token_file``: a file with the bearer token
    that scrapes must carry; needed for every address but the host's own. ``hosts``: names, besides the host's own,
    under which it may be asked."""

    listen: str = ""
    token_file: str = ""
    hosts: list[str] = []


class Address(msgspec.Struct, frozen=True):
    """Where to listen."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Only processes of this host reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an IP address can be reached from this host alone. An IPv4 address written as IPv6 counts as open."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def parse_listen(text: str) -> Address:
    """``127.0.0.1:9104`` or ``[::1]:9104``. Raises ValueError for names: what a name means changes with the network."""
    match = _PLAIN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no IP address with a port")
    host, port = match[1].strip("[]"), int(match[2])
    version = 6 if match[1].startswith("[") else 4
    try:
        good = ipaddress.ip_address(host).version == version
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{match[1]!r} is no IP address")
    if not 0 < port < 65536:
        raise ValueError(f"{port} is no port")
    return Address(host, port)


def check_metrics(where: str, config: MetricsConfig) -> None:
    """Raises UsageError, naming ``where`` and the key, for what cannot be meant or would be open to everybody."""
    for name in config.hosts:
        if _NAME.fullmatch(name) is None:
            raise UsageError(
                f"{where}: metrics.hosts: {name!r} is no host name", mend='write ["rig.lan"], without a port'
            )
    if config.token_file and not os.path.isabs(config.token_file):
        raise UsageError(f"{where}: metrics.token_file: {config.token_file!r} is no absolute path")
    if config.listen in ("", SYSTEMD):
        return
    try:
        address = parse_listen(config.listen)
    except ValueError as error:
        raise UsageError(f"{where}: metrics.listen: {error}", mend=_WRITE_LISTEN) from None
    refuse_open(f"{where}: metrics.listen", [address.host], has_token=bool(config.token_file))


def refuse_open(where: str, hosts: list[str], *, has_token: bool) -> None:
    """Raises UsageError where others than this host could ask without a token."""
    for host in hosts:
        if not has_token and not is_loopback(host):
            raise UsageError(
                f"{where}: {host} can be reached from other hosts, and no token is set",
                mend="set metrics.token_file, or listen on 127.0.0.1",
            )


def read_token(path: str) -> bytes:
    """The token in ``path``, for the start of the daemon. Raises UsageError for a file that cannot be read, that
    everybody can read, or that holds no token of at least 16 printable characters."""
    where = f"metrics.token_file: {path}"
    try:
        with open(path, "rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(_MOST_TOKEN_FILE + 1).strip()
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o007:
        raise UsageError(f"{where} is open to everybody on this host", mend=f"chmod 600 {Path(path)}")
    if not _LEAST_TOKEN <= len(text) <= _MOST_TOKEN_FILE or not re.fullmatch(rb"[\x21-\x7e]+", text):
        raise UsageError(
            f"{where} holds no token: one word of at least {_LEAST_TOKEN} characters",
            mend=f"openssl rand -hex 32 > {Path(path)}",
        )
    return text
