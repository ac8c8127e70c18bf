"""``${matrix.KEY}``: what the combination of a job puts into the specification that all jobs of a document share.

Only that form is substituted, once, exactly: what a value brings with it is not looked at again, and any other
``${...}`` is the shell's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from p104d.core.job import EngineSpec, JobSpec, Requirement

PREFIX = "${matrix."
REFERENCE = re.compile(r"\$\{matrix\.([^{}]*)\}")

#: The keys of an engine's specification that name files and may have references.
PATHS = ("model", "input", "output")


def substitute(text: str, combination: Mapping[str, str]) -> str:
    """``text`` with the values of ``combination``; an unknown reference stays as it is."""
    if PREFIX not in text:
        return text
    return REFERENCE.sub(lambda match: combination.get(match[1], match[0]), text)


def keys_in(text: str) -> tuple[str, ...]:
    """The keys that ``text`` refers to, each once."""
    return tuple(dict.fromkeys(match[1] for match in REFERENCE.finditer(text))) if PREFIX in text else ()


def expand(spec: JobSpec, combination: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The argv and environment of the job of ``combination``; an engine's job has no argv."""
    argv = tuple(substitute(word, combination) for word in spec.command)
    return argv, {name: substitute(value, combination) for name, value in spec.env.items()}


def expand_engine(spec: JobSpec, combination: Mapping[str, str]) -> EngineSpec:
    """The engine of the job of ``combination``: absolute paths, without references. Only for a ``spec`` with one."""
    engine = spec.engine
    assert engine is not None, spec.name
    paths = {key: absolute(spec.cwd, substitute(getattr(engine, key), combination)) for key in PATHS}
    return msgspec.structs.replace(engine, **paths)


def requirement_of(spec: JobSpec, combination: Mapping[str, str], uid: int) -> Requirement:
    """What the job of ``combination``, submitted by ``uid``, needs from the rig."""
    if spec.engine is not None:
        spec = msgspec.structs.replace(spec, engine=expand_engine(spec, combination))
    return spec.requirement(uid)


def requirement_keys(spec: JobSpec) -> tuple[str, ...]:
    """The matrix keys whose values make one job's requirement another than its neighbour's."""
    return () if spec.engine is None else keys_in(spec.engine.model)


def absolute(folder: str, path: str) -> str:
    """``path`` from ``folder``, without empty parts and ``.``."""
    path = path if path.startswith("/") else f"{folder}/{path}"
    while "//" in path or "/./" in path:
        path = path.replace("//", "/").replace("/./", "/")
    # "link/.." stays: it is the parent of what the link points to, and the kernel's business.
    return path.removesuffix(".").rstrip("/") or "/" if path.endswith(("/", "/.")) else path
