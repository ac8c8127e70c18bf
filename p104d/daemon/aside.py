"""Questions that may take seconds: asked in a thread, while the loop and everybody's short questions go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.engine import Connection

from p104d.store.aside import aside
from p104d.store.engine import DamagedError, Database

T = TypeVar("T")
#: Asked by many, they must not fill the host's memory with sorting, nor take all threads.
_AT_ONCE = 2


class Aside:
    """Long questions to ``database``, a few at a time; the others wait their turn."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """What ``question`` returns, called in a thread with a connection of its own. Raises UnavailableError."""
        async with self._turn:
            try:
                return await asyncio.to_thread(self._ask, question)
            except DamagedError as error:
                self._database.on_damage(error.why)
                raise

    def _ask(self, question: Callable[[Connection], T]) -> T:
        with aside(self._database.path) as conn:
            return question(conn)
