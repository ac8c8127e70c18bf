"""A model as it was found at a submission: what sums, placement and the model's identity need, without its file."""

from __future__ import annotations

import msgspec

from p104d.engines.gguf import Part
from p104d.engines.model_memory_shape import Shape


class ProbedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What ``engines.model_probe`` prints of a model.

    ``path`` is what llama-server is given, ``label`` the model as people know it (the file's stem), ``name`` what the
    header calls it, ``parts`` all its files as they were, ``size`` their bytes. ``context`` is what it was trained to
    (0: unknown). ``pooling``: its header says that it is for embeddings, and how one is made of a text.
    """

    path: str
    label: str
    name: str
    architecture: str
    file_type: str
    parts: tuple[Part, ...]
    size: int
    shape: Shape
    context: int
    pooling: bool
    notes: tuple[str, ...] = ()
