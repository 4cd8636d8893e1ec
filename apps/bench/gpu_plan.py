"""What the GPU benchmark measures, as rows without numbers: a page lists them where no GPU was reached."""

from apps.bench import gpu_evaluate, gpu_fit, gpu_population, gpu_sides
from apps.bench.gpu_rows import GpuRow
from fitting.config import FitConfig
from fitting.kernels import halves_tiles, step_triton
from neuralfields.spec import FieldSpec


def planned() -> list[GpuRow]:
    """Every row that a whole run measures, in its order."""
    return [*_matmul(), *_fits(), *_populations(), *_evaluations()]


def precisions(spec: FieldSpec) -> tuple[str, ...]:
    """All precisions of our products that such fields can be fitted in, the default first."""
    default = halves_tiles.precision(spec, FitConfig())
    have = [name for name in step_triton.PRECISIONS if name != "mixed" or halves_tiles.tile(spec, "mixed") is not None]
    return (default, *(name for name in have if name != default))


def _matmul() -> list[GpuRow]:
    return [
        GpuRow(part="matmul", case="8192 x 8192", side="torch.mm", precision=name, fields=0, steps=0, unit="products")
        for name in ("fp32", "tf32", "bf16")
    ]


def _fits() -> list[GpuRow]:
    rows = []
    for case in gpu_sides.CASES:
        sides = [("triton", name, case.fields, case.steps) for name in precisions(case.spec)]
        sides += [(name, gpu_fit.PEER_PRECISION, case.peers, 0) for name in gpu_fit.PEERS]
        for side, precision, fields, steps in sides:
            rows.append(
                GpuRow(
                    part="fit",
                    case=case.name,
                    side=side,
                    precision=precision,
                    fields=fields,
                    steps=steps,
                    unit="field-steps",
                )
            )
    return rows


def _populations() -> list[GpuRow]:
    rows = []
    for one in gpu_population.POPULATIONS:
        names = precisions(one.work.spec)
        sides = [(gpu_population.OURS.format(backend="triton"), names[0], one.count)]
        if not one.stops:
            sides += [(gpu_population.REFERENCE, "fp32", gpu_population.SAMPLE)]
            sides += [("triton", name, gpu_population.SAMPLE) for name in names]
        for side, precision, fields in sides:
            rows.append(
                GpuRow(
                    part="population",
                    case=one.case,
                    side=side,
                    precision=precision,
                    fields=fields,
                    steps=one.steps,
                    unit="images",
                )
            )
    return rows


def _evaluations() -> list[GpuRow]:
    return [
        GpuRow(
            part="evaluate",
            case=gpu_evaluate.name_of(case, what),
            side=side,
            precision=precision,
            fields=case.fields,
            steps=0,
            unit="points",
        )
        for case in gpu_evaluate.CASES
        for what in gpu_evaluate.WHAT
        for side, precision in gpu_evaluate.sides()
    ]
