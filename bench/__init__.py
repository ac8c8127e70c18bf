"""The budgets, measured: p104d beside its peers, in one run, as ratios. ``python -m bench --help``."""
