"""Pure decisions on a snapshot: what starts where, what waits and why."""
