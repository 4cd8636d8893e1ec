"""The testers are tested: right functions pass, and each kind of wrong function fails with a message that says why."""

import pytest
import torch
from torch import Tensor

from neuralfields import SIREN, FieldBatch, FieldSpec, ReLUField, symmetry, testing
from neuralfields.evaluate import evaluate

SINE = SIREN(2, 3, hidden=(5, 4), w0=9.0)
RELU = ReLUField(2, 3, hidden=(5, 4))


def picture(fields: FieldBatch) -> Tensor:
    """Values at fixed coordinates: invariant to every exact symmetry."""
    steps = torch.linspace(-1.0, 1.0, 11, dtype=torch.float64)
    return evaluate(fields, torch.stack([steps, steps.flip(0) ** 2], dim=1))


def sorted_norms(fields: FieldBatch) -> Tensor:
    """Norms of the units' first-layer weights, sorted: invariant to permutation, sign and phase, not to scale."""
    return fields.weights[0].norm(dim=2).sort(dim=1).values


def sorted_biases(fields: FieldBatch) -> Tensor:
    """Sorted first-layer biases: invariant to permutation only."""
    return fields.biases[0].sort(dim=1).values


def normalised(fields: FieldBatch) -> FieldBatch:
    """Divide the output layer by its largest entry: equivariant to permutation and sign."""
    largest = fields.weights[-1].abs().amax(dim=(1, 2), keepdim=True)
    return FieldBatch.from_layers(fields.spec, [*fields.weights[:-1], fields.weights[-1] / largest], fields.biases)


def rolled(fields: FieldBatch) -> FieldBatch:
    """Shift the units of the first layer alone: no symmetry."""
    weights = [fields.weights[0].roll(1, dims=1), *fields.weights[1:]]
    return FieldBatch.from_layers(fields.spec, weights, fields.biases)


@pytest.mark.parametrize("spec", [SINE, RELU], ids=["sine", "relu"])
def test_invariant_functions_pass(spec: FieldSpec, generator: torch.Generator) -> None:
    testing.assert_invariant(picture, spec, None, generator)
    testing.assert_invariant(sorted_biases, spec, ("permutation",), generator)


@pytest.mark.parametrize(
    ("fn", "spec", "kind"),
    [
        (lambda f: f.biases[0], SINE, "permutation"),
        (sorted_biases, SINE, "sign"),
        (sorted_biases, SINE, "phase"),
        (sorted_norms, RELU, "scale"),
        (lambda f: picture(f) + 1e-6 * f.biases[0][:, :1, None], SINE, "phase"),
    ],
)
def test_wrong_symmetry_is_detected(fn, spec: FieldSpec, kind: str, generator: torch.Generator) -> None:
    with pytest.raises(AssertionError, match=f"not invariant: random {kind} near the identity: error .* above"):
        testing.assert_invariant(fn, spec, (kind,), generator)


def test_sign_alone_is_no_half_period(generator: torch.Generator) -> None:
    testing.assert_invariant(sorted_norms, SINE, ("permutation", "sign", "phase"), generator)

    def absolute(fields: FieldBatch) -> Tensor:
        return fields.biases[0].abs().sort(dim=1).values

    testing.assert_invariant(absolute, SINE, ("permutation", "sign"), generator)
    with pytest.raises(AssertionError, match="not invariant"):
        testing.assert_invariant(absolute, SINE, None, generator)


def test_empty_invariance_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(AssertionError, match="same value for different fields"):
        testing.assert_invariant(lambda f: torch.ones(len(f), 2, dtype=torch.float64), SINE, None, generator)
    with pytest.raises(AssertionError, match=r"fn gives shape \(\) for 3 fields"):
        testing.assert_invariant(lambda f: picture(f).sum(), SINE, None, generator)
    with pytest.raises(AssertionError, match=r"torch\.float32"):
        testing.assert_invariant(lambda f: picture(f).float(), SINE, None, generator)
    with pytest.raises(AssertionError, match="not finite"):
        testing.assert_invariant(lambda f: picture(f) + (f.biases[0][:, :1, None] * 1e300) ** 2, SINE, None, generator)
    with pytest.raises(ValueError, match="kinds has 'scale'"):
        testing.assert_invariant(picture, SINE, ("scale",), generator)


