"""Where a daemon keeps its state, listens and reads its configuration, by mode."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from p104d.core.errors import P104Error
from p104d.daemon.accounts import own_account


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """The folders and files of one daemon. ``config`` is None where no file is there by default."""

    state: Path
    runtime: Path
    socket: Path
    config: Path | None

    @property
    def database(self) -> Path:
        """queue.db"""
        return self.state / "queue.db"

    @property
    def jobs(self) -> Path:
        """One folder an attempt, below."""
        return self.state / "jobs"


def places(*, system: bool, state: str | None, socket: str | None, config: str | None, simulated: bool) -> Places:
    """Resolve the defaults of design: /var/lib, /run and /etc for the system, the XDG folders for a user."""
    name = "p104d-simulated" if simulated else "p104d"
    home = Path(os.environ.get("HOME") or own_account().home)
    state_home = _xdg("XDG_STATE_HOME") or home / ".local/state"
    config_home = _xdg("XDG_CONFIG_HOME") or home / ".config"
    runtime_home = _xdg("XDG_RUNTIME_DIR")
    default_state = Path("/var/lib") / name if system else state_home / name
    state_dir = Path(os.path.abspath(state)) if state else default_state
    own_runtime = runtime_home / name if runtime_home else state_dir / "run"
    runtime = Path("/run") / name if system else own_runtime
    default_config = Path("/etc/p104d/config.toml") if system else config_home / "p104d/config.toml"
    chosen = Path(config) if config else default_config
    return Places(
        state=state_dir,
        runtime=runtime,
        socket=Path(os.path.abspath(socket)) if socket else runtime / "p104d.sock",
        config=chosen if config or chosen.exists() else None,
    )


def _xdg(variable: str) -> Path | None:
    """A base folder of the XDG specification, which has relative ones ignored."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else None


def _make(folder: Path, mode: int) -> None:
    """With that mode, whatever the umask (the daemon's own keeps everybody out); one that is there is left as it is."""
    if not folder.is_dir():
        folder.mkdir(mode=mode, parents=True)
        folder.chmod(mode)


def make_folders(where: Places, *, system: bool) -> None:
    """Make the folders that are missing: the state for the daemon alone, /run for everybody to pass through."""
    for folder, mode in ((where.state, 0o700), (where.jobs, 0o700), (where.runtime, 0o755 if system else 0o700)):
        try:
            _make(folder, mode)
        except OSError as error:
            raise P104Error(
                f"{folder} cannot be made: {error.strerror}", mend="name another with --state-dir, or mend its rights"
            ) from None
    owner = where.state.stat().st_uid
    if owner == os.getuid():
        where.state.chmod(0o700)
    elif system:
        raise P104Error(f"{where.state} belongs to uid {owner}", mend="chown it to root, or name another")
