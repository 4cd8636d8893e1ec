"""The CUDA fitting kernel of bfloat16 parts: its laws under Triton's interpreter, and the columns that it is fed."""

from pathlib import Path

import pytest
import torch

from fitting.config import FitConfig
from fitting.kernels import halves_tiles, step_triton
from neuralfields import encodings
from neuralfields.spec import SIREN, FieldSpec, ReLUField

LAWS = Path(__file__).with_name("halves_laws.py")
SPEC = SIREN(2, 1, hidden=(32, 32))


def test_laws_hold_under_the_interpreter(failures_under_the_interpreter) -> None:
    assert failures_under_the_interpreter(LAWS) == ""


@pytest.mark.parametrize("inputs", range(1, halves_tiles.MAX_INPUTS + 1))
def test_a_product_of_columns_has_the_bits_of_a_float32_one(inputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs)
    x = torch.rand(50, inputs, generator=generator) * 2 - 1
    w, b = torch.randn(8, inputs, generator=generator), torch.randn(8, generator=generator)
    weights = torch.zeros(8, halves_tiles.columns(inputs))
    for number, (_, part) in enumerate(halves_tiles.TERMS):
        first = number * inputs + (number > 1)
        weights[:, first : first + inputs] = halves_tiles.parts(w)[part]
    places = [2 * inputs, 6 * inputs + 1, 6 * inputs + 2]
    weights[:, places] = torch.stack(halves_tiles.parts(b), dim=1)
    rows = halves_tiles.spread(x)
    assert torch.equal(rows, rows.bfloat16().float())
    found, expected = rows.double() @ weights.double().T, x.double() @ w.double().T + b.double()
    assert (found - expected).abs().max() < 2.0**-22 * (1 + inputs)


@pytest.mark.parametrize("inputs", range(1, halves_tiles.MAX_INPUTS + 1))
def test_columns_of_gradients_are_the_first_ones_again(inputs: int) -> None:
    x = torch.rand(50, inputs, generator=torch.Generator().manual_seed(inputs)) * 2 - 1
    rows, wide = halves_tiles.spread(x, 16), halves_tiles.columns(inputs)
    assert torch.equal(rows[:, :wide], halves_tiles.spread(x))
    again, zeros = rows[:, wide:].split([2 * inputs + 1, 15 - 2 * inputs], dim=1)
    assert torch.equal(again, rows[:, : 2 * inputs + 1])
    assert (again[:, -1] == 1).all()
    assert (zeros == 0).all()
    assert (again[:, :inputs] + again[:, inputs:-1] - x).abs().max() <= 2.0**-16  # 16 of 24 bits


def test_parts_are_the_number() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert (torch.stack(halves_tiles.parts(x)).double().sum(0) - x).abs().max() <= 2.0**-24 * x.abs().max()


def test_auto_is_mixed_where_the_kernel_has_such_fields() -> None:
    assert halves_tiles.precision(SPEC, FitConfig()) == "mixed"
    assert halves_tiles.precision(SPEC, FitConfig(precision="tf32")) == "tf32"
    assert halves_tiles.precision(SIREN(2, 1, hidden=(128, 128)), FitConfig()) == "tf32x3"
    assert halves_tiles.precision(ReLUField(3, 1, (16,), encodings.Positional(4)), FitConfig()) == "tf32x3"


@pytest.mark.parametrize(
    "spec",
    [
        SIREN(2, 1, hidden=(128, 128)),
        SIREN(2, 1, hidden=(32,) * 4),
        ReLUField(3, 1, (16,), encodings.Positional(4)),
    ],
)
def test_mixed_is_refused_where_it_does_not_exist(spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_triton, "missing", lambda: None)
    reason = step_triton.unsupported(spec, FitConfig(precision="mixed"))
    expected = "only on Hopper, with up to 64 units in each of up to 3 hidden layers and 3 inputs"
    assert reason == f"precision='mixed' ({expected})"
    assert step_triton.unsupported(SPEC, FitConfig(precision="mixed")) is None


def test_a_chip_takes_its_own_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, expected in (((8, 9), 80), ((9, 0), 90), ((12, 0), 100)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert halves_tiles.chip() == expected
        assert (halves_tiles.tile(SPEC, "mixed") is not None) == (expected in halves_tiles.HALVES)


def test_the_limits_that_are_said_are_those_of_the_tiles() -> None:
    keys = [key for tiles in halves_tiles.HALVES.values() for key in tiles]
    assert set(halves_tiles.HALVES) == {90}
    assert (max(key[1] for key in keys), max(key[2] for key in keys)) == (64, 3)
    # No hole below them: every activation, width, depth and number of inputs has a tile for four outputs.
    for activation in ("sine", "relu"):
        for width in (16, 32, 64):
            for depth in (1, 2, 3):
                for inputs in range(1, halves_tiles.MAX_INPUTS + 1):
                    spec = FieldSpec(in_dim=inputs, out_dim=4, hidden=(width,) * depth, activation=activation)
                    assert halves_tiles.tile(spec, "mixed") is not None, spec
