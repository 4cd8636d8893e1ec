"""nf bench fit, mesh, view and wsnets: hand the options to a benchmark and its rows to the output."""

from dataclasses import replace

from apps.bench.fit import BenchFit as BenchFit
from apps.bench.fit import run
from apps.bench.mesh import BenchMesh as BenchMesh
from apps.bench.mesh import run as run_mesh
from apps.bench.view import BenchView as BenchView
from apps.bench.view import run as run_view
from apps.bench.wsnets import BenchWsnets as BenchWsnets
from apps.bench.wsnets import run as run_wsnets
from apps.output import Output


def bench_fit(options: BenchFit, output: Output) -> None:
    """Run `nf bench fit`."""
    output.record(rows=run(replace(options, output=replace(options.output, json=False))))


def bench_mesh(options: BenchMesh, output: Output) -> None:
    """Run `nf bench mesh`."""
    output.record(rows=run_mesh(replace(options, output=replace(options.output, json=False))))


def bench_view(options: BenchView, output: Output) -> None:
    """Run `nf bench view`."""
    output.record(rows=run_view(replace(options, output=replace(options.output, json=False))))


def bench_wsnets(options: BenchWsnets, output: Output) -> None:
    """Run `nf bench wsnets`."""
    output.record(rows=run_wsnets(replace(options, output=replace(options.output, json=False))))
