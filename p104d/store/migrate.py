"""Bringing queue.db to this release's schema.

Alembic and what it imports weigh more than all else the daemon holds, and are needed once a release: a database at
the head is recognised with one query, and the work is done by a child process (``python -m p104d.store.migrate``).
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

from p104d.core.errors import P104Error

#: The newest migration; a test holds it equal to Alembic's own head.
HEAD = "0005"


class MigrationError(P104Error):
    """The database could not be brought to this release's schema; it is unchanged."""


def migrations_folder() -> Path:
    """Where the migration scripts are: inside the wheel, or at the top of a source tree."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise MigrationError("the migration scripts are missing from this installation", mend="install p104d again")


def current(path: Path) -> str | None:
    """The migration that ``path`` is at; None for a file that is new or empty.

    Raises MigrationError for a file that is something else: other programs' data is not built upon.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    connection = sqlite3.connect(path)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        versioned = "alembic_version" in tables
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if versioned else None
    except sqlite3.Error as error:
        raise MigrationError(f"{path} cannot be read: {error}", mend="restore a backup, or move it away") from None
    finally:
        connection.close()
    if row is None and tables - {"alembic_version"}:
        raise MigrationError(
            f"{path} is not a queue of p104d: it has tables, but no version",
            mend="move it away, or name another folder",
        )
    return str(row[0]) if row else None


def upgrade_in_child(path: Path) -> None:
    """Bring ``path`` to the head, in a child process if there is anything to do. Raises MigrationError."""
    found = current(path)
    if found == HEAD:
        return
    if found is not None and not _is_known(found):
        raise MigrationError(
            f"{path} is at version {found}, which this p104d does not know",
            mend="a newer p104d wrote it: install that release again; the file was left as it was",
        )
    command = [sys.executable, "-I", "-c", _CHILD, str(Path(__file__).resolve().parents[2]), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MigrationError(
            f"{path} could not be upgraded: {_cause(done.stderr)}",
            mend="it was left as it was; free space on its disk, or restore a backup",
        )
    if current(path) != HEAD:
        raise MigrationError(f"{path} was upgraded by another p104d than this one", mend="install p104d only once")


def _is_known(version: str) -> bool:
    return any(script.name.startswith(f"{version}_") for script in (migrations_folder() / "versions").iterdir())


def _cause(stderr: str) -> str:
    """The line of a traceback that names the exception; SQLAlchemy puts a link to its manual below."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith((" ", "[SQL", "(Background"))]
    return lines[-1] if lines else "no message"


#: -I leaves the source tree's folder off sys.path; it is put at the end, where it cannot shadow anything installed.
_CHILD = "import sys; sys.path.append(sys.argv[1]); from p104d.store.migrate import upgrade; upgrade(sys.argv[2])"


def upgrade(path: str, revision: str = "head") -> None:
    """Run Alembic on ``path`` in this process."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["path"] = path
    command.upgrade(config, revision)
