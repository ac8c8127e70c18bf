"""Hours of mixed load with faults on a simulated rig, and what grew meanwhile: ``python -m soak --minutes 10``."""
