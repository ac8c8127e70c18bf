"""Submissions of engine jobs: their models are looked at while the submitter waits, so that what can never run is
refused, and what is wrong today is told. A disk that sleeps does not keep anybody: the look goes on without them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from p104d.api.service import Caller
from p104d.api.spec import ParsedDocument
from p104d.core.errors import RefusedError
from p104d.core.job import EngineSpec
from p104d.core.matrix import expand_engine, requirement_of
from p104d.daemon.loop import Loop
from p104d.daemon.model_prober import Probed
from p104d.daemon.models import Bad

#: Of a matrix over models so many are looked at now; the others are before they are placed.
_MOST_LOOKS = 16
#: A header takes a tenth of a second; a person waits no longer than this for a disk that is asleep.
_PATIENCE_SECONDS = 5.0
#: Nor do all documents together keep a submission's turn from others for longer.
_ALL_SECONDS = 120.0


class EngineIntake:
    """Looks at what engine jobs name. ``check`` returns the documents with what was found, and warnings."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    async def check(self, caller: Caller, parsed: list[ParsedDocument]) -> tuple[list[ParsedDocument], list[str]]:
        """Raises RefusedError for a model that this rig can never hold, or where looking at all takes too long."""
        warnings: list[str] = []
        try:
            async with asyncio.timeout(_ALL_SECONDS):
                found = [await self._one(caller, each, warnings) if each.spec.engine else each for each in parsed]
        except TimeoutError:
            raise RefusedError(
                f"the models of {len(parsed)} documents could not be looked at within {_ALL_SECONDS:.0f} s",
                mend="submit fewer at once",
            ) from None
        return found, warnings

    async def _one(self, caller: Caller, parsed: ParsedDocument, warnings: list[str]) -> ParsedDocument:
        looks: dict[str, tuple[EngineSpec, Mapping[str, str]]] = {}
        for combination in parsed.jobs:
            engine = expand_engine(parsed.spec, combination)
            looks.setdefault(engine.model, (engine, combination))
            if len(looks) == _MOST_LOOKS:
                break
        embeddings = False
        for engine, values in looks.values():
            found = await self._look(caller, engine)
            if found is None:
                continue
            embeddings |= bool(found.embeddings or (found.embeddings is None and found.model and found.model.pooling))
            warnings += self._words(parsed, engine, found)
            self._refuse_never(caller, parsed, values)
        assert parsed.spec.engine is not None
        engine = msgspec.structs.replace(parsed.spec.engine, embeddings=embeddings)
        return msgspec.structs.replace(parsed, spec=msgspec.structs.replace(parsed.spec, engine=engine))

    async def _look(self, caller: Caller, engine: EngineSpec) -> Probed | None:
        task = asyncio.ensure_future(self._loop.models.look(engine.model, caller.uid, engine.input))
        done, _ = await asyncio.wait([task], timeout=_PATIENCE_SECONDS)
        return task.result() if done else None

    def _words(self, parsed: ParsedDocument, engine: EngineSpec, found: Probed) -> list[str]:
        """What is wrong today. A job that waits for others, or for a time, may have its files by then."""
        if parsed.spec.after or parsed.spec.schedule or parsed.spec.not_before:
            return []
        if found.error is not None:
            mend = f"; {found.mend}" if found.mend else ""
            text = f"{parsed.place_of('model')}: {found.error}{mend}"
            return [f"{text}; the job fails unless that is mended before it starts"]
        if found.embeddings is None:
            return [f"{parsed.place_of('input')}: {engine.input} has no requests that could be read yet"]
        return []

    def _refuse_never(self, caller: Caller, parsed: ParsedDocument, combination: Mapping[str, str]) -> None:
        loop = self._loop
        if not loop.rig.counted:
            return
        requirement = requirement_of(parsed.spec, combination, caller.uid)
        with loop.database.read() as conn:
            found = loop.models.resolve(conn, requirement, loop.rig.views(()))
        if isinstance(found, Bad) and found.never:
            raise RefusedError(f"{parsed.place_of('model', 'context')}: {found.text}")
