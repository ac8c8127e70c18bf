"""From a planned load to the row of a copy: its shares of the cards, how it is to be loaded, what that should take."""

from __future__ import annotations

from collections.abc import Sequence

from p104d.core.plan import LoadModel
from p104d.core.snapshot import CardView
from p104d.daemon.accounts import Account
from p104d.daemon.models import Known
from p104d.engines.model_fit import placed
from p104d.policy.models_view import MOST_SLOWNESS
from p104d.store.instances import Loaded, NewInstance, OnCard


def new_instance(load: LoadModel, known: Known, cards: Sequence[CardView], owner: Account | None) -> NewInstance:
    """The copy that ``load`` asks for, of the rig's ``cards``; ``owner`` None: the daemon's own user runs it."""
    by_uuid = {card.uuid: card for card in cards}
    views = [by_uuid[uuid] for uuid in load.cards]
    sums = placed(known.model.shape, known.ask, [view.capacity_bytes for view in views], known.costs)
    fastest = max((card.link_bytes_per_second for card in cards), default=0.0)
    slowest = min(view.link_bytes_per_second for view in views)
    surplus = known.costs.surplus
    return NewInstance(
        family=known.family.key,
        path=known.need.path,
        label=known.family.label,
        loaded=Loaded(
            context=known.need.context,
            parallel=known.need.parallel,
            kv_cache=known.need.kv_cache,
            cards=len(views),
            fits=known.family.fits,
            tensor_split=tuple(one.layers for one in sums) if len(sums) > 1 else (),
            embeddings=known.need.embeddings,
            file_bytes=known.model.size,
            load_seconds=known.family.load_seconds,
            user=owner.name if owner is not None else None,
            shared=known.owner is None,
            parts=tuple((*part,) for part in known.model.parts),
        ),
        uid=owner.uid if owner is not None else None,
        job_id=load.job_id,
        ram_bytes=known.family.ram_bytes,
        slowness=min(MOST_SLOWNESS, max(1.0, fastest / slowest)) if slowest > 0 else 1.0,
        cards=tuple(
            OnCard(view.uuid, known.vram_bytes or one.total, max(0, one.total - surplus))
            for view, one in zip(views, sums, strict=True)
        ),
    )
