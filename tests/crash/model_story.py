"""A small story of models, told to the end whatever becomes of the daemon: loaded, used, evicted, unloaded."""

from __future__ import annotations

import asking
from crash_rig import CrashRig
from evidence import Evidence
from points import Story


class ModelStory(Story):
    """``rule`` is what the interposer does to the first daemon; those after it live."""

    def __init__(self, rig: CrashRig, rule: str, sabotage: str | None = None) -> None:
        asking.furnish(rig.folder / "work", rig.folder)
        super().__init__(rig, rule, sabotage)

    def tell(self) -> Evidence:
        """All of it, and what is found afterwards."""
        customer = self.customer
        first = self.submit("red")
        self.wait(lambda: customer.ended(*first), "the first ends")
        # A copy that is there, one that is loaded, one on two cards, and one job that is stopped in the middle.
        again = [*self.submit("red"), *self.submit("wide")]
        [stopped] = self.submit("asks")
        self.wait(lambda: customer.states().get(stopped) in (None, "running"), "it runs")
        self.wait(lambda: customer.cancel(stopped) or stopped not in customer.states(), "it is cancelled")
        self.wait(lambda: customer.ended(*again), "those end")
        # Everything has to go for it.
        command = self.submit("all")
        self.wait(lambda: customer.ended(*command), "the command ends")
        last = self.submit("blue")
        self.wait(lambda: customer.ended(*last), "the last ends")
        return self.end()
