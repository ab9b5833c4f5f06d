"""Measurements behind the numbers in the README, each run with `python -m benchmarks.NAME`."""
