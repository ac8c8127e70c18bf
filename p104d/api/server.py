"""HTTP over the Unix socket: routes to the service, errors to one JSON shape, logs as streams."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from p104d.api import messages as m
from p104d.api.access import Gate
from p104d.api.door import Door, Shares, told
from p104d.api.exchange import WIRE, answer, body_of, broken_off, error_answer, read, socket_of, streamed
from p104d.api.history_queries import parse_records, parse_series, parse_while
from p104d.api.models import MODEL_VERBS, ModelRequest
from p104d.api.power import PowerRequest
from p104d.api.proof import VerifyRequest
from p104d.api.queries import LARGEST_ID, parse_export_query, parse_list_query, parse_log_query, parse_plan_query
from p104d.api.service import Caller, Service
from p104d.core.errors import NotFoundError, P104Error, RefusedError, UsageError

log = logging.getLogger(__name__)

#: A submission's cap is 16 MiB of specs; JSON quoting may double a text, and more than that is no submission.
MAX_BODY_BYTES = 33 * 2**20
MAX_IDS = 100_000
#: What is told of each of these takes some queries: nobody else is answered meanwhile.
MAX_SHOWN_IDS = 1_000
#: A verb is one transaction, a fraction of a millisecond a job: nobody else is answered meanwhile.
MAX_VERB_IDS = 10_000

Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]


async def _ids(request: web.Request, most: int = MAX_IDS) -> m.IdsRequest:
    body = await body_of(request, m.IdsRequest)
    if not body.ids:
        raise UsageError("no job named", mend="name jobs by their ids")
    if len(body.ids) > most:
        raise RefusedError(f"{len(body.ids)} ids in one request", mend=f"name at most {most} at a time")
    for each in body.ids:
        if not 0 < each <= LARGEST_ID:
            raise NotFoundError(f"there is no {str(each)[:40]}", mend="ids are whole numbers from 1 on")
    return body


class Server:
    """Serves ``service`` on a Unix socket."""

    def __init__(self, service: Service, gate: Gate) -> None:
        self._service = service
        self._gate = gate
        self._runner: web.AppRunner | None = None
        self._door: Door | None = None
        self._shares = Shares()
        self._streams: set[asyncio.Task[Any]] = set()

    async def start(self, listening: socket.socket) -> None:
        """Serve on a socket that is bound already."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._entry)
        # A caller who goes away takes what was done for him alone along: waiting, following a log.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=30,
            handler_cancellation=True,
            shutdown_timeout=0.5,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._door = Door(self._runner.server)
        await self._door.open(listening)

    async def stop(self) -> None:
        """Close every connection; p104ctl's that wait end with exit code 3."""
        if self._door is not None:
            self._door.close()
        for task in list(self._streams):
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _entry(self, request: web.Request) -> web.StreamResponse:
        """The one way in: who, which route, what came of it. Never a traceback to the caller."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            return await self._routed(request)
        except P104Error as error:
            return error_answer(error)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("request failed", extra={"action": "request_failed"})
            return error_answer(P104Error("p104d met an error of its own", mend="its log has the details"))
        finally:
            self._streams.discard(task)

    async def _routed(self, request: web.Request) -> web.StreamResponse:
        spoken = request.headers.get("P104-Wire", str(m.WIRE_VERSION))
        if spoken != str(m.WIRE_VERSION):
            raise RefusedError(
                f"this p104d speaks wire version {m.WIRE_VERSION}, the request {spoken[:40]}",
                mend="install p104ctl and p104d of the same release",
            )
        caller = self._gate.caller(socket_of(request))
        if request.path == "/metrics" and request.method in ("GET", "HEAD"):
            page, kind = await self._service.metrics()
            return web.Response(body=page, headers={"Content-Type": kind})
        parts = request.path.strip("/").split("/")
        handler = self._handler(request.method, parts)
        if handler is None:
            raise NotFoundError(f"there is no {request.method} {request.path[:200]}")
        async with self._shares.asking(caller.uid, request):
            await read(request)
            await self._shares.turn(caller.uid)
            response = await handler(request, caller)
        body = response.body if isinstance(response, web.Response) else None
        if not isinstance(response, web.Response) or not isinstance(body, bytes):
            return response  # told already, piece by piece
        with self._shares.answering(caller.uid, len(body)) as counted:
            return await told(request, response, body) if counted else response

    def _handler(self, method: str, parts: list[str]) -> Handler | None:
        if parts[0] != "v1":
            return None
        if method == "GET" and len(parts) == 4 and parts[1] == "jobs" and parts[3] == "log":
            return self._log
        table: dict[tuple[str, str], Handler] = {
            ("GET", "status"): self._status,
            ("GET", "cards"): self._cards,
            ("GET", "jobs"): self._list,
            ("GET", "schedules"): self._schedules,
            ("GET", "export"): self._export,
            ("GET", "doctor"): self._doctor,
            ("GET", "history"): self._history,
            ("GET", "series"): self._series,
            ("GET", "report"): self._report,
            ("GET", "power"): self._power,
            ("GET", "models"): self._models,
            ("GET", "plan"): self._plan,
            ("POST", "cards/power"): self._set_power,
            ("POST", "cards/verify"): self._verify,
            ("POST", "submit"): self._submit,
            ("POST", "pause"): self._pause,
            ("POST", "resume"): self._pause,
            ("POST", "cards/drain"): self._drain,
            ("POST", "jobs/show"): self._show,
            ("POST", "jobs/explain"): self._explain,
            ("POST", "jobs/wait"): self._wait,
        }
        for verb in ("cancel", "hold", "release", "retry", "priority"):
            table["POST", f"jobs/{verb}"] = self._verb
        for verb in ("cancel", "hold", "release"):
            table["POST", f"schedules/{verb}"] = self._schedule_verb
        for verb in MODEL_VERBS:
            table["POST", f"models/{verb}"] = self._models_verb
        return table.get((method, "/".join(parts[1:])))

    async def _status(self, _request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(self._service.status(caller))

    async def _cards(self, _request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(self._service.cards(caller))

    async def _drain(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await body_of(request, m.CardsRequest)
        return answer(self._service.drain(caller, body.cards, body.undo))

    async def _verify(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await body_of(request, VerifyRequest)
        if body.watch and not body.stop:
            return await streamed(request, self._service.watch_verify(caller, body), "application/x-ndjson")
        return answer(self._service.verify(caller, body))

    async def _history(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(await self._service.history(caller, parse_records(dict(request.query))))

    async def _series(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(await self._service.series(caller, parse_series(dict(request.query))))

    async def _report(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(await self._service.report(caller, parse_while(dict(request.query))))

    async def _power(self, _request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(self._service.power(caller))

    async def _set_power(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(await self._service.set_power(caller, await body_of(request, PowerRequest)))

    async def _models(self, _request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(self._service.models(caller))

    async def _models_verb(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        verb = next(each for each in MODEL_VERBS if request.path.rstrip("/").endswith(f"/{each}"))
        return answer(self._service.models_verb(caller, verb, (await body_of(request, ModelRequest)).checked()))

    async def _plan(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(await self._service.plan(caller, *parse_plan_query(dict(request.query))))

    async def _pause(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(self._service.pause(caller, request.path.endswith("/pause")))

    async def _submit(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(await self._service.submit(caller, await body_of(request, m.SubmitRequest)))

    async def _list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(await self._service.listed(caller, parse_list_query(dict(request.query))))

    async def _show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(self._service.show(caller, (await _ids(request, MAX_SHOWN_IDS)).ids))

    async def _explain(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(self._service.explain(caller, (await _ids(request, MAX_SHOWN_IDS)).ids))

    async def _wait(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await _ids(request)
        return answer(await self._service.wait(caller, body.ids, body.timeout_seconds))

    async def _verb(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await _ids(request, MAX_VERB_IDS)
        verb = request.path.rsplit("/", 1)[-1]
        if verb == "priority" and body.priority is None:
            raise UsageError("no priority given", mend="give a number from -1000 to 1000")
        return answer(self._service.verb(caller, verb, body.ids, body.priority))

    async def _schedules(self, _request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(self._service.schedules(caller))

    async def _schedule_verb(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await _ids(request, MAX_VERB_IDS)
        return answer(self._service.schedule_verb(caller, request.path.rsplit("/", 1)[-1], body.ids))

    async def _doctor(self, _request: web.Request, caller: Caller) -> web.StreamResponse:
        return answer(await self._service.doctor(caller))

    async def _log(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        chunks = self._service.log(caller, parse_log_query(request.path.split("/")[3], dict(request.query)))
        return await streamed(request, chunks, "application/octet-stream")

    async def _export(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        path: Path = await self._service.export(caller, parse_export_query(dict(request.query)))
        try:
            response = web.StreamResponse(headers=WIRE)
            response.content_type = "application/vnd.sqlite3"
            response.content_length = path.stat().st_size
            with path.open("rb") as file:
                await response.prepare(request)
                async with broken_off(request):
                    while chunk := file.read(256 * 1024):
                        await response.write(chunk)
                    await response.write_eof()
            return response
        finally:
            path.unlink(missing_ok=True)
