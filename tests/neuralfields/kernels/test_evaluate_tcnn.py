"""tiny-cuda-nn as a backend: equal to the torch grid where it is there, refused with the way to get it where not."""

import numpy as np
import pytest
import torch
from torch import nn

from neuralfields import FieldBatch, HashField, HashGrid, TriPlaneField, inits
from neuralfields.evaluate import encode as torch_encode
from neuralfields.evaluate import forward_raw as torch_forward_raw
from neuralfields.kernels import evaluate_tcnn

GRID = HashGrid(levels=4, features=2, log2_size=8, base=5, scale=1.6)
SPEC = HashField(3, 2, hidden=(16,), encoding=GRID)


def make(count: int, generator: torch.Generator) -> FieldBatch:
    fields = inits.initial(SPEC, np.arange(count))
    noise = torch.randn(count, SPEC.num_params, generator=generator)
    return FieldBatch.from_flat(SPEC, fields.flat() + 0.3 * noise)


def test_without_the_package_the_refusal_says_how_to_get_it(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_tcnn, "find_spec", lambda name: None)
    install = r"pip install git\+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"
    with pytest.raises(ValueError, match=f"backend='tcnn' cannot evaluate these fields: tinycudann .*{install}"):
        evaluate_tcnn.forward_raw(make(1, generator), torch.zeros(4, 3))


def test_what_it_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_tcnn, "missing", lambda: None)
    assert evaluate_tcnn.unsupported(SPEC) is None
    assert evaluate_tcnn.unsupported(SPEC, 2) == "2 fields (it takes one)"
    assert "it has HashGrid" in str(evaluate_tcnn.unsupported(TriPlaneField(1)))
    assert "it has 1, 2, 4 and 8" in str(evaluate_tcnn.unsupported(HashField(3, 1, encoding=HashGrid(features=3))))


class _Stand(nn.Module):
    """Stands in for tinycudann.Encoding: the same signature and parameters, the arithmetic of the torch grid."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.params = nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return GRID(x * 2 - 1, self.params.view(1, -1, GRID.features))[0]


def test_table_and_coordinates_are_handed_over(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, coords = make(1, generator), torch.rand(9, 3, generator=generator) * 2 - 1
    size = fields.parameters["encoding.table"].numel()
    monkeypatch.setattr(evaluate_tcnn, "missing", lambda: None)
    monkeypatch.setattr(evaluate_tcnn, "_grid", lambda encoding, in_dim: _Stand(size))
    table = fields.parameters["encoding.table"].requires_grad_()
    actual = evaluate_tcnn.forward_raw(fields, coords)
    expected = torch_forward_raw(fields, torch_encode(fields, coords))
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-5)
    first, second = (torch.autograd.grad(values.sum(), table)[0] for values in (actual, expected))
    assert float(first.abs().max()) > 0
    assert torch.allclose(first, second, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(evaluate_tcnn, "_grid", lambda encoding, in_dim: _Stand(size + 16))
    with pytest.raises(ValueError, match=rf"has {size} parameters, in tiny-cuda-nn {size + 16}: expected"):
        evaluate_tcnn.encode(fields, coords)


@pytest.mark.skipif(evaluate_tcnn.missing() is not None, reason=str(evaluate_tcnn.missing()))
def test_equals_the_torch_grid(generator: torch.Generator) -> None:
    fields, coords = make(1, generator).to("cuda"), (torch.rand(1000, 3, generator=generator) * 2 - 1).cuda()
    fields.parameters["encoding.table"].requires_grad_()
    actual, expected = evaluate_tcnn.encode(fields, coords), torch_encode(fields, coords)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    gradient = torch.randn(expected.shape, generator=generator).cuda()
    table = fields.parameters["encoding.table"]
    first, second = (torch.autograd.grad(values, table, gradient)[0] for values in (actual, expected))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
