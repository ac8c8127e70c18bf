"""The keys of the metrics, and the sockets they lead to: bound here, or handed over by systemd."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from metrics_rig import ROOT

from p104d.core.errors import P104Error, UnavailableError, UsageError
from p104d.daemon.metrics_config import (
    SYSTEMD,
    Address,
    MetricsConfig,
    check_metrics,
    parse_listen,
    read_token,
    refuse_open,
)
from p104d.daemon.metrics_listen import bind, serve_metrics

TOKEN = b"0123456789abcdef0123456789abcdef"
PAGE = b"x 1.0\n"


async def scrape(port: int) -> bytes:
    """A whole answer, head and all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        async with asyncio.timeout(10.0):
            return await reader.read()
    finally:
        writer.close()


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9104", Address("127.0.0.1", 9104)),
        ("[::1]:9104", Address("::1", 9104)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        ":9104",
        "9104",
        "localhost:9104",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "::1:9104",
        "[127.0.0.1]:9104",
        "1.2.3:9104",
        "127.0.0.1:９１０４",
        "http://127.0.0.1:9104",
        "127.0.0.1:9104\n",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        parse_listen(text)
    with pytest.raises(UsageError, match=r"config.toml: metrics\.listen"):
        check_metrics("config.toml", MetricsConfig(listen=text))


@pytest.mark.parametrize("text", ["0.0.0.0:9104", "192.168.1.2:9104", "[::]:9104", "[::ffff:127.0.0.1]:9104"])
def test_an_open_address_needs_a_token(text: str) -> None:
    with pytest.raises(UsageError, match="no token is set"):
        check_metrics("config.toml", MetricsConfig(listen=text))
    check_metrics("config.toml", MetricsConfig(listen=text, token_file="/etc/p104d/metrics.token"))


@pytest.mark.parametrize("text", ["", SYSTEMD, "127.0.0.1:9104", "127.8.0.1:9104", "[::1]:9104"])
def test_this_host_alone_needs_none(text: str) -> None:
    check_metrics("config.toml", MetricsConfig(listen=text))


@pytest.mark.parametrize(
    "config",
    [
        MetricsConfig(hosts=["rig.lan:9104"]),
        MetricsConfig(hosts=[""]),
        MetricsConfig(hosts=["*"]),
        MetricsConfig(token_file="token"),
    ],
)
def test_keys_that_cannot_be_meant(config: MetricsConfig) -> None:
    with pytest.raises(UsageError, match=r"config.toml: metrics\."):
        check_metrics("config.toml", config)


def test_the_token_is_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(TOKEN + b"\n")
    path.chmod(0o640)
    assert read_token(str(path)) == TOKEN


@pytest.mark.parametrize(
    ("content", "mode"),
    [(TOKEN, 0o644), (b"", 0o600), (b"short\n", 0o600), (b"two words of it all", 0o600), (b"x" * 5000, 0o600)],
)
def test_what_is_no_token(tmp_path: Path, content: bytes, mode: int) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(UsageError) as caught:
        read_token(str(path))
    line = caught.value.line()
    assert str(path) in line and (not content or content.decode() not in line), "a secret is not for the log"


def test_no_token_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(str(tmp_path / "none"))


# --- sockets ----------------------------------------------------------------------------------------------------------


class NoMetrics:
    """Stands in for Metrics where no page is asked for."""

    async def page(self) -> bytes:
        return PAGE


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_an_address_is_served_and_given_back() -> None:
    port = free_port()

    async def run() -> bytes:
        server = await serve_metrics(MetricsConfig(listen=f"127.0.0.1:{port}"), NoMetrics())  # type: ignore[arg-type]
        assert server is not None
        try:
            return await scrape(port)
        finally:
            await server.stop()

    for _ in range(2):
        assert asyncio.run(run()).endswith(PAGE)


def test_nothing_is_served_unasked() -> None:
    assert asyncio.run(serve_metrics(MetricsConfig(), NoMetrics())) is None  # type: ignore[arg-type]


def test_an_address_in_use_keeps_no_daemon_from_its_jobs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UnavailableError, match="in use"):
        bind(Address("127.0.0.1", taken.getsockname()[1]))


def test_an_address_of_another_host() -> None:
    with pytest.raises(UnavailableError, match=r"metrics\.listen: 192\.0\.2\.1:9104"):
        bind(Address("192.0.2.1", 9104))


#: Run in a process of its own, whose descriptor 3 is what systemd would pass.
_CHILD = """
import os, sys
from p104d.core.errors import P104Error
from p104d.daemon.metrics_listen import inherited
from p104d.daemon.metrics_config import refuse_open
given = dict(zip(("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"), sys.argv[1:]))
given["LISTEN_PID"] = given["LISTEN_PID"].replace("self", str(os.getpid()))
try:
    found = inherited(given)
    assert not given and not os.get_inheritable(found[0].fileno())
    refuse_open("metrics.listen", [each.getsockname()[0] for each in found], has_token=False)
    print("took", len(found), found[0].fileno())
except P104Error as error:
    print(error.line())
"""


def handed_over(passed: socket.socket, pid: str, count: str, names: str) -> str:
    done = subprocess.run(
        # The shell moves the descriptor to where systemd puts it.
        ["bash", "-c", f'exec 3<&{passed.fileno()}; exec "$@"', "-", sys.executable, "-c", _CHILD, pid, count, names],
        capture_output=True,
        text=True,
        check=True,
        pass_fds=[passed.fileno()],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return done.stdout.strip()


def test_systemd_hands_a_socket_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as made:
        assert handed_over(made, "self", "1", "metrics") == "took 1 3"
        assert "no socket" in handed_over(made, "1", "1", "metrics"), "it was meant for another process"
        assert "no socket" in handed_over(made, "self", "1", "other")
        assert "no socket" in handed_over(made, "self", "", "")


def test_what_systemd_hands_over_is_checked_too(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as made:
        assert "no token is set" in handed_over(made, "self", "1", "metrics")
    with socket.socket(socket.AF_UNIX) as made:
        assert "no TCP socket" in handed_over(made, "self", "1", "metrics")


def test_refusing_names_the_address() -> None:
    with pytest.raises(P104Error, match=r"10\.0\.0\.1 can be reached"):
        refuse_open("x", ["127.0.0.1", "10.0.0.1"], has_token=False)


# --- the socket unit -------------------------------------------------------------------------------------------------


def test_the_socket_unit_passes_what_is_looked_for() -> None:
    text = (ROOT / "systemd" / "p104d-metrics.socket").read_text()
    assert "\nFileDescriptorName=metrics\n" in text and "\nService=p104d.service\n" in text
    listens = [line.partition("=")[2] for line in text.splitlines() if line.startswith("ListenStream=")]
    assert [parse_listen(each).is_loopback for each in listens] == [True]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_has_nothing_to_say_about_the_socket_unit(tmp_path: Path) -> None:
    for name in ("p104d.service", "p104d-metrics.socket"):
        text = (ROOT / "systemd" / name).read_text()
        # The command is where `make install` puts it; here something that exists stands in for it.
        (tmp_path / name).write_text(text.replace("/opt/p104d/bin/p104d --system", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "p104d-metrics.socket")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
