"""The configuration file: every key with its default. docs/configuration.md lists the same, held equal by a test."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from p104d.core.errors import UsageError
from p104d.core.units import parse_duration, parse_size

T = TypeVar("T")


class NotifyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to tell when a card goes bad: a command, a webhook, or both."""

    command: list[str] = []
    webhook: str = ""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every key of config.toml. Sizes and durations are written as in job.yaml (``16MiB``, ``90d``)."""

    cpu_jobs: int = 0
    host_ram: str = ""
    interval: str = "1s"
    sensor_deadline: str = "5s"
    missing_after: str = "5s"
    gpu_appear: str = "60s"
    stop_grace: str = "10s"
    log_limit: str = "16MiB"
    keep_jobs: str = "90d"
    keep_logs: str = "2GiB"
    queue_limit: int = 2_000_000
    queue_limit_per_user: int = 2_000_000
    allow_root_jobs: bool = False
    launcher: str = "auto"
    max_pids: int = 4096
    vram_margin: str = "256MiB"
    notify: NotifyConfig = NotifyConfig()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in base units, with what depends on the host filled in."""

    cpu_jobs: int
    host_ram_bytes: int
    interval_seconds: float
    sensor_deadline_seconds: float
    missing_after_seconds: float
    gpu_appear_seconds: float
    stop_grace_seconds: float
    log_limit_bytes: int
    keep_jobs_seconds: float
    keep_logs_bytes: int
    queue_limit: int
    queue_limit_per_user: int
    allow_root_jobs: bool
    launcher: str
    max_pids: int
    vram_margin_bytes: int
    notify: NotifyConfig


def load_config(path: Path | None) -> Settings:
    """Read ``path``; None means all defaults. Raises UsageError, naming file and key."""
    if path is None:
        return settle(Config())
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}", mend="correct the file or start without it") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", mend="name another file with --config") from None
    return settle(_convert(path, raw), str(path))


def _convert(path: Path, raw: dict[str, Any]) -> Config:
    known = Config.__struct_fields__
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            raise UsageError(
                f"{path}: unknown key {key}", mend=f"did you mean {close[0]}?" if close else "see docs/configuration.md"
            )
    try:
        return msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}", mend="see docs/configuration.md") from None


def settle(config: Config, where: str = "configuration") -> Settings:
    """Turn written sizes and durations into bytes and seconds. Raises UsageError, naming the key."""

    def seconds(key: str) -> float:
        return _parsed(where, key, getattr(config, key), parse_duration)

    def size(key: str) -> int:
        return _parsed(where, key, getattr(config, key), parse_size)

    launchers = ("auto", "zygote", "systemd")
    if config.launcher not in launchers:
        raise UsageError(f"{where}: launcher: {config.launcher!r} is none of {', '.join(launchers)}")
    for key in ("cpu_jobs", "queue_limit", "queue_limit_per_user", "max_pids"):
        if getattr(config, key) < 0:
            raise UsageError(f"{where}: {key}: must not be negative")
    if config.notify.webhook and not config.notify.webhook.startswith(("http://", "https://")):
        raise UsageError(
            f"{where}: notify.webhook: {config.notify.webhook!r} is no URL", mend="write https://example.org/hook"
        )
    return Settings(
        cpu_jobs=config.cpu_jobs or (os.cpu_count() or 1),
        host_ram_bytes=size("host_ram") if config.host_ram else _total_ram(),
        interval_seconds=seconds("interval"),
        sensor_deadline_seconds=seconds("sensor_deadline"),
        missing_after_seconds=seconds("missing_after"),
        gpu_appear_seconds=seconds("gpu_appear"),
        stop_grace_seconds=seconds("stop_grace"),
        log_limit_bytes=size("log_limit"),
        keep_jobs_seconds=seconds("keep_jobs"),
        keep_logs_bytes=size("keep_logs"),
        queue_limit=config.queue_limit,
        queue_limit_per_user=config.queue_limit_per_user,
        allow_root_jobs=config.allow_root_jobs,
        launcher=config.launcher,
        max_pids=config.max_pids,
        vram_margin_bytes=size("vram_margin"),
        notify=config.notify,
    )


def _parsed(where: str, key: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{where}: {key}: {error}") from None


def _total_ram() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
