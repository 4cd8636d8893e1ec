"""nf bench fit: hand the options to the benchmark and its rows to the output."""

from dataclasses import replace

from apps.bench.fit import BenchFit as BenchFit
from apps.bench.fit import run
from apps.output import Output


def bench_fit(options: BenchFit, output: Output) -> None:
    """Run `nf bench fit`."""
    output.record(rows=run(replace(options, output=replace(options.output, json=False))))
