"""The measurements in docs/benchmarks.md, each repeated with `python -m benchmarks.NAME`."""
