"""``make demo``: p104d on this machine's cards, or on a simulated rig, with jobs of every kind, in half a minute."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from demo.daemon import LLAMA, DemoDaemon, driver_found

#: No demo job should take this long, on the slowest host; it is what keeps a stuck one from keeping the terminal.
JOBS_WITHIN_SECONDS = 120.0
#: Real cards that another daemon holds never become ready here.
CARDS_WITHIN_SECONDS = 10.0


def say(text: str) -> None:
    """A heading between the outputs of commands."""
    bold = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(f"\n\033[1m== {text}\033[0m" if bold else f"\n== {text}", flush=True)


def type_out(daemon: DemoDaemon, *arguments: str) -> int:
    """Show a command and run it."""
    print(f"\n$ p104ctl {' '.join(arguments)}", flush=True)
    return daemon.ctl(*arguments)


def llama_runs(daemon: DemoDaemon, folder: Path = LLAMA) -> bool:
    """Write the two tiny models and try one, in processes of their own: a processor without AVX kills the one that
    tries. ``folder`` has the programs."""
    write, attempt = str(folder / "tiny_model.py"), str(folder / "llama_try.py")
    for command in ([write, "haiku.gguf", "1"], [write, "prose.gguf", "2"], [attempt, "haiku.gguf"]):
        try:
            done = subprocess.run(
                [sys.executable, *command], cwd=daemon.work, capture_output=True, timeout=120, start_new_session=True
            )
        except subprocess.TimeoutExpired:
            print("no language models in this demo: llama.cpp does not answer on this machine")
            return False
        if done.returncode == 0:
            continue
        if done.returncode == -signal.SIGILL:
            why = "this processor lacks instructions that the llama.cpp package was built for (AVX)"
        else:
            why = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        print(f"no language models in this demo: {why}")
        return False
    return True


def usable_cards(daemon: DemoDaemon) -> list[dict[str, object]]:
    """The cards that take jobs, once there are any; empty when none got ready in time."""
    deadline = time.monotonic() + CARDS_WITHIN_SECONDS
    while True:
        cards = [card for card in daemon.ask("cards")["cards"] if card["state"] in ("ready", "busy")]
        if cards or time.monotonic() > deadline:
            return cards
        time.sleep(0.2)


def submit(daemon: DemoDaemon, files: list[str]) -> list[str]:
    """Submit the files in one go. Returns the ids."""
    # Jobs get a PATH of their own; --keep-env gives them ours, where this Python comes first.
    arguments = ["submit", "--keep-env", "PATH", *files]
    print(f"\n$ p104ctl {' '.join(arguments)}", flush=True)
    answer = daemon.ask(*arguments)
    if answer is None:
        daemon.ctl(*arguments)
        raise RuntimeError("p104ctl refused the jobs of the demo")
    for job in answer["jobs"]:
        print(f"{job['id']:>4}  {job['name']}")
    return [str(job["id"]) for job in answer["jobs"]]


def serve_models(daemon: DemoDaemon) -> list[str]:
    """Language models: submit, show where they are while they answer, and what came of it. Returns the ids."""
    say("Language models: two of them, six files of questions")
    ids = submit(daemon, ["models.yaml"])
    deadline = time.monotonic() + JOBS_WITHIN_SECONDS
    while not any(each["state"] == "busy" for each in daemon.ask("models")["models"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    type_out(daemon, "models")
    type_out(daemon, "list")
    type_out(daemon, "wait", "--timeout", f"{JOBS_WITHIN_SECONDS:.0f}s", *ids)
    say("They stay on their cards, for the next job: until idle for long, or until others need the card")
    type_out(daemon, "models")
    type_out(daemon, "logs", ids[-1])
    loads = sum(each["count"] for each in daemon.ask("models")["load_times"])
    print(f"\n{len(ids) - 1} jobs on 2 models, {loads} loads: cards that nobody else wants take further copies")
    return ids


def watch(daemon: DemoDaemon, ids: list[str]) -> None:
    """Show the rig while jobs run, then wait for the last."""
    deadline = time.monotonic() + JOBS_WITHIN_SECONDS
    while not (daemon.ask("status") or {"running": []})["running"] and time.monotonic() < deadline:
        time.sleep(0.1)
    # Long enough for readings of cards with jobs on them.
    time.sleep(1.5)
    say("During")
    type_out(daemon, "status")
    waiting = [job for job in daemon.ask("list", "--limit", "100")["jobs"] if job["state"] == "queued"]
    if waiting:
        print("\nWhy does the last of them wait?")
        type_out(daemon, "explain", str(waiting[0]["id"]))
    type_out(daemon, "wait", "--timeout", f"{JOBS_WITHIN_SECONDS:.0f}s", *ids)


def named(daemon: DemoDaemon, name: str) -> str | None:
    """The id of the job called ``name``."""
    for job in daemon.ask("list", "--limit", "100")["jobs"]:
        if job["name"] == name:
            return str(job["id"])
    return None


def measured(daemon: DemoDaemon, ids: list[str]) -> None:
    """The speeds that p104d read from the jobs' output."""
    say("Measured, from what the jobs printed")
    for job_id in ids:
        job = daemon.ask("show", job_id)
        for found in job["measurements"]:
            if "per_second" in found["name"] and not found["name"].startswith("prompt"):
                print(f"{job['name']:<12} {found['name']:<32} {found['value']:>10.1f} {found['unit']}")


