"""The migrations: they make the tables the code knows, wherever p104d is installed, and spoil nobody's file."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from p104d.core.job import JobState
from p104d.store import migrate
from p104d.store.cards import load_cards
from p104d.store.engine import Database
from p104d.store.migrate import HEAD, MigrationError, current, upgrade_in_child
from p104d.store.tables import metadata

ROOT = Path(__file__).resolve().parents[2]


def schema(path: Path) -> dict[tuple[str, str], str]:
    """(kind, name) -> its SQL with blanks, quotes and line ends made alike."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
            "AND name <> 'alembic_version'"
        ).fetchall()
    finally:
        connection.close()
    return {(kind, name): re.sub(r"\s*([(),])\s*", r"\1", " ".join(text.replace('"', "").split()))
            for kind, name, text in rows}  # fmt: skip


def test_migrations_make_what_the_tables_say(template: Path, tmp_path: Path) -> None:
    by_hand = tmp_path / "tables.db"
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(by_hand)))
    metadata.create_all(engine)
    engine.dispose()
    migrated = schema(template)
    without_triggers = {key: text for key, text in migrated.items() if key[0] != "trigger"}
    assert without_triggers == schema(by_hand)
    assert {name for kind, name in migrated if kind == "trigger"} == {
        "jobs_counted_in", "jobs_counted_over", "jobs_counted_out"}  # fmt: skip


def test_alembic_sees_no_difference(template: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = sa.create_engine(sa.URL.create("sqlite", database=str(template)))
    with engine.connect() as connection:
        # compare_type: an INTEGER column that became TEXT is a difference too.
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


#: What a next release would call its migration.
NEXT = f"{int(HEAD) + 1:04}"


def test_every_table_is_strict_and_every_state_is_counted(template: Path) -> None:
    connection = sqlite3.connect(template)
    rows = connection.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    loose = {name for name, strict in rows if not strict and not name.startswith("sqlite_")}
    counted = dict(connection.execute("SELECT state, jobs FROM state_counts"))
    connection.close()
    assert loose == {"alembic_version"}
    assert counted == {state.value: 0 for state in JobState}


def test_head_is_alembics_head(template: Path) -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(migrate.migrations_folder()))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
    assert current(template) == HEAD


def test_a_queue_of_the_first_release_keeps_its_cards(tmp_path: Path) -> None:
    """The first release knew no memory tests: its cards come over without a proof, and are due by that."""
    path = tmp_path / "queue.db"
    migrate.upgrade(str(path), "0001")
    made(
        path,
        "INSERT INTO cards VALUES ('GPU-1', '{\"uuid\":\"GPU-1\",\"index\":0}', '580', 'unverified', NULL, 1, 'eva', "
        "'XID 62', 5.0, 6.0)",
    )
    assert current(path) == "0001"
    upgrade_in_child(path)
    database = Database(path)
    with database.read() as conn:
        [card] = load_cards(conn).values()
    database.close()
    assert (card.identity.index, card.drained_by, card.suspect, card.verdict) == (0, "eva", "XID 62", "unverified")
    assert card.proof is None and card.due is None and card.proven_bytes is None


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """p104d as a wheel installs it: the scripts inside the package, no ``migrations`` beside it."""
    folder = tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "p104d", folder / "p104d", ignore=ignore)
    shutil.copytree(ROOT / "migrations", folder / "p104d" / "_migrations", ignore=ignore)
    return folder


def from_site(site: Path, path: Path, code: str) -> str:
    """What ``code`` prints with the copy in ``site`` in place of any p104d installed here, the child's too."""
    head = (
        "import sys; from pathlib import Path; from p104d.store import migrate\n"
        "migrate._CHILD = migrate._CHILD.replace('sys.path.append(', 'sys.path.insert(0, ')\n"
        "path = Path(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code, str(path)],
        env={**os.environ, "PYTHONPATH": str(site)}, check=True, cwd=site, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return done.stdout


def test_upgrade_of_a_wheels_layout(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    said = from_site(
        site,
        path,
        "migrate.upgrade_in_child(path); print(migrate.migrations_folder(), 'alembic' in sys.modules)",
    )
    assert said.split() == [str(site / "p104d" / "_migrations"), "False"]
    assert current(path) == HEAD


def test_a_database_at_the_head_is_not_touched(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: pytest.fail("a child was started"))
    upgrade_in_child(database.path)


def test_an_empty_file_is_a_new_queue(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.touch()
    upgrade_in_child(path)
    assert current(path) == HEAD


def made(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def newer(path: Path, template: Path) -> None:
    shutil.copy(template, path)
    made(path, "UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (newer, "version 9999"),
        (lambda path, _: made(path, "CREATE TABLE recipes (dish TEXT)"), "not a queue of p104d"),
        (lambda path, _: made(path, "CREATE TABLE jobs (id INTEGER)"), "not a queue of p104d"),
        (
            lambda path, _: made(path, "CREATE TABLE alembic_version (version_num TEXT)", "CREATE TABLE x (y TEXT)"),
            "not a queue of p104d",
        ),
        (lambda path, _: path.write_bytes(b"a shopping list\n" * 300), "cannot be read"),
    ],
    ids=["newer", "foreign", "foreign-with-our-names", "unversioned", "no-database"],
)
def test_what_is_not_ours_is_refused_and_left_alone(tmp_path: Path, template: Path, make: Any, words: str) -> None:
    path = tmp_path / "queue.db"
    make(path, template)
    before = path.read_bytes()
    with pytest.raises(MigrationError) as caught:
        upgrade_in_child(path)
    line = caught.value.line()
    assert words in line and str(path) in line and "Traceback" not in line and "\n" not in line
    assert caught.value.mend
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["queue.db"]


def test_a_migration_that_fails_changes_nothing_and_says_why(site: Path, tmp_path: Path, template: Path) -> None:
    """A next release's migration that fails in its middle: DDL before it is rolled back too."""
    (site / "p104d" / "_migrations" / "versions" / f"{NEXT}_bad.py").write_text(
        f"from alembic import op\nrevision = '{NEXT}'\ndown_revision = '{HEAD}'\n"
        "def upgrade():\n    op.execute('CREATE TABLE early (x TEXT) STRICT')\n    op.execute('DROP TABLE nowhere')\n"
    )
    path = tmp_path / "queue.db"
    shutil.copy(template, path)
    before = schema(path)
    said = from_site(
        site,
        path,
        f"migrate.HEAD = '{NEXT}'\n"
        "try: migrate.upgrade_in_child(path)\n"
        "except migrate.MigrationError as error: print(error.line())\n",
    )
    assert "no such table: nowhere" in said and said.count("\n") == 1
    assert current(path) == HEAD and schema(path) == before


def test_another_release_doing_the_upgrade_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "HEAD", NEXT)
    with pytest.raises(MigrationError, match="another p104d"):
        upgrade_in_child(tmp_path / "queue.db")
