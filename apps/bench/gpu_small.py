"""Every CUDA kernel once, small and odd: what compute-sanitizer watches, as `python -m apps.bench.gpu_small`."""

import sys

from apps.bench.gpu_sides import Case, Ours, build

# A broken tile of points, odd widths, full batch and sampled points, one and several hidden layers, all tiers.
CASES = (
    Case("2-17-3", 37, 0, 3, 3, 1),
    Case("3-33-20-1", 70, 21, 3, 3, 1),
    Case("2-32-32-1", 100, 0, 2, 2, 1),
    Case("2-64-64-3", 100, 0, 2, 2, 1),
    Case("3-64-64-64-1", 150, 70, 2, 2, 1),
    Case("3-100-128-1", 50, 40, 2, 2, 1),
)


def fit_all(precision: str) -> list[str]:
    """Fit the small cases; names of those whose weights are not all finite."""
    wrong = []
    for case in CASES:
        side = Ours(build(case, case.fields), precision)
        side.advance(case.steps)
        assert side.result is not None
        if not side.result.flat().isfinite().all():
            wrong.append(case.name)
    return wrong


def evaluate_all() -> list[str]:
    """Evaluate small fields and take all gradients; names of the cases with a number that is not finite."""
    from apps.bench.gpu_evaluate import Evaluation

    wrong = []
    for case in CASES:
        result = Evaluation(build(case, case.fields), "triton").gradients()
        if not all(value.isfinite().all() for value in result):
            wrong.append(case.name)
    return wrong


def main() -> int:
    """Run them all; 1 when one gives a number that is not finite."""
    wrong = fit_all("auto") + fit_all("tf32x3") + evaluate_all()
    print("\n".join(f"{name}: expected finite numbers" for name in wrong) or f"{len(CASES)} cases are finite")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
