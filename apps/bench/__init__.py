"""Benchmarks: both sides timed in one run, interleaved, with the ratio and the machine in every row."""