def test_equivariant_functions_pass(generator: torch.Generator) -> None:
    testing.assert_equivariant(lambda f: f, SINE, None, generator)
    testing.assert_equivariant(normalised, SINE, ("permutation", "sign"), generator)
    g = symmetry.identity(SINE, 3)
    testing.assert_equivariant(lambda f: symmetry.act(g, f), SINE, None, generator)


@pytest.mark.parametrize(
    ("fn", "spec", "kind"),
    [
        (rolled, SINE, "permutation"),
        (lambda f: FieldBatch.from_flat(f.spec, f.flat() ** 2), SINE, "sign"),
        (lambda f: FieldBatch.from_flat(f.spec, 2.0 * f.flat()), SINE, "phase"),
        (lambda f: FieldBatch.from_flat(f.spec, f.flat() ** 2), RELU, "scale"),
        (symmetry.canonicalise, SINE, "permutation"),
    ],
)
def test_wrong_equivariance_is_detected(fn, spec: FieldSpec, kind: str, generator: torch.Generator) -> None:
    with pytest.raises(AssertionError, match=rf"not equivariant: random {kind} .*: (weights|biases)\.\d: error"):
        testing.assert_equivariant(fn, spec, (kind,), generator)


def test_empty_equivariance_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(AssertionError, match="change nothing in fn's result"):
        testing.assert_equivariant(
            lambda f: FieldBatch.from_flat(f.spec, 0.0 * f.flat()), SINE, ("permutation", "sign"), generator
        )


def test_reference_rule(generator: torch.Generator) -> None:
    r = torch.randn(1000, generator=generator, dtype=torch.float64)
    noise = torch.randn(1000, generator=generator, dtype=torch.float64) * 1e-6
    torch32 = (r + noise).float()
    testing.assert_matches_reference(torch32, r, torch32)
    testing.assert_matches_reference((r - 1.9 * noise).float(), r, torch32)
    with pytest.raises(AssertionError, match=r"kernel: error .* at \[\d+\] .* is above"):
        testing.assert_matches_reference((r + 3 * noise).float(), r, torch32, name="kernel")
    spread = noise.abs().max().expand(1000)
    with pytest.raises(AssertionError, match="error as a vector"):
        testing.assert_matches_reference((r + 1.5 * spread).float(), r, torch32)
    with pytest.raises(AssertionError, match=r"has shape \(999,\)"):
        testing.assert_matches_reference(torch32[1:], r, torch32)
    with pytest.raises(AssertionError, match="1 values of 1000 that are not finite"):
        testing.assert_matches_reference(torch32.index_fill(0, torch.tensor([3]), torch.nan), r, torch32)
    with pytest.raises(ValueError, match=r"reference64 is torch\.float32"):
        testing.assert_matches_reference(torch32, torch32, torch32)


def test_reference_rule_when_torch_is_exact() -> None:
    r = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    testing.assert_matches_reference(r.float() * (1 + 2.0**-23), r, r.float())
    with pytest.raises(AssertionError, match="is above"):
        testing.assert_matches_reference(r.float() * (1 + 2.0**-20), r, r.float())
    testing.assert_matches_reference(r.float() * (1 + 2.0**-20), r, r.float(), floor=1e-5)


class WrongBackward(torch.autograd.Function):
    """x^3 whose backward pass forgets a factor."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2.0 * x**2 * grad


def test_gradients(generator: torch.Generator) -> None:
    x, y = (torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    testing.assert_gradients(lambda a, b: (a * b).sin() + b**2, [x, y])
    testing.assert_gradients(lambda a, b: b.exp(), [x, y])
    with pytest.raises(AssertionError, match=r"gradient of input 1: error .* at \[\d, \d\]"):
        testing.assert_gradients(lambda a, b: a + WrongBackward.apply(b), [x, y])
    with pytest.raises(AssertionError, match="gradient of input 0"):
        testing.assert_gradients(lambda a, b: a.detach() * b, [x, y])
    with pytest.raises(ValueError, match=r"expected torch\.float64"):
        testing.assert_gradients(lambda a: a, [x.float()])


@pytest.mark.parametrize("spec", [SINE, RELU], ids=["sine", "relu"])
def test_random_fields_are_generic(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = testing.random_fields(spec, 500, generator)
    assert fields.flat().dtype == torch.float64
    values = picture(fields)
    assert 0.3 < float(values.std()) < 10.0
    for name, value in fields.parameters.items():
        assert float(value.abs().min()) > 0.0, name
