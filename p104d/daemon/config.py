"""The configuration file: every key with its default. docs/configuration.md lists the same, held equal by a test."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from p104d.api.spec import cron_trigger
from p104d.core.errors import UsageError
from p104d.core.job import Schedule
from p104d.core.units import parse_duration, parse_size
from p104d.daemon.metrics_config import MetricsConfig, check_metrics
from p104d.daemon.sampler import SamplerSettings
from p104d.memtest.messages import Depth
from p104d.store.telemetry_keeping import Keep

T = TypeVar("T")
#: How deeply memory can be tested (``memtest.messages.Depth``).
DEPTHS = tuple(depth.value for depth in Depth)


class NotifyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to tell when a card goes bad: a command, a webhook, or both."""

    command: list[str] = []
    webhook: str = ""


class VerifyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When memory is tested without being asked, and how deeply. An empty ``schedule``: never again after the first."""

    first: str = "quick"
    schedule: str = "0 4 * * 0"
    depth: str = "full"


class HeatConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Degrees Celsius: from when a card takes no new job, from when its jobs are stopped, and how much cooler it has to
    be before it takes jobs again."""

    no_new_jobs: int = 85
    stop_jobs: int = 95
    hysteresis: int = 6


class PowerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be set on cards; None: hands off. Watts, MHz, per cent (or ``auto``)."""

    limit: float | None = None
    sm_clock: int | None = None
    memory_clock: int | None = None
    fan: int | str | None = None
    persistence: bool | None = None


class CardConfig(PowerConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same for the cards that ``match`` names: the beginning of a UUID, an index, or a name."""

    match: str


class ModelsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How models are served: llama.cpp's program and its further arguments; the user whose servers everybody's jobs
    share (system daemon); how long an idle copy stays (empty: for ever) and a load may take; models that stay."""

    llama_server: str = "llama-server"
    args: list[str] = []
    user: str = "p104-model"
    idle_unload: str = "15m"
    load_timeout: str = "10m"
    pinned: list[str] = []


class ModelSettings(msgspec.Struct, frozen=True):
    """The same in base units; ``idle_unload_seconds`` 0: never."""

    llama_server: str
    args: tuple[str, ...]
    user: str
    idle_unload_seconds: float
    load_timeout_seconds: float
    pinned: tuple[str, ...]


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
    backup_every: str = "1d"
    keep_backups: int = 2
    queue_limit: int = 2_000_000
    queue_limit_per_user: int = 1_000_000
    allow_root_jobs: bool = False
    launcher: str = "auto"
    max_pids: int = 4096
    vram_margin: str = "256MiB"
    max_parallel_loads: int = 2
    notify: NotifyConfig = NotifyConfig()
    verify: VerifyConfig = VerifyConfig()
    heat: HeatConfig = HeatConfig()
    power: PowerConfig = PowerConfig()
    card: list[CardConfig] = []
    models: ModelsConfig = ModelsConfig()
    metrics: MetricsConfig = MetricsConfig()
    telemetry_interval: str = "1s"
    keep_telemetry_seconds: str = "30d"
    keep_telemetry_minutes: str = "365d"
    telemetry_limit: str = "1GiB"
    energy_price: float = 0.0
    energy_currency: str = "EUR"


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
    backup_every_seconds: float
    keep_backups: int
    queue_limit: int
    queue_limit_per_user: int
    allow_root_jobs: bool
    launcher: str
    max_pids: int
    vram_margin_bytes: int
    max_parallel_loads: int
    notify: NotifyConfig
    verify: VerifyConfig
    heat: HeatConfig
    power: PowerConfig
    card: tuple[CardConfig, ...]
    models: ModelSettings
    metrics: MetricsConfig
    sampling: SamplerSettings
    energy_price: float
    energy_currency: str


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
    for key in ("max_parallel_loads", "keep_backups"):
        if getattr(config, key) < 1:
            raise UsageError(f"{where}: {key}: must be at least 1")
    for key in ("cpu_jobs", "queue_limit", "queue_limit_per_user", "max_pids"):
        if getattr(config, key) < 0:
            raise UsageError(f"{where}: {key}: must not be negative")
    if config.notify.webhook and not config.notify.webhook.startswith(("http://", "https://")):
        raise UsageError(
            f"{where}: notify.webhook: {config.notify.webhook!r} is no URL", mend="write https://example.org/hook"
        )
    if not 0 <= config.energy_price < 1e6 or not 0 < len(config.energy_currency) <= 8:
        raise UsageError(f"{where}: energy_price: must be a price per kWh, with a currency of at most 8 letters")
    check_metrics(where, config.metrics)
    _check_verify(where, config.verify)
    _check_heat(where, config.heat)
    _check_power(f"{where}: power", config.power)
    for number, card in enumerate(config.card):
        _check_power(f"{where}: [[card]] {number}", card)
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
        backup_every_seconds=seconds("backup_every"),
        keep_backups=config.keep_backups,
        queue_limit=config.queue_limit,
        queue_limit_per_user=config.queue_limit_per_user,
        allow_root_jobs=config.allow_root_jobs,
        launcher=config.launcher,
        max_pids=config.max_pids,
        vram_margin_bytes=size("vram_margin"),
        max_parallel_loads=config.max_parallel_loads,
        notify=config.notify,
        verify=config.verify,
        heat=config.heat,
        power=config.power,
        card=tuple(config.card),
        models=_models(where, config.models),
        metrics=config.metrics,
        sampling=SamplerSettings(
            interval=seconds("telemetry_interval"),
            keep=Keep(
                samples_seconds=seconds("keep_telemetry_seconds"),
                minutes_seconds=seconds("keep_telemetry_minutes"),
                size_bytes=size("telemetry_limit"),
            ),
        ),
        energy_price=config.energy_price,
        energy_currency=config.energy_currency,
    )


def _models(where: str, models: ModelsConfig) -> ModelSettings:
    def seconds(key: str) -> float:
        text = getattr(models, key)
        return _parsed(where, f"models.{key}", text, parse_duration) if text else 0.0

    if not models.llama_server:
        raise UsageError(f"{where}: models.llama_server: must name a program", mend="write llama-server, or its path")
    for path in models.pinned:
        if not path.startswith("/"):
            raise UsageError(f"{where}: models.pinned: {path!r} is not a full path", mend="write it from / on")
    if not seconds("load_timeout"):
        raise UsageError(f"{where}: models.load_timeout: must be above 0")
    return ModelSettings(
        llama_server=models.llama_server,
        args=tuple(models.args),
        user=models.user,
        idle_unload_seconds=seconds("idle_unload"),
        load_timeout_seconds=seconds("load_timeout"),
        pinned=tuple(os.path.normpath(path) for path in models.pinned),
    )


def _check_verify(where: str, verify: VerifyConfig) -> None:
    for key in ("first", "depth"):
        if getattr(verify, key) not in DEPTHS:
            raise UsageError(
                f"{where}: verify.{key}: {getattr(verify, key)!r} is no depth", mend=f"one of {', '.join(DEPTHS)}"
            )
    if verify.schedule:
        try:
            cron_trigger(Schedule(cron=verify.schedule, timezone=None))
        except ValueError as error:
            raise UsageError(f"{where}: verify.schedule: {error}", mend='write it as "0 4 * * 0"') from None


def _check_heat(where: str, heat: HeatConfig) -> None:
    if not 0 < heat.no_new_jobs <= heat.stop_jobs:
        raise UsageError(f"{where}: heat: no_new_jobs must be above 0 and not above stop_jobs")
    if not 0 <= heat.hysteresis < heat.no_new_jobs:
        raise UsageError(f"{where}: heat.hysteresis: must be at least 0 and below no_new_jobs")


def _check_power(where: str, power: PowerConfig) -> None:
    for key in ("limit", "sm_clock", "memory_clock"):
        value = getattr(power, key)
        if value is not None and value <= 0:
            raise UsageError(f"{where}.{key}: must be above 0")
    if isinstance(power.fan, str) and power.fan != "auto":
        raise UsageError(f"{where}.fan: {power.fan!r} is neither a number nor auto")
    if isinstance(power.fan, int) and not 0 <= power.fan <= 100:
        raise UsageError(f"{where}.fan: must be 0 to 100 per cent")


def _parsed(where: str, key: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{where}: {key}: {error}") from None


def _total_ram() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
