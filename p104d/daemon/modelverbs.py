"""``p104ctl models``: the copies on the cards as people see them, and what they do to models: pin, unpin, unload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from sqlalchemy.engine import Connection

from p104d.api.models import LoadTime, ModelVerb, Pin, ResidentModel, Residents
from p104d.api.service import Caller
from p104d.core.errors import NotAllowedError, NotFoundError, RefusedError
from p104d.core.units import iso
from p104d.daemon.loop import Loop
from p104d.daemon.residents import expected, jobs_on
from p104d.daemon.servers import UNLOADED
from p104d.daemon.work import Work
from p104d.engines.model_probe import label_of
from p104d.store import instances, model_facts, reads
from p104d.store.instances import Instance, InstanceState

_Pinned = dict[str, model_facts.Pin | None]


class ModelVerbs:
    """Reads and moves copies; what it answers was committed before."""

    def __init__(self, loop: Loop, *, user_mode: bool) -> None:
        self._loop, self._user_mode = loop, user_mode

    def residents(self, caller: Caller) -> Residents:
        """All copies, all pins, all load times."""
        with self._loop.database.read() as conn:
            copies, pinned = instances.open_instances(conn), self._pinned(conn)
            times = model_facts.load_times(conn)
            return Residents(
                models=self._seen(conn, caller, copies, pinned),
                pins=[self._pin(caller, path, pin) for path, pin in pinned.items()],
                load_times=[
                    LoadTime(
                        model=each.label,
                        path=each.path if self._open(caller, None) else None,
                        seconds=round(each.seconds, 3),
                        count=each.count,
                    )
                    for each in times
                ],
            )

    def do(self, caller: Caller, verb: ModelVerb, model: str) -> Residents:
        """Do ``verb`` to the model that ``model`` names: a path, ``#id`` of a copy, or a name. Raises NotFoundError,
        NotAllowedError, RefusedError; then nothing was done."""
        if not caller.admin:
            raise NotAllowedError("models are for root and group p104-admin", mend="ask one of them, or use sudo")
        table: dict[ModelVerb, Callable[[Connection, str, str, float, Work], None]] = {
            "pin": self._do_pin,
            "unpin": self._do_unpin,
            "unload": self._do_unload,
        }
        touched: list[str] = []

        def request(conn: Connection, now: float, work: Work) -> bool:
            path = self._path(conn, model)
            if verb == "unload":
                table[verb](conn, model if model.startswith("#") else path, caller.user, now, work)
            else:
                table[verb](conn, path, caller.user, now, work)
            touched.append(path)
            work.dirty = True
            return True

        with self._loop.database.read() as conn:
            before = {copy.id for copy in instances.open_instances(conn) if copy.path == self._path(conn, model)}
        self._loop.step(request)
        with self._loop.database.read() as conn:
            copies = [copy for copy in instances.open_instances(conn) if copy.id in before or copy.path == touched[0]]
            pinned = {path: pin for path, pin in self._pinned(conn).items() if path == touched[0]}
            if model.startswith("#") and verb == "unload":
                copies = [copy for copy in copies if f"#{copy.id}" == model]
            return Residents(
                models=self._seen(conn, caller, copies, self._pinned(conn)),
                pins=[self._pin(caller, path, pin) for path, pin in pinned.items()],
            )

    # --- which model -----------------------------------------------------------------------------------------------

    def _path(self, conn: Connection, model: str) -> str:
        """The path of the model that is meant."""
        if model.startswith("/"):
            return model
        copies = instances.open_instances(conn)
        if model.startswith("#"):
            found = {copy.path for copy in copies if f"#{copy.id}" == model}
        else:
            known = [(copy.label, copy.path) for copy in copies]
            known += [(label_of(path), path) for path in self._pinned(conn)]
            known += [(each.label, each.path) for each in model_facts.load_times(conn)]
            found = {path for label, path in known if label == model}
        if not found:
            raise NotFoundError(f"there is no model {model}", mend="p104ctl models lists them; or name its file's path")
        if len(found) > 1:
            raise RefusedError(f"{model} names {len(found)} models", mend="name one by its file's path")
        return found.pop()

    def _pinned(self, conn: Connection) -> _Pinned:
        """The pins by path: those of the configuration (None) before those that people have set."""
        pins: _Pinned = dict.fromkeys(self._loop.settings.models.pinned)
        return {pin.path: pin for pin in model_facts.pins(conn)} | pins

    # --- doing -----------------------------------------------------------------------------------------------------

    def _do_pin(self, conn: Connection, path: str, by: str, now: float, _work: Work) -> None:
        if not model_facts.pin(conn, path, by, now) or path in self._loop.settings.models.pinned:
            raise RefusedError(f"{label_of(path)} is pinned already")

    def _do_unpin(self, conn: Connection, path: str, _by: str, _now: float, _work: Work) -> None:
        done = model_facts.unpin(conn, path)
        if path in self._loop.settings.models.pinned:
            raise RefusedError(f"{label_of(path)} is pinned by the configuration", mend="take it out of models.pinned")
        if not done:
            raise RefusedError(f"{label_of(path)} is not pinned")

    def _do_unload(self, conn: Connection, model: str, _by: str, _now: float, work: Work) -> None:
        copies = [
            copy for copy in instances.open_instances(conn) if copy.usable and model in (copy.path, f"#{copy.id}")
        ]
        if not copies:
            raise RefusedError(f"no copy of {model} is loaded")
        busy = jobs_on(reads.open_attempts(conn))
        used = [busy[copy.id].job_id for copy in copies if copy.id in busy]
        if used and len(used) == len(copies):
            raise RefusedError(f"job {used[0]} runs on it", mend=f"wait, or p104ctl cancel {used[0]}")
        for copy in copies:
            if copy.id not in busy:
                self._loop.servers.evict(conn, copy.id, UNLOADED, work)

    # --- as people see them ----------------------------------------------------------------------------------------

    def _open(self, caller: Caller, uid: int | None) -> bool:
        """Whether the caller may see a model's path: everything in a daemon of one's own; root and the owner."""
        return self._user_mode or caller.uid == 0 or caller.uid == uid

    def _seen(
        self, conn: Connection, caller: Caller, copies: Sequence[Instance], pinned: _Pinned
    ) -> list[ResidentModel]:
        busy, now = jobs_on(reads.open_attempts(conn)), self._loop.clock.now()
        limit = self._loop.settings.models.idle_unload_seconds
        found = []
        for copy in copies:
            job = busy[copy.id].job_id if copy.id in busy else None
            idle = copy.state is InstanceState.READY and job is None
            stays = copy.path in pinned or not limit or not idle
            found.append(
                ResidentModel(
                    id=copy.id,
                    name=copy.label,
                    path=copy.path if self._open(caller, copy.uid) else None,
                    state=_state(copy, job),
                    cards=list(copy.uuids),
                    memory_reserved_bytes=sum(card.reserved_bytes for card in copy.cards),
                    context=copy.loaded.context,
                    parallel=copy.loaded.parallel,
                    kv_cache=copy.loaded.kv_cache,
                    tensor_split=list(copy.loaded.tensor_split) or None,
                    job=job,
                    user=None if copy.loaded.shared and not self._user_mode else copy.loaded.user,
                    shared=copy.loaded.shared,
                    pinned=copy.path in pinned,
                    loaded_at=iso(copy.ready_at),
                    load_seconds=copy.load_seconds,
                    ready_at=iso(expected(copy, now)) if copy.state is InstanceState.LOADING else None,
                    last_used_at=iso(copy.last_used_at),
                    unload_at=None if stays else iso(copy.last_used_at + limit),
                    pid=copy.pid,
                    embeddings=copy.loaded.embeddings,
                )
            )
        return found

    def _pin(self, caller: Caller, path: str, pin: model_facts.Pin | None) -> Pin:
        return Pin(
            model=path if caller.admin or self._open(caller, None) else None,
            name=label_of(path),
            by=pin.pinned_by if pin is not None else None,
            at=iso(pin.at) if pin is not None else None,
        )


def _state(copy: Instance, job: int | None) -> Literal["loading", "ready", "busy", "stopping"]:
    if copy.state is InstanceState.READY:
        return "ready" if job is None else "busy"
    return "loading" if copy.state is InstanceState.LOADING else "stopping"