def results(daemon: DemoDaemon, ids: list[str]) -> None:
    """What came of it: the queue, a log, the failed job, the speeds."""
    # The cards are read once a second.
    time.sleep(1.2)
    say("Afterwards")
    type_out(daemon, "status")
    type_out(daemon, "list")
    say("The job that failed, with its retry")
    type_out(daemon, "show", named(daemon, "broken") or "")
    measured(daemon, ids)


def check(daemon: DemoDaemon, ids: list[str]) -> bool:
    """Whether every job ended as it should: all succeeded but ``broken``, which failed."""
    wrong = []
    for job_id in ids:
        job = daemon.ask("show", job_id)
        if job["state"] != ("failed" if job["name"] == "broken" else "succeeded"):
            wrong.append(f"job {job_id} ({job['name']}) is {job['state']}: {job['reason'] or job['waiting_because']}")
    for line in wrong:
        print(f"demo: {line}", file=sys.stderr)
    return not wrong


def announce(simulated: bool) -> None:
    """Say loudly what the demo runs on."""
    text = (
        "SIMULATED RIG: no NVIDIA driver is used; the cards are made up, the jobs are real"
        if simulated
        else "REAL CARDS: an NVIDIA driver is loaded and its cards are used"
    )
    print("#" * (len(text) + 4) + f"\n# {text} #\n" + "#" * (len(text) + 4), flush=True)


def show(simulated: bool) -> bool | None:
    """The demo on one kind of rig. None: no real card was usable, nothing was submitted."""
    announce(simulated)
    with DemoDaemon(simulated=simulated) as daemon:
        print(f"\n$ {' '.join(daemon.arguments)} &", flush=True)
        daemon.start()
        if not usable_cards(daemon):
            type_out(daemon, "status")
            return None
        models = llama_runs(daemon)
        say("Before")
        type_out(daemon, "status")
        asked = serve_models(daemon) if models else []
        whole = [card for card in usable_cards(daemon) if card["verdict"] != "locked"]
        files = ["pictures.yaml", "commands.yaml"] + ["gang.yaml"] * (len(whole) > 1)
        ids = submit(daemon, files)
        watch(daemon, ids)
        results(daemon, [*asked, *ids])
        good = check(daemon, [*asked, *ids])
        say("Leaving nothing behind: the daemon is stopped and its folder removed")
        return good


def interrupted(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, and only once: tidying up is not to be interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; 0 when every job ended as it should."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--simulate", action="store_true", help="use the simulated rig even where a driver is found")
    simulated = parser.parse_args().simulate or not driver_found()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        good = show(simulated)
        if good is None:
            print("\nNo card here takes jobs (see above; another daemon may hold them). On to the simulated rig.\n")
            good = show(True)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything was stopped and removed", file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0 if good else 1


if __name__ == "__main__":
    # Line by line, also into a pipe, so that our lines and p104ctl's keep their order.
    sys.stdout = os.fdopen(sys.stdout.fileno(), "w", buffering=1, closefd=False)
    sys.exit(main())
