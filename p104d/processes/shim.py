"""The small parent of a job: it outlives the daemon, and knows how the job ended. Standard library only.

A shim runs one attempt at a time; while its daemon lives it waits for the next one after that, because a fresh process
of this size costs more than everything else a short job needs (2 to 3 ms of page faults). A shim whose daemon is gone
ends with its attempt. Commands come through the line, in order with the attempts; SIGTERM (stop: SIGTERM to all of the
job, SIGKILL after the grace) and SIGUSR1 (kill now) serve a later daemon, and people.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time

from p104d.processes import cgroup, holding, job, native, record
from p104d.processes.ahead import Ahead, Child
from p104d.processes.holding import Holding, NotOursError
from p104d.processes.line import Line
from p104d.processes.output import Log, Pump
from p104d.processes.tree import Tree

#: Blocked from birth on and read from a descriptor: none can be lost, and none can interrupt a step of the protocol.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)
#: Python handles or ignores these: they have their defaults, and are blocked instead.
_UNPYTHON = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)

_RESEND_SECONDS = 0.1
_REKILL_SECONDS = 1.0
#: A job that is over by then has its claim made durable together with its record, by one journal commit instead of two.
_DURABLE_SECONDS = 0.1
#: The last words are not worth keeping a crowded daemon's socket busy for.
_LAST_RESENDS = 3


class Shim:
    """One attempt. ``signals`` is the descriptor for :data:`SIGNALS`; ``ahead`` has the child that becomes its job."""

    def __init__(self, folder: str, line: Line, signals: int, ahead: Ahead) -> None:
        self._line = line
        self._signals = signals
        self._hold = Holding(folder)
        self._ahead = ahead
        self._orders, self._launch = self._hold.read_launch()
        self._tree = Tree(None)
        self._main = -1
        self._status: int | None = None
        self._left = True
        self._report = -1
        self._failure: job.Failure | None = None
        self._reason: str | None = None
        self._started_at: float | None = None
        self._started = time.monotonic()
        self._limit_at: float | None = None
        self._kill_at: float | None = None
        self._durable_at: float | None = None

    def run(self) -> bool:
        """The whole of the attempt; whether this process can run another: not with children that cannot be killed.

        Raises NotOursError, or OSError, only before the claim and where the disk fails.
        """
        child, problem = self._child()
        try:
            self._hold.take(child.group if child else None)
        except BaseException:
            if child is not None:
                child.discard()
            raise
        self._log = Log(self._hold.folder, self._launch["log_limit_bytes"], self._launch["log_rate_bytes"])
        left_behind = 0
        try:
            if child is None:
                raise OSError(problem)
            pump = self._start(child)
            self._watch(pump)
            left_behind = self._tree.end(self._signals)
            pump.drain()
        except job.Failure as failure:
            self._fail(failure)
        except Exception as error:  # claimed: however it ends, the ending must be written
            self._reason = self._reason or f"its shim failed: {error}"
            left_behind = self._tree.end(self._signals)
        self._log.close()
        self._hold.write_exit(self._ending(left_behind))
        self._tell("ended", last=left_behind > 0)
        if self._hold.group:
            cgroup.end(self._hold.group, within_seconds=1.0)
        self._hold.close()
        return left_behind == 0

    # --- the beginning -------------------------------------------------------------------------------------------

    def _child(self) -> tuple[Child | None, str]:
        """A child that gets ready while the attempt is claimed; or, when there is none, why."""
        try:
            return self._ahead.take(self._launch["cgroup"], self._orders), ""
        except OSError as error:
            return None, str(error)

    def _start(self, child: Child) -> Pump:
        """Let the child execute: the attempt is claimed."""
        self._main, self._report, self._tree.group = child.pid, child.report, child.group
        if child.group:
            cgroup.bound(child.group, self._launch["ram_bytes"], self._launch["pids_max"])
        elif child.problem:
            self._log.write(f"[p104d: no cgroup for this job: {child.problem}]\n".encode())
        child.let_go(self._hold.lock)
        holding.point("let go")
        return Pump(child.output, self._log)

    # --- while it runs -------------------------------------------------------------------------------------------

    def _watch(self, pump: Pump) -> None:
        """Serve commands, signals, output and deadlines until the main process has ended; of a job that was told to
        stop, until all of it has, or its grace is over."""
        poll = select.poll()
        for descriptor in (self._signals, self._report, pump.pipe):
            poll.register(descriptor, select.POLLIN)
        link = self._line.link.fileno() if self._line.link else -1
        if link >= 0:
            poll.register(link, select.POLLIN)
        while self._status is None or self._report >= 0 or self._lingers():
            for descriptor, _ in poll.poll(self._patience()):
                if descriptor == self._signals:
                    self._on_signals(native.read_signals(descriptor))
                elif descriptor == self._report:
                    poll.unregister(descriptor)
                    self._on_report(os.read(descriptor, 2048))
                elif descriptor == link:
                    if not self._on_command(self._line.receive()):
                        poll.unregister(descriptor)
                elif not pump.step():
                    poll.unregister(descriptor)
            self._on_time()

    def _patience(self) -> float | None:
        """Milliseconds until the next deadline; None where there is none."""
        now = time.monotonic()
        waits = [at - now for at in (self._limit_at, self._kill_at, self._durable_at) if at is not None]
        if self._line.unsent is not None:
            waits.append(_RESEND_SECONDS)
        return max(0.0, min(waits)) * 1000 + 1 if waits else None

    def _on_signals(self, arrived: set[int]) -> None:
        if signal.SIGCHLD in arrived:
            ended, self._left = self._tree.reap()
            self._status = ended.get(self._main, self._status)
        if signal.SIGUSR1 in arrived:
            self._kill()
        elif signal.SIGTERM in arrived:
            self._stop("stopped")

    def _on_command(self, command: bytes) -> bool:
        if command == b"stop":
            self._stop("stopped")
        elif command == b"kill":
            self._kill()
        return bool(command)

    def _stop(self, reason: str) -> None:
        # A job that ended by itself has nothing left to stop, and its record must say so.
        if self._reason is None and self._status is None:
            self._reason = reason
            self._limit_at = None
            self._kill_at = time.monotonic() + self._launch["grace_seconds"]
            self._tree.terminate()

    def _lingers(self) -> bool:
        """The shell is gone at once when it is told to stop; what it ran may be saving its work, and has the grace."""
        return self._kill_at is not None and self._left and time.monotonic() < self._kill_at

    def _kill(self) -> None:
        if self._status is None or self._lingers():
            self._reason = self._reason or "stopped"
            self._limit_at, self._kill_at = None, time.monotonic()

    def _on_report(self, data: bytes) -> None:
        """The child's pipe closed: by its exec, or after it said why there is none."""
        os.close(self._report)
        self._report = -1
        if data:
            self._fail(job.decode_failure(data))
            return
        self._started_at, self._started = time.time(), time.monotonic()
        limit = self._launch["time_limit_seconds"]
        if limit is not None and self._reason is None:
            self._limit_at = self._started + limit
        self._hold.note(f"job {self._main} {self._started_at}")
        holding.point("running")
        self._tell("running")
        self._durable_at = time.monotonic() + _DURABLE_SECONDS

    def _fail(self, failure: job.Failure) -> None:
        self._failure = failure
        self._log.write(f"p104d: {failure.reason}\n".encode("utf-8", "replace"))

    def _on_time(self) -> None:
        self._line.resend()
        now = time.monotonic()
        if self._durable_at is not None and now >= self._durable_at:
            self._durable_at = None
            with contextlib.suppress(OSError):  # tried again at the end; no reason to end a job that runs
                self._hold.make_durable()
        if self._limit_at is not None and now >= self._limit_at:
            self._stop("time limit")
        if self._kill_at is not None and now >= self._kill_at and self._status is None:
            self._tree.kill()
            self._kill_at = now + _REKILL_SECONDS

    # --- the end -------------------------------------------------------------------------------------------------

    def _ending(self, left_behind: int) -> record.ExitDict:
        status, ended_at = self._status, time.time()
        wall = time.monotonic() - self._started if self._started_at is not None else 0.0
        code = None if status is None or not os.WIFEXITED(status) else os.WEXITSTATUS(status)
        by_signal = None if status is None or not os.WIFSIGNALED(status) else os.WTERMSIG(status)
        if self._failure is not None:
            code, by_signal = self._failure.code, None
        return {
            "version": record.VERSION,
            "exit_code": code,
            "signal": by_signal,
            "reason": self._failure.reason if self._failure is not None else self._reason,
            "started_at": record.begun(self._started_at, ended_at, wall),
            "ended_at": ended_at,
            "wall_seconds": wall,
            "user_seconds": self._tree.user_seconds,
            "system_seconds": self._tree.system_seconds,
            "max_rss_bytes": self._tree.max_rss_bytes,
            "log_bytes": self._log.written,
            "dropped_bytes": self._log.dropped,
            "left_behind": left_behind,
        }

    def _tell(self, event: str, last: bool = False) -> None:
        key = [self._launch["kind"], self._launch["id"], self._launch["number"]]
        message = {"event": event, "key": key, "pid": self._main, "at": self._started_at, "last": last}
        self._line.tell(message, self._launch["events"])


