"""Composition: the loop, recovery, the sensor, maintenance."""
