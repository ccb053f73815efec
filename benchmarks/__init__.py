"""Benchmarks: one file a question, all on the same harness. `python -m benchmarks --help`."""