def serve(link: socket.socket, groups: str | None, adjusted: bool) -> None:
    """Run the attempts that the daemon names, until it is gone; then end this process. Signals are blocked already.

    ``groups`` is the folder for the cgroups of jobs; ``adjusted``: the OOM killer spares or prefers us, and is to do
    neither with jobs.
    """
    try:
        os.setsid()
        native.become_subreaper()
        line, signals = Line(link), native.signal_descriptor(SIGNALS)
        ahead = Ahead(groups, adjusted)
        with contextlib.suppress(NotOursError):  # whoever watches this process finds the other one's claim
            while command := _next_command(line, signals, ahead):
                if command.startswith(b"run ") and not Shim(os.fsdecode(command[4:]), line, signals, ahead).run():
                    break
            _last_words(line)
        ahead.close()
    finally:
        os._exit(0)  # whatever happened: unclaimed, and whoever finds that revokes the attempt; or claimed, and lost


def _next_command(line: Line, signals: int, ahead: Ahead) -> bytes:
    """Wait for the daemon's next command, a child at the ready; empty once the daemon is gone.

    Signals that arrive meanwhile were meant for an attempt before: the next one's commands come through the line.
    """
    if line.link is None:
        return b""
    ahead.prepare()
    poll = select.poll()
    link = line.link.fileno()
    for descriptor in (link, signals):
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if signals in ready:
            native.read_signals(signals)
            ahead.look_after()
        if link in ready:
            command = line.receive()
            native.read_signals(signals)
            return command


def _last_words(line: Line) -> None:
    for _ in range(_LAST_RESENDS):
        if line.unsent is None:
            return
        time.sleep(_RESEND_SECONDS)
        line.resend()


def take_signals() -> None:
    """Once for the process, and for all it forks: :data:`SIGNALS` blocked, and no signal ignored or handled. Exec keeps
    what is ignored, and whoever started the daemon (nohup, say) may have ignored what a job needs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, *_UNPYTHON))
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    native.default_reserved_signals()


def main(folder: str) -> None:
    """The shim of one attempt as a process of its own, as a systemd unit starts it."""
    take_signals()
    with contextlib.suppress(OSError):  # systemd made this process a session's leader already
        os.setsid()
    native.become_subreaper()
    line = Line(None)
    with contextlib.suppress(NotOursError):
        Shim(folder, line, native.signal_descriptor(SIGNALS), Ahead(None, is_adjusted())).run()
        _last_words(line)


def is_adjusted() -> bool:
    """Whether the OOM killer was told to spare this process, or to prefer it, which its jobs must not inherit."""
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read()) != 0
