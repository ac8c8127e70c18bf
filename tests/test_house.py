"""What holds of every file of the house: it imports cleanly, is not too long, explains itself, and imports no more
than it should. (The layers themselves are import-linter's, in ``make check``.)"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from p104d.api import schemas

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "p104d"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_migrations" not in path.parts)
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
MOST_LINES = 320
#: Lists of one kind of thing, read one at a time; these bounds go down, never up.
LONGER = {"api/messages.py": 330}


def python(code: str) -> str:
    """What ``code`` prints in a Python of its own, warnings being errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_by_itself() -> None:
    """Each before all others of ours in one process, so that no cycle hides behind the order of imports."""
    code = (
        "import importlib, os, sys, traceback\n"
        f"for name in {MODULES!r}:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try:\n"
        "            importlib.import_module(name)\n"
        "        except BaseException:\n"
        "            print(name, traceback.format_exc(), flush=True)\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
    )
    # Third parties are imported once, before the forks: what is under test is ours.
    once = "import sqlalchemy, aiohttp.web, msgspec, yaml, click, psutil, asyncio, apscheduler.triggers.cron\n"
    assert python(once + code) == ""


@pytest.mark.parametrize("path", FILES, ids=MODULES)
def test_a_file_is_short(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= LONGER.get(path.relative_to(PACKAGE).as_posix(), MOST_LINES), f"{lines} lines: find a seam"


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_explains_itself(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    missing = [label for label, thing in public(module) if not inspect.getdoc(thing)]
    assert missing == []


def public(module: ModuleType) -> list[tuple[str, Any]]:
    """Its own classes and functions, and the classes' own methods, whose names do not begin with an underscore.

    A method that overrides another has that one's docstring (inspect.getdoc); those of a Protocol are explained by it.
    """
    found: list[tuple[str, Any]] = []
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            found.append((name, thing))
        if inspect.isclass(thing) and not getattr(thing, "_is_protocol", False):
            found += [
                (f"{name}.{method}", value)
                for method, value in vars(thing).items()
                if inspect.isfunction(value) and not method.startswith("_") and telling(value)
            ]
    return found


def telling(method: FunctionType) -> bool:
    """One statement under a telling name says by itself what it does; more must be explained."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    definition = tree.body[0]
    return isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef) and len(definition.body) > 1


# --- the schemas ---


def test_the_schemas_are_those_of_the_types() -> None:
    """Where this fails: ``python -m p104d.api.schemas`` writes them anew; look at what changed, names must stay."""
    made = {f"{name}.json": schemas.text(schema) for name, schema in schemas.schemas().items()}
    kept = {path.name: path.read_text() for path in schemas.FOLDER.iterdir()}
    assert kept == made


@pytest.mark.parametrize("name", sorted(schemas.schemas()))
def test_a_schema_is_one(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((schemas.FOLDER / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)


# --- what is not imported ---

HEAVY = ["pynvml", "alembic", "numpy", "rich", "click", "matplotlib", "textual"]


def test_the_daemon_leaves_heavy_things_alone() -> None:
    """pynvml belongs to the sensor's child, Alembic to the migration's; neither numpy nor rich is ever needed."""
    code = (
        "import sys, p104d.daemon.main, p104d.daemon.daemon, p104d.api.server\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_p104ctl_starts_with_click_and_json() -> None:
    heavy = [
        "asyncio",
        "aiohttp",
        "sqlalchemy",
        "msgspec",
        "rich",
        "yaml",
        "http.client",
        "p104d.daemon",
        "p104d.store",
    ]
    code = f"import sys, p104d.cli.main\nprint([name for name in {heavy!r} if name in sys.modules])"
    assert python(code).strip() == "[]"


def test_the_shim_is_the_standard_library_alone() -> None:
    """It lives as long as its job, once for each: what it imports is paid for by every job."""
    code = (
        "import sys, p104d.processes.shim\n"
        "print([n for n in ('msgspec', 'sqlalchemy', 'aiohttp', 'asyncio', 'psutil', 'yaml') if n in sys.modules])"
    )
    assert python(code).strip() == "[]"
