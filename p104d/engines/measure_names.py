"""The names of what is measured. They are stable: results on record are compared by them for years."""

from __future__ import annotations

PROMPT_SPEED = "prompt_tokens_per_second"
GENERATION_SPEED = "generation_tokens_per_second"
PROMPT_TOKENS = "prompt_tokens"
GENERATION_TOKENS = "generation_tokens"
LOAD_SECONDS = "load_seconds"
ITERATION_SPEED = "iterations_per_second"
ITERATION_SECONDS = "seconds_per_iteration"
ITERATIONS = "iterations"

#: What llama.cpp prints, and what tqdm and the bars like it do.
LLAMA = (PROMPT_SPEED, GENERATION_SPEED, PROMPT_TOKENS, GENERATION_TOKENS, LOAD_SECONDS)
BARS = (ITERATION_SPEED, ITERATION_SECONDS, ITERATIONS)

#: What came of a job: images, requests, files. A program that counts them itself is better than any guess, so a user's
#: pattern may take this name, and wins.
ITEMS = "items"
#: How far a job is, in per cent: only a user's pattern can tell where there is no progress bar.
PROGRESS = "progress"

#: What the daemon adds up from the cards' readings (``daemon.usage``).
USAGE = (
    "peak_vram_bytes",
    "mean_power_watts",
    "peak_power_watts",
    "energy_watt_hours",
    "throttled_seconds",
    "power_capped_seconds",
    "mean_temperature_celsius",
    "max_temperature_celsius",
    "mean_sm_clock_mhz",
    "mean_memory_clock_mhz",
    "link_lanes_gen1",
    "measured_seconds",
    "cost",
    "joules_per_token",
    "watt_hours_per_1000_tokens",
    "watt_hours_per_item",
    "joules_per_iteration",
)
