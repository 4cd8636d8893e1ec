"""Assertions for whoever builds on fields: kernels against a reference, models against a symmetry, gradients.

They raise AssertionError with one line that says what differs, where, and by how much.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.spec import PERIODIC, FieldSpec

_NUM_FIELDS = 3


def random_fields(
    spec: FieldSpec, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> FieldBatch:
    """Draw generic fields, biases too, far from any init, so that no symmetry holds by accident.

    Normal of standard deviation sqrt(2 / I), in hidden layers over the activation's own factor (w0, or s of gauss), I
    the layer's inputs. Shapes as in `spec.shapes`, on the generator's device.
    """
    parameters = {}
    for name, shape in spec.shapes.items():
        if not name.startswith(("weights.", "biases.")):
            values = torch.randn((count, *shape), generator=generator, dtype=torch.float64, device=generator.device)
            parameters[name] = (values * 0.5).to(dtype)
            continue
        layer = int(name.split(".")[1])
        std = (2.0 / spec.dims[layer]) ** 0.5
        if layer < len(spec.hidden) and spec.activation in PERIODIC:
            std /= spec.w0(layer)
        elif layer < len(spec.hidden) and spec.activation == "gauss":
            std /= spec.width
        values = torch.randn((count, *shape), generator=generator, dtype=torch.float64, device=generator.device)
        parameters[name] = (values * std).to(dtype)
    return FieldBatch(spec, parameters)


def assert_matches_reference(
    actual: Tensor,
    reference64: Tensor,
    torch32: Tensor,
    factor: float = 2.0,
    floor: float | None = None,
    name: str = "actual",
) -> None:
    """Assert that a result is as right as plain torch in the same precision, up to `factor`.

    With r = reference64: max|actual - r| <= factor max|torch32 - r| + floor max|r|, the same for the norm of the
    whole difference against the norm of r, and 1 - cosine at most factor^2 times that of torch32 plus floor^2. All
    three of one shape; reference64 in float64, torch32 the same computation by plain torch in the kernel's own
    precision; floor: relative, None for the machine epsilon of torch32 (torch may be exact by luck). Raises ValueError
    when reference64 is not float64.
    """
    __tracebackhide__ = True
    if reference64.dtype != torch.float64:
        raise ValueError(f"reference64 is {reference64.dtype}: expected torch.float64")
    floor = torch.finfo(torch32.dtype).eps if floor is None else floor
    r, a, t = (x.detach().to("cpu", torch.float64) for x in (reference64, actual, torch32))
    if not a.shape == r.shape == t.shape:
        raise AssertionError(f"{name} has shape {tuple(a.shape)}: expected {tuple(r.shape)} (torch: {tuple(t.shape)})")
    if not bool(a.isfinite().all()):
        raise AssertionError(f"{name} has {int((~a.isfinite()).sum())} values of {a.numel()} that are not finite")
    if a.numel() == 0:
        return
    error, allowed = (a - r).abs(), factor * float((t - r).abs().max()) + floor * float(r.abs().max())
    if float(error.max()) > allowed:
        raise AssertionError(f"{name}: error {_worst(error, a, r)} is above {allowed:.3g} = {factor:g} x torch + floor")
    size = float(r.norm())
    error_norm, allowed = float((a - r).norm()), factor * float((t - r).norm()) + floor * size
    if error_norm > allowed:
        raise AssertionError(f"{name}: error as a vector {error_norm:.3g} of {size:.3g} is above {allowed:.3g}")
    turned, allowed = _one_minus_cosine(a, r), factor**2 * _one_minus_cosine(t, r) + floor**2 + 1e-15
    if turned > allowed:
        raise AssertionError(f"{name}: 1 - cosine to the reference {turned:.3g} is above {allowed:.3g}")


def assert_invariant(
    fn: Callable[[FieldBatch], Tensor],
    spec: FieldSpec,
    kinds: Sequence[str] | None,
    generator: torch.Generator,
    rtol: float = 1e-9,
) -> None:
    """Assert fn(act(g, f)) = fn(f) in float64, for random fields f and elements g near the identity and far from it.

    fn: N fields -> (N, ...) float64. Differences are measured against max|fn(f)|. A function with the same value
    for all fields passes any such test, so it is refused. Raises ValueError for a kind that the spec does not have.
    """
    __tracebackhide__ = True
    fields = random_fields(spec, _NUM_FIELDS, generator)
    expected = fn(fields).detach()
    if expected.shape[:1] != (_NUM_FIELDS,):
        raise AssertionError(f"fn gives shape {tuple(expected.shape)} for {_NUM_FIELDS} fields: expected (N, ...)")
    if float((expected - expected[:1]).abs().max()) <= rtol * float(expected.abs().max()):
        raise AssertionError("fn has the same value for different fields: invariance would hold for nothing")
    for near in (True, False):
        g = symmetry.sample(spec, _NUM_FIELDS, generator, kinds, near)
        _assert_close(fn(symmetry.act(g, fields)).detach(), expected, rtol, f"not invariant: {_say(spec, kinds, near)}")


def assert_equivariant(
    fn: Callable[[FieldBatch], FieldBatch],
    spec: FieldSpec,
    kinds: Sequence[str] | None,
    generator: torch.Generator,
    rtol: float = 1e-9,
) -> None:
    """Assert fn(act(g, f)) = act(g, fn(f)) in float64, for random fields f and elements g near and far.

    fn: N fields -> N fields of a spec with the same hidden widths and activation. Differences are measured against
    the largest entry of each parameter. A function whose results the group leaves as they are (all zero, say) passes
    any such test, so it is refused. Raises ValueError for a kind that the spec does not have.
    """
    __tracebackhide__ = True
    fields = random_fields(spec, _NUM_FIELDS, generator)
    result = fn(fields)
    for near in (True, False):
        g = symmetry.sample(spec, _NUM_FIELDS, generator, kinds, near)
        expected, actual = symmetry.act(g, result), fn(symmetry.act(g, fields))
        said = _say(spec, kinds, near)
        if not near and torch.equal(expected.flat(), result.flat()):
            raise AssertionError(f"{said} change nothing in fn's result: equivariance would hold for nothing")
        for name, value in expected.parameters.items():
            message = f"not equivariant: {said}: {name}"
            _assert_close(actual.parameters[name].detach(), value.detach(), rtol, message)


def assert_gradients(
    fn: Callable[..., Tensor], inputs: Sequence[Tensor], rtol: float = 1e-6, step: float = 1e-6
) -> None:
    """Assert that autograd through fn agrees with central differences in float64, elementwise and as a vector.

    With L = sum of c fn(inputs), c fixed numbers: dL/dx = (L(x + step) - L(x - step)) / (2 step). Each entry within
    rtol of the largest one, norm of the difference within rtol of the norm, 1 - cosine within rtol^2 + 1e-12. Calls
    fn twice per entry of the inputs. Raises ValueError when an input is not float64.
    """
    __tracebackhide__ = True
    if any(x.dtype != torch.float64 for x in inputs):
        raise ValueError(f"inputs are {[str(x.dtype) for x in inputs]}: expected torch.float64")
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    values = fn(*leaves)
    c = torch.arange(1, values.numel() + 1, dtype=torch.float64, device=values.device).cos().view(values.shape)
    actual = torch.autograd.grad((values * c).sum(), leaves, allow_unused=True)
    with torch.no_grad():
        points = [x.detach().clone() for x in inputs]
        for index, (gradient, point) in enumerate(zip(actual, points, strict=True)):
            expected = torch.zeros_like(point)
            for entry in range(point.numel()):
                high, low = (_nudged(fn, points, index, entry, sign * step) for sign in (1, -1))
                expected.view(-1)[entry] = ((high - low) * c).sum() / (2 * step)
            gradient = torch.zeros_like(point) if gradient is None else gradient
            _assert_close(gradient, expected, rtol, f"gradient of input {index}")
            size, error = float(expected.norm()), float((gradient - expected).norm())
            if error > rtol * size:
                raise AssertionError(f"gradient of input {index}: error as a vector {error:.3g} of {size:.3g}")
            if size > 0 and _one_minus_cosine(gradient, expected) > rtol**2 + 1e-12:
                raise AssertionError(f"gradient of input {index}: points elsewhere than the differences")


def _nudged(fn: Callable[..., Tensor], points: list[Tensor], index: int, entry: int, by: float) -> Tensor:
    moved = points[index].clone()
    moved.view(-1)[entry] += by
    return fn(*points[:index], moved, *points[index + 1 :])


def _assert_close(actual: Tensor, expected: Tensor, rtol: float, what: str) -> None:
    __tracebackhide__ = True
    if actual.dtype != torch.float64 or expected.dtype != torch.float64:
        raise AssertionError(f"{what}: results are {actual.dtype}: expected torch.float64")
    if actual.shape != expected.shape:
        raise AssertionError(f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    if not bool(actual.isfinite().all() and expected.isfinite().all()):
        raise AssertionError(f"{what}: results that are not finite")
    error = (actual - expected).abs()
    if error.numel() and float(error.max()) > rtol * float(expected.abs().max()):
        size = float(expected.abs().max())
        raise AssertionError(f"{what}: error {_worst(error, actual, expected)}, above {rtol:g} x {size:.3g}")


def _worst(error: Tensor, actual: Tensor, expected: Tensor) -> str:
    """The largest error in words: how much, where, and both values."""
    flat = int(error.argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(flat), error.shape)]
    got, want = float(actual.reshape(-1)[flat]), float(expected.reshape(-1)[flat])
    return f"{float(error.max()):.3g} at {place} ({got:.9g} for {want:.9g})"


def _one_minus_cosine(a: Tensor, b: Tensor) -> float:
    # |a/|a| - b/|b||^2 / 2: the plain quotient would lose everything below 1e-16.
    if float(a.norm()) == 0.0 or float(b.norm()) == 0.0:
        return float(a.norm() != b.norm())
    return float((a / a.norm() - b / b.norm()).square().sum() / 2)


def _say(spec: FieldSpec, kinds: Sequence[str] | None, near: bool) -> str:
    names = ", ".join(symmetry.groups_of(spec) if kinds is None else kinds)
    return f"random {names} {'near' if near else 'far from'} the identity"
