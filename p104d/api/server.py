"""HTTP over the Unix socket: routes to the service, errors to one JSON shape, logs as streams."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from p104d.api import messages as m
from p104d.api.access import Gate
from p104d.api.bodies import IDS_BYTES, MAX_BODY_BYTES, SMALL_BYTES, check, decoded, ids_of, read, submission_of
from p104d.api.door import Door, Shares, told
from p104d.api.exchange import answer, error_answer, sent, socket_of, streamed
from p104d.api.history_queries import parse_records, parse_series, parse_while
from p104d.api.models import MODEL_VERBS, ModelRequest
from p104d.api.power import PowerRequest
from p104d.api.proof import VerifyRequest
from p104d.api.queries import parse_export_query, parse_list_query, parse_log_query, parse_plan_query
from p104d.api.service import Caller, Service
from p104d.core.errors import NotAllowedError, NotFoundError, P104Error, RefusedError, UsageError

log = logging.getLogger(__name__)

#: What is told of each of these takes some queries: nobody else is answered meanwhile.
MAX_SHOWN_IDS = 1_000
#: A verb is one transaction, a fraction of a millisecond a job: nobody else is answered meanwhile.
MAX_VERB_IDS = 10_000


class Asked(NamedTuple):
    """A request whose body was read: whose it is, and the words of its path."""

    request: web.Request
    caller: Caller
    words: list[str]
    body: bytes

    @property
    def verb(self) -> str:
        """The last word of the path."""
        return self.words[-1]

    @property
    def query(self) -> dict[str, str]:
        """What follows the path; of a key given twice its first value."""
        return dict(self.request.query)


class Route(NamedTuple):
    """What serves a request, how large its body may be, and, if it is for admins alone, what that is called."""

    serve: Callable[[Asked], Awaitable[web.StreamResponse]]
    most_bytes: int = SMALL_BYTES
    admin: str = ""


class Server:
    """Serves ``service`` on a Unix socket."""

    def __init__(self, service: Service, gate: Gate) -> None:
        self._service = service
        self._gate = gate
        self._runner: web.AppRunner | None = None
        self._door: Door | None = None
        self._shares = Shares()
        self._routes = self._table()
        self._streams: set[asyncio.Task[Any]] = set()

    async def start(self, listening: socket.socket) -> None:
        """Serve on a socket that listens already."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._entry)
        # A caller who goes away takes what was done for him alone along: waiting, following a log.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=30,
            auto_decompress=False,
            handler_cancellation=True,
            shutdown_timeout=0.5,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._door = Door(self._runner.server)
        self._door.open(listening)

    def move(self, listening: socket.socket) -> None:
        """Serve on another socket that listens; who is connected stays."""
        assert self._door is not None
        self._door.close()
        self._door.open(listening)

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
        caller = self._gate.caller(socket_of(request))
        # Before anything is looked at: a refusal takes its time as well, and somebody may ask for thousands.
        await self._shares.turn(caller.uid)
        spoken = request.headers.get("P104-Wire", str(m.WIRE_VERSION))
        if spoken != str(m.WIRE_VERSION):
            raise RefusedError(
                f"this p104d speaks wire version {m.WIRE_VERSION}, the request {spoken[:40]}",
                mend="install p104ctl and p104d of the same release",
            )
        words = request.path.strip("/").split("/")
        route = self._route(request.method, words)
        if route is None:
            raise NotFoundError(f"there is no {request.method} {request.path[:200]}")
        check(request, route.most_bytes)
        if route.admin and not caller.admin:
            raise NotAllowedError(f"{route.admin} for root and group p104-admin", mend="ask one of them, or use sudo")
        return await self._told(request, caller, await self._served(route, request, caller, words))

    async def _served(self, route: Route, request: web.Request, caller: Caller, words: list[str]) -> web.StreamResponse:
        async with self._shares.asking(caller.uid, request):
            body = await read(request, route.most_bytes)
            if request.body_exists:  # that turn was over before the body had come
                await self._shares.turn(caller.uid)
            return await route.serve(Asked(request, caller, words, body))

    async def _told(self, request: web.Request, caller: Caller, response: web.StreamResponse) -> web.StreamResponse:
        """The answer, or what is left of it to be sent."""
        body = response.body if isinstance(response, web.Response) else None
        if not isinstance(response, web.Response) or not isinstance(body, bytes):
            return response  # told already, piece by piece
        with self._shares.answering(caller.uid, len(body)) as counted:
            return await told(request, response, body) if counted else response

    def _route(self, method: str, words: list[str]) -> Route | None:
        if words == ["metrics"]:
            return Route(self._page) if method in ("GET", "HEAD") else None
        if words[0] != "v1":
            return None
        if method == "GET" and len(words) == 4 and words[1] == "jobs" and words[3] == "log":
            return Route(self._log)
        return self._routes.get((method, "/".join(words[1:])))

    def _table(self) -> dict[tuple[str, str], Route]:
        """Every route but that of logs, whose path names a job."""
        gets = {
            "status": self._status,
            "cards": self._cards,
            "jobs": self._list,
            "schedules": self._schedules,
            "export": self._export,
            "doctor": self._doctor,
            "history": self._history,
            "series": self._series,
            "report": self._report,
            "power": self._power,
            "models": self._models,
            "plan": self._plan,
        }
        posts = {
            "submit": Route(self._submit, MAX_BODY_BYTES),
            "pause": Route(self._pause, admin="pausing the queue is"),
            "resume": Route(self._pause, admin="pausing the queue is"),
            "cards/power": Route(self._set_power, admin="changing cards' settings is"),
            "cards/verify": Route(self._verify, admin="testing cards is"),
            "cards/drain": Route(self._drain, admin="draining cards is"),
            "jobs/show": Route(self._show, IDS_BYTES),
            "jobs/explain": Route(self._explain, IDS_BYTES),
            "jobs/wait": Route(self._wait, IDS_BYTES),
        }
        for verb in ("cancel", "hold", "release", "retry", "priority"):
            posts[f"jobs/{verb}"] = Route(self._verb, IDS_BYTES)
        for verb in ("cancel", "hold", "release"):
            posts[f"schedules/{verb}"] = Route(self._schedule_verb, IDS_BYTES)
        for verb in MODEL_VERBS:
            posts[f"models/{verb}"] = Route(self._models_verb, admin="models are")
        return {("GET", path): Route(serve) for path, serve in gets.items()} | {
            ("POST", path): route for path, route in posts.items()
        }

    async def _page(self, _asked: Asked) -> web.StreamResponse:
        page, kind = await self._service.metrics()
        return web.Response(body=page, headers={"Content-Type": kind})

    async def _status(self, asked: Asked) -> web.StreamResponse:
        return answer(self._service.status(asked.caller))

    async def _cards(self, asked: Asked) -> web.StreamResponse:
        return answer(self._service.cards(asked.caller))

    async def _drain(self, asked: Asked) -> web.StreamResponse:
        body = decoded(asked.body, m.CardsRequest)
        return answer(self._service.drain(asked.caller, body.cards, body.undo))

    async def _verify(self, asked: Asked) -> web.StreamResponse:
        body = decoded(asked.body, VerifyRequest)
        if body.watch and not body.stop:
            return await streamed(asked.request, self._service.watch_verify(asked.caller, body), "application/x-ndjson")
        return answer(self._service.verify(asked.caller, body))

    async def _history(self, asked: Asked) -> web.StreamResponse:
        return answer(await self._service.history(asked.caller, parse_records(asked.query)))

    async def _series(self, asked: Asked) -> web.StreamResponse:
        return answer(await self._service.series(asked.caller, parse_series(asked.query)))

    async def _report(self, asked: Asked) -> web.StreamResponse:
        return answer(await self._service.report(asked.caller, parse_while(asked.query)))

    async def _power(self, asked: Asked) -> web.StreamResponse:
        return answer(self._service.power(asked.caller))

    async def _set_power(self, asked: Asked) -> web.StreamResponse:
        return answer(await self._service.set_power(asked.caller, decoded(asked.body, PowerRequest)))

    async def _models(self, asked: Asked) -> web.StreamResponse:
        return answer(self._service.models(asked.caller))

    async def _models_verb(self, asked: Asked) -> web.StreamResponse:
        verb = next(each for each in MODEL_VERBS if each == asked.verb)
        return answer(self._service.models_verb(asked.caller, verb, decoded(asked.body, ModelRequest).checked()))

    async def _plan(self, asked: Asked) -> web.StreamResponse:
        return answer(await self._service.plan(asked.caller, *parse_plan_query(asked.query)))

    async def _pause(self, asked: Asked) -> web.StreamResponse:
        return answer(self._service.pause(asked.caller, asked.verb == "pause"))

    async def _submit(self, asked: Asked) -> web.StreamResponse:
        return answer(await self._service.submit(asked.caller, submission_of(asked.body)))

    async def _list(self, asked: Asked) -> web.StreamResponse:
        return answer(await self._service.listed(asked.caller, parse_list_query(asked.query)))

    async def _show(self, asked: Asked) -> web.StreamResponse:
        return answer(self._service.show(asked.caller, ids_of(asked.body, MAX_SHOWN_IDS).ids))

    async def _explain(self, asked: Asked) -> web.StreamResponse:
        return answer(self._service.explain(asked.caller, ids_of(asked.body, MAX_SHOWN_IDS).ids))

    async def _wait(self, asked: Asked) -> web.StreamResponse:
        body = ids_of(asked.body)
        return answer(await self._service.wait(asked.caller, body.ids, body.timeout_seconds))

    async def _verb(self, asked: Asked) -> web.StreamResponse:
        body = ids_of(asked.body, MAX_VERB_IDS)
        if asked.verb == "priority" and body.priority is None:
            raise UsageError("no priority given", mend="give a number from -1000 to 1000")
        return answer(self._service.verb(asked.caller, asked.verb, body.ids, body.priority))

    async def _schedules(self, asked: Asked) -> web.StreamResponse:
        return answer(self._service.schedules(asked.caller))

    async def _schedule_verb(self, asked: Asked) -> web.StreamResponse:
        body = ids_of(asked.body, MAX_VERB_IDS)
        return answer(self._service.schedule_verb(asked.caller, asked.verb, body.ids))

    async def _doctor(self, asked: Asked) -> web.StreamResponse:
        return answer(await self._service.doctor(asked.caller))

    async def _log(self, asked: Asked) -> web.StreamResponse:
        chunks = self._service.log(asked.caller, parse_log_query(asked.words[2], asked.query))
        return await streamed(asked.request, chunks, "application/octet-stream")

    async def _export(self, asked: Asked) -> web.StreamResponse:
        with await self._service.export(asked.caller, parse_export_query(asked.query)) as file:
            return await sent(asked.request, file, "application/vnd.sqlite3")
