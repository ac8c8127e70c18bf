"""Proof of memory: the test's kernels, the child that runs them on one card, and what their findings mean."""
