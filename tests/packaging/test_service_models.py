"""Jobs on models under the service as it is shipped: in its sandbox, with a real llama.cpp on the processor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
pytest.importorskip("gguf", reason="the extra `llama` is not installed")

from service_machine import STEP_SECONDS, Machine, service, wait_for

PYTHON = "/opt/venv/bin/python"
#: Where the sandbox hides homes.
HOME = "/root/of-nobody"
#: In group p104 as nobody is.
OTHER = "games"
LOADED_SECONDS = 60.0
MAKE = """
import sys
sys.path.append("/opt/source/demo/llama")
import llama_server, pathlib, tiny_model
llama_server.command("/opt/bin")
tiny_model.write(pathlib.Path("/opt/models/common.gguf"), seed=1, name="common")
tiny_model.write(pathlib.Path(sys.argv[1]) / "own.gguf", seed=2, name="own")
pathlib.Path("/etc/p104d").mkdir(exist_ok=True)
pathlib.Path("/etc/p104d/config.toml").write_text('[models]\\nllama_server = "/opt/bin/llama-server"\\n')
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With a model that all can read and one in a private home, which the sandbox hides."""
    with service(tmp_path_factory.mktemp("systemd")) as machine:
        machine.run("usermod", "-aG", "p104", OTHER)
        machine.run("mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", "/root")
        machine.run("install", "-d", "-o", "nobody", "-m", "700", HOME)
        machine.run("install", "-d", "-o", OTHER, "-m", "700", f"/root/of-{OTHER}")
        machine.run("mkdir", "-p", "/opt/models", "/opt/bin")
        made = machine.run(PYTHON, "-c", MAKE, HOME)
        assert made.returncode == 0, made
        machine.run("chown", "nobody", f"{HOME}/own.gguf")
        machine.run("chmod", "600", f"{HOME}/own.gguf")
        machine.run("systemctl", "restart", "p104d.service")
        wait_for(machine.answers, STEP_SECONDS)
        yield machine


def submit(machine: Machine, user: str, model: str, name: str, count: int = 2) -> str:
    """A job of ``count`` requests in the private home of ``user``; its id."""
    home = f"/root/of-{user}"
    lines = "".join(
        json.dumps({"prompt": f"{name} {n}", "n_predict": 3, "ignore_eos": True}) + "\n" for n in range(count)
    )
    document = {
        "name": name, "engine": "llama.cpp", "model": model, "context": 512,
        "input": f"{home}/{name}.jsonl", "output": f"{home}/{name}.out",
    }  # fmt: skip
    script = 'printf %s "$2" > "$1.jsonl" && printf %s "$3" > "$1.yaml"'
    made = machine.run("sh", "-c", script, "sh", f"{home}/{name}", lines, json.dumps(document), user=user)
    assert made.returncode == 0, made
    done = machine.ctl("submit", f"{home}/{name}.yaml", user=user)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.strip()


def succeeds(machine: Machine, user: str, job: str) -> None:
    done = machine.ctl("wait", "--timeout", "60s", job, user=user)
    shown = machine.ctl("show", "--json", job, user=user).stdout
    assert done.returncode == 0, (shown, machine.ctl("logs", job, user=user))


def copies(machine: Machine) -> list[dict[str, Any]]:
    shown = machine.ctl("models", "--json", user="root")
    return list(json.loads(shown.stdout)["models"])


def owner(machine: Machine, path: str) -> str:
    return machine.run("stat", "-c", "%U", path).stdout.strip()


def test_users_share_a_copy(machine: Machine) -> None:
    """Looked at, loaded, watched, used and unloaded by a daemon that may change no user and open no home."""
    for user in ("nobody", OTHER):
        succeeds(machine, user, submit(machine, user, "/opt/models/common.gguf", "shared"))
        answers = machine.run("cat", f"/root/of-{user}/shared.out").stdout.splitlines()
        assert len(answers) == 2 and all(json.loads(line)["error"] is None for line in answers), answers
        assert owner(machine, f"/root/of-{user}/shared.out") == user
    [copy] = copies(machine)
    assert copy["state"] == "ready" and copy["shared"]
    assert owner(machine, f"/proc/{copy['pid']}") == "p104-model"
    status = machine.run("cat", f"/proc/{copy['pid']}/status").stdout
    assert "CapEff:\t0000000000000000" in status
    group = machine.run("cat", f"/proc/{copy['pid']}/cgroup").stdout
    assert f"p104-server-{copy['id']}-1.service" in group, group
    folders = machine.run("find", "/run/p104d-simulated", "-maxdepth", "1", "-name", "models-*").stdout.split()
    assert machine.run("stat", "-c", "%U:%G %a", f"{folders[0]}/{copy['id']}").stdout == "p104-model:p104 710\n"
    assert machine.ctl("models", "unload", "common", user="root").returncode == 0
    wait_for(lambda: not copies(machine), STEP_SECONDS)
    wait_for(lambda: machine.run("ls", folders[0]).stdout == "", STEP_SECONDS)


def test_a_private_model_of_a_hidden_home(machine: Machine) -> None:
    succeeds(machine, "nobody", submit(machine, "nobody", f"{HOME}/own.gguf", "private"))
    [copy] = [each for each in copies(machine) if each["name"] == "own"]
    assert not copy["shared"] and owner(machine, f"/proc/{copy['pid']}") == "nobody"
    [folder] = machine.run("find", "/run/p104d-simulated", "-path", f"*models-*/{copy['id']}").stdout.split()
    assert machine.run("stat", "-c", "%U %a", folder).stdout == "nobody 700\n"
    assert machine.run("ls", folder, user=OTHER).returncode != 0


def test_a_copy_outlives_a_restart_and_is_watched_again(machine: Machine) -> None:
    succeeds(machine, "nobody", submit(machine, "nobody", "/opt/models/common.gguf", "before"))
    daemon = machine.show("p104d.service", "MainPID")
    pids = {copy["pid"] for copy in copies(machine)}
    machine.run("kill", "-KILL", daemon)
    wait_for(lambda: machine.show("p104d.service", "MainPID") not in ("0", daemon) and machine.answers(), STEP_SECONDS)
    assert {copy["pid"] for copy in copies(machine)} == pids
    succeeds(machine, "nobody", submit(machine, "nobody", "/opt/models/common.gguf", "after"))
    assert pids & {copy["pid"] for copy in copies(machine)}


def test_a_server_that_is_killed_under_the_daemon(machine: Machine) -> None:
    """Its folder goes with it, whoever owns it, and another is loaded."""
    succeeds(machine, "nobody", submit(machine, "nobody", "/opt/models/common.gguf", "one"))
    killed = [copy["id"] for copy in copies(machine)]
    for copy in copies(machine):
        machine.run("kill", "-KILL", str(copy["pid"]))
    wait_for(lambda: not {each["id"] for each in copies(machine)} & set(killed), STEP_SECONDS)
    succeeds(machine, "nobody", submit(machine, "nobody", "/opt/models/common.gguf", "two"))
    found = machine.run("find", "/run/p104d-simulated", "-path", "*models-*/*", "-type", "d").stdout.split()
    assert not [path for path in found if int(path.rpartition("/")[2]) in killed], found
