"""The cards: NVML in a child that can be killed, and the simulated driver beneath it."""
