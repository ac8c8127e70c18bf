"""From a copy that was written down to what its shim is told: llama-server, its account, its socket; and from a job of
an engine to the batch runner that puts its requests to that socket."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

from p104d.core.job import EngineSpec
from p104d.daemon.accounts import Account, base_environment, own_account
from p104d.daemon.config import Settings
from p104d.daemon.listening import GROUP
from p104d.engines.model_memory import Ask
from p104d.engines.server_command import server_argv, server_environment
from p104d.processes.attempt import LaunchSpec
from p104d.processes.launchers import program_argv
from p104d.store.instances import Loaded

KIND = "server"
#: A server that is told to go has nothing to save; a driver may need some seconds to let go of the memory.
GRACE_SECONDS = 5.0
#: Of sun_path (107 bytes) enough is left for ``/<id>/s.sock``.
_MOST_FOLDER_BYTES = 80
_LOG_BYTES = 4 * 2**20
#: The only variables of the daemon's own that a server of the same user gets: where its program and its libraries are.
_INHERITED = ("PATH", "LD_LIBRARY_PATH")


#: A server makes one thing that others have to write to, its socket; the folder around it keeps strangers out.
_UMASK = 0o000


class ServerPlaces:
    """Where servers listen: a folder each. It is the same for every daemon of a state folder, however it is started."""

    def __init__(self, runtime: Path, state: Path, *, system: bool) -> None:
        self._system = system
        name = f"models-{zlib.crc32(os.fsencode(state)):08x}"
        folder = runtime / name
        if len(os.fsencode(folder)) > _MOST_FOLDER_BYTES:
            folder = Path("/tmp") / f"p104d-{os.getuid()}-{name}"  # noqa: S108 - ours alone, or refused
        self.folder = folder

    def socket(self, number: int) -> str:
        """The socket of copy ``number``."""
        return str(self.folder / str(number) / "s.sock")

    def make(self, number: int, owner: Account | None, *, shared: bool) -> None:
        """Make the folder of a socket, for ``owner`` (None: the daemon's own user) to make the socket in.

        Who may connect is who may enter: the owner alone, or, where the copy is ``shared``, group p104 (and root, who
        may enter but not write). So the socket itself is open to all. Raises OSError.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.lstat(self.folder).st_uid != os.getuid() or self.folder.is_symlink():
            raise PermissionError(f"{self.folder} is somebody else's")
        if self._system:
            # Not by mkdir, from whose mode the daemon's umask is taken.
            self.folder.chmod(0o711)
        place = self.folder / str(number)
        self.remove(number)
        with contextlib.suppress(FileNotFoundError):
            # An owner may leave there what the sandbox lets nobody remove.
            place.rename(place.with_name(f"{number}.left-{os.urandom(4).hex()}"))
        place.mkdir(mode=0o700)
        if owner is None:
            return
        # In this order, and no setgid bit: that is all that the sandbox of the service leaves to root.
        place.chmod(0o710 if shared else 0o700)
        os.chown(place, owner.uid, _group() if shared else owner.gid)

    def remove(self, number: int) -> None:
        """The copy is gone."""
        place = self.folder / str(number)
        with contextlib.suppress(OSError):
            os.chown(place, os.getuid(), os.getgid(), follow_symlinks=False)
        shutil.rmtree(place, ignore_errors=True)

    def close(self) -> None:
        """Leave no empty folder: where the runtime folder's path is long it is one in /tmp."""
        with contextlib.suppress(OSError):  # servers that run on have theirs in it; or none was ever made
            self.folder.rmdir()


def _group() -> int:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return os.getgid()


def server_spec(
    number: int,
    *,
    path: str,
    label: str,
    ask: Ask,
    pooling: bool,
    loaded: Loaded,
    owner: Account | None,
    cards: Sequence[str],
    reserved: Sequence[int],
    ram_bytes: int,
    settings: Settings,
) -> LaunchSpec:
    """What the shim of copy ``number`` is told. ``owner`` None: the daemon's own user; ``pooling``: the model's header
    says how an embedding is made."""
    who = owner or own_account()
    same = who.uid == os.getuid()
    models = settings.models
    argv = server_argv(
        models.llama_server,
        path,
        loaded.socket,
        ask,
        cards=len(cards),
        tensor_split=loaded.tensor_split or None,
        embeddings=loaded.embeddings,
        pooling=pooling,
        alias=label,
        extra=models.args,
    )
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ} if same else {}
    return LaunchSpec(
        kind=KIND,
        id=number,
        number=1,
        argv=tuple(argv),
        env=base_environment(who)
        | inherited
        | server_environment(ask)
        | {"CUDA_VISIBLE_DEVICES": ",".join(cards), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        cwd="/",
        uid=None if same else who.uid,
        gid=None if same else who.gid,
        user=None if same else who.name,
        umask=_UMASK,
        grace_seconds=min(GRACE_SECONDS, settings.stop_grace_seconds),
        log_limit_bytes=_LOG_BYTES,
        ram_bytes=ram_bytes,
        pids_max=settings.max_pids,
        cards=tuple(cards),
        reserved_bytes=tuple(reserved),
    )


def batch_argv(engine: EngineSpec, socket: str, label: str) -> tuple[str, ...]:
    """The batch runner's command line. Isolated: what lies in the job's folder is data, not modules."""
    orders = {
        "version": 1,
        "socket": socket,
        "input": engine.input,
        "output": engine.output,
        "parallel": engine.parallel,
        "model": label,
    }
    return tuple(program_argv("p104d.engines.batch", json.dumps(orders)))
