"""Laws of the CUDA fitting kernel of bfloat16 parts, for a GPU or for the interpreter (test_step_triton_halves.py)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fitting.kernels import halves_tiles, step_torch, step_triton, triton_lanes
from fitting.kernels.halves_tiles import HalvesTile
from fitting.kernels.triton_halves import fit_halves
from fitting.losses import per_field
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import forward_raw
from tests.fitting.kernels.triton_laws import COMPANY, FIELDS, Case, assert_equal, fits, in_double, make_task, rms

# Every depth, loss, activation and optimizer; one, several and broken tiles; one to three inputs, one to four outputs.
CASES = [
    Case((1, 5, 2), points=1),
    Case((2, 17, 3), optimizer="adamw"),
    Case((2, 17, 16, 1), "relu", batch=21, points=70),
    Case((3, 20, 7, 9, 4), loss="bce", points=70),
    Case((2, 12, 16, 9, 12, 1), loss="l1", batch=40),
    Case((3, 16, 9, 16, 5, 16, 2), "relu", optimizer="adamw", points=20),
    Case((2, 64, 50, 3), points=70),
]
# Tiles that are shipped for the widths that people fit: of one warp, and with activations that wait in memory.
SHIPPED = [
    Case((2, 32, 20, 1), points=50),
    Case((2, 32, 20, 1), loss="bce", batch=40, points=50),
    Case((3, 64, 50, 64, 1), batch=70, points=150),
    Case((3, 64, 50, 64, 4), "relu", points=70),
    Case((2, 64, 50, 1), points=70),  # of one output: another instruction multiplies
]
# Of the sums over terms: the largest share of its size that a gradient may be off by, for operands of 8 bits.
BF16 = 2.0**-6


def use(monkeypatch: pytest.MonkeyPatch, case: Case, tile: HalvesTile | None = None) -> None:
    """Fit such fields with this tile, or the shipped one, or a small one where none is shipped."""
    spec = make_task(case, fields=1).start.spec
    chosen = tile or halves_tiles.tile(spec, "mixed") or HalvesTile(32, 2)
    monkeypatch.setattr(halves_tiles, "HALVES", {halves_tiles.chip(): {halves_tiles.key(spec): chosen}})


@pytest.mark.parametrize(("case", "precision"), fits(CASES, list(halves_tiles.PRECISIONS)), ids=str)
def test_the_fit_follows_float64(case: Case, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, case)
    task = make_task(case, FIELDS, steps=8, precision=precision)
    assert triton_lanes.tier(task.start.spec, task.config).kernel is fit_halves
    exact, result = step_torch.run(in_double(task)), step_triton.run(task)
    moved = rms(exact.fields.flat() - task.start.flat())
    assert rms(result.fields.flat() - exact.fields.flat()) <= {"mixed": 0.05, "bf16": 0.2}[precision] * moved
    # The first loss sees the forward pass alone: nearly float32 with both halves.
    off = np.abs(result.curves[:, 0] - exact.curves[:, 0]) / exact.curves[:, 0]
    assert off.max() <= {"mixed": 3e-5, "bf16": 3e-2}[precision]
    assert (result.steps == task.config.steps).all()


@pytest.mark.parametrize("case", SHIPPED, ids=str)
def test_shipped_tiles_follow_float64_and_fit_every_field_alike(case: Case) -> None:
    many = 4096 if torch.cuda.is_available() else 2
    task = make_task(case, many, steps=3, precision="mixed")
    if halves_tiles.chip() == 90:
        assert halves_tiles.tile(task.start.spec, "mixed") is not None
    else:
        pytest.skip(f"mixed precision: {halves_tiles.ACCEPTED}")
    first, again = step_triton.run(task), step_triton.run(task)
    assert_equal(again, first)
    few = make_task(case, 2, steps=3, precision="mixed")
    exact = step_torch.run(in_double(few)).fields.flat()
    moved = rms(exact - few.start.flat())
    assert rms(first.fields.flat()[:2] - exact) <= 0.05 * moved
    if many > 2:
        last = step_triton.run(make_task(case, 1, first_id=7 + many - 1, steps=3, precision="mixed"))
        assert torch.equal(last.fields.flat()[0], first.fields.flat()[-1])


@pytest.mark.parametrize("case", [CASES[1], CASES[3], CASES[5]], ids=str)
def test_gradients_are_those_of_autograd_but_for_eight_bits(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first Adam step with a huge eps is -lr * g / eps: the kernel's gradient, seen through its own update.
    use(monkeypatch, case)
    task = make_task(case, fields=1, steps=1, eps=1e6, weight_decay=0.0, precision="mixed")
    task = replace(task, lr=np.array([1e6], np.float32))
    spec = task.start.spec
    flat = task.start.flat().double().requires_grad_()
    raw = forward_raw(FieldBatch.from_flat(spec, flat), task.encoded.double())
    per_field(case.loss, raw, task.targets.double()).sum().backward()
    assert flat.grad is not None
    found = FieldBatch.from_flat(spec, task.start.flat().double() - step_triton.run(task).fields.flat().double())
    expected = FieldBatch.from_flat(spec, flat.grad)
    for name, gradient in expected.parameters.items():
        off = (found.parameters[name] - gradient).abs().max()
        assert off <= 4 * BF16 * gradient.abs().max(), name


@pytest.mark.parametrize("batch", [0, 40])
def test_a_field_does_not_depend_on_its_company(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((2, 12, 16, 3), batch=batch, points=50)
    use(monkeypatch, case)
    together = step_triton.run(make_task(case, fields=COMPANY, steps=2, precision="mixed"))
    alone = step_triton.run(make_task(case, fields=1, first_id=9, steps=2, precision="mixed"))
    assert torch.equal(alone.fields.flat()[0], together.fields.flat()[2])
    assert np.array_equal(alone.curves[0], together.curves[2])
    monkeypatch.setattr(step_triton, "_part_size", lambda task, lanes: 2)
    assert_equal(step_triton.run(make_task(case, fields=COMPANY, steps=2, precision="mixed")), together)


@pytest.mark.parametrize(
    "tile", [HalvesTile(32, 2, 1), HalvesTile(32, 2, 2, True), HalvesTile(32, 2, 0, True)], ids=str
)
def test_what_waits_in_memory_changes_nothing(tile: HalvesTile, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((2, 12, 16, 9, 3), points=70)
    task = make_task(case, steps=3, precision="mixed")
    use(monkeypatch, case, HalvesTile(32, 2))
    registers = step_triton.run(task)
    use(monkeypatch, case, tile)
    memory = step_triton.run(task)
    assert rms(memory.fields.flat() - registers.fields.flat()) <= 1e-6 * rms(registers.fields.flat())
    assert np.allclose(memory.curves, registers.curves, rtol=1e-6)


def test_points_of_each_fields_own_are_the_shared_ones_when_they_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((2, 16, 3), batch=20)
    use(monkeypatch, case)
    task = make_task(case, steps=2, precision="mixed")
    own = replace(task, encoded=task.encoded.expand(2, -1, -1))
    assert_equal(step_triton.run(own), step_triton.run(task))
    other = step_triton.run(replace(task, encoded=torch.stack([task.encoded, task.encoded.flip(0)])))
    flipped = step_triton.run(replace(task, encoded=task.encoded.flip(0)))
    assert torch.equal(other.fields.flat()[0], step_triton.run(task).fields.flat()[0])
    assert torch.equal(other.fields.flat()[1], flipped.fields.flat()[1])


def test_a_field_stops_before_the_update_that_would_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((2, 16, 1))
    use(monkeypatch, case)
    settings = {"lr": 2e-2, "precision": "mixed", "schedule": "constant"}
    free = step_triton.run(make_task(case, steps=12, **settings))
    target = float(np.mean(-10 * np.log10(free.curves[:, 5] * 0.25)))  # the scale of the one channel is 0.5
    stopped = step_triton.run(make_task(case, steps=12, target_psnr=target, **settings))
    assert (stopped.steps < 12).any()
    for field, steps in enumerate(stopped.steps):
        if 0 < steps < 12:
            whole = step_triton.run(make_task(case, steps=int(steps), **settings))
            assert torch.equal(stopped.fields.flat()[field], whole.fields.flat()[field])
        seen = ~np.isnan(stopped.curves[field])
        assert np.array_equal(stopped.curves[field][seen], free.curves[field][: seen.sum()])
