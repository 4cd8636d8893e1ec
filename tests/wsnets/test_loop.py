"""The loop with a task of its own: it is not tied to classifying."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Generator, Tensor, nn

from wsnets.heads import VectorHead
from wsnets.lanes import together
from wsnets.loop import LoopConfig, RunState, generator, learning_rate, run
from wsnets.processes import Processes

CONFIG = LoopConfig(epochs=30, batch=16, lr=0.1, ema=0.9)


@dataclass
class Regression:
    """Fit y = x a; the score is minus the mean squared error."""

    x: Tensor
    y: Tensor

    @property
    def num_items(self) -> int:
        return len(self.x)

    def fetch(self, positions: Tensor) -> Tensor:
        return positions

    def loss(self, model: nn.Module, positions: Tensor, generator: Generator) -> Tensor:
        return (model(self.x[positions], generator) - self.y[positions]).square().mean()

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {"score": -(model(self.x) - self.y).square().mean().item()}


@pytest.fixture
def task(generator: Generator) -> Regression:
    x = torch.randn(100, 5, generator=generator)
    return Regression(x, x @ torch.randn(5, 2, generator=generator))


def model() -> VectorHead:
    return VectorHead(5, (), 2, generator=generator(0, 0, 0))


def test_it_solves_a_linear_problem(task: Regression, tmp_path: Path):
    state = run(model(), task, CONFIG, tmp_path / "c.safetensors", {})
    assert state.best_score is not None
    assert state.best_score > 0.05 * state.history[0]["score"]
    assert len(state.history) == 30
    solved = model()
    solved.load_state_dict(state.best)
    assert task.validate(solved)["score"] == state.best_score == max(row["score"] for row in state.history)


def test_a_gpu_takes_more_items_at_once():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert together(16, 64, cpu) == 16
    assert together(0, 64, cpu) == together(0, 64, gpu) == 64
    assert together(16, 1000, gpu) == 128
    assert together(16, 64, gpu) == 64  # one of two processes: the other has its own


def test_a_loss_that_is_not_finite_stops_with_its_step(task: Regression, tmp_path: Path):
    broken = Regression(task.x, task.y * float("inf"))
    with pytest.raises(ValueError, match="loss is inf at step 0"):
        run(model(), broken, CONFIG, tmp_path / "c.safetensors", {})


def test_a_run_that_diverges_later_names_the_checkpoint_that_is_good(task: Regression, tmp_path: Path):
    file = tmp_path / "c.safetensors"

    class Spoilt(Regression):
        def loss(self, model: nn.Module, positions: Tensor, generator: Generator) -> Tensor:
            return super().loss(model, positions, generator) * (float("nan") if file.is_file() else 1.0)

    with pytest.raises(ValueError, match=rf"loss is nan at step 6: .*{file} holds the run up to epoch 1"):
        run(model(), Spoilt(task.x, task.y), CONFIG, file, {})
    assert run(model(), task, replace(CONFIG, epochs=2), file, {}).epoch == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_validation_that_is_not_finite_names_its_figure_and_what_to_try(bad: float, task: Regression, tmp_path: Path):
    file = tmp_path / "c.safetensors"

    class Spoilt(Regression):
        def validate(self, model: nn.Module) -> dict:
            figures = {"val_accuracy": None, "val_loss": bad if file.is_file() else 1.0}
            return {**figures, **super().validate(model)}

    said = rf"^val_loss is {bad} on validation after epoch 2: expected a finite number; "
    with pytest.raises(ValueError, match=rf"{said}{file} holds the run up to epoch 1; try a smaller lr$"):
        run(model(), Spoilt(task.x, task.y), CONFIG, file, {})
    assert run(model(), task, replace(CONFIG, epochs=2), file, {}).epoch == 2


@pytest.mark.parametrize("name", ["lr", "minutes", "weight_decay", "clip"])
def test_settings_that_are_not_finite_are_refused(name: str):
    for value in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"^{name}={value}: expected .*finite"):
            replace(CONFIG, **{name: value})


def test_without_averaging_the_last_weights_are_kept(task: Regression, tmp_path: Path):
    state = run(model(), task, replace(CONFIG, ema=0.0), tmp_path / "c.safetensors", {})
    for name, value in state.model.state_dict().items():
        torch.testing.assert_close(state.average.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(("optimizer", "amsgrad"), [("adam", False), ("adam", True), ("adamw", False)])
def test_steps_are_those_of_torch_clipped_decayed_and_averaged(
    optimizer: Literal["adam", "adamw"], amsgrad: bool, task: Regression, tmp_path: Path
):
    config = replace(
        CONFIG, epochs=4, batch=100, ema=0.2, clip=0.7, weight_decay=0.3, optimizer=optimizer, amsgrad=amsgrad
    )
    state = run(model(), task, config, tmp_path / "c.safetensors", {})
    torch_kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    plain, averages = model(), {name: value.clone() for name, value in model().state_dict().items()}
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": 0.3},
        {"params": [p for p in plain.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    steps = torch_kind(groups, amsgrad=amsgrad)
    clipped = False
    for step in range(4):
        for group in steps.param_groups:
            group["lr"] = learning_rate(config, step, 4)
        steps.zero_grad()
        task.loss(plain, torch.arange(100), Generator()).backward()
        clipped |= bool(nn.utils.clip_grad_norm_(plain.parameters(), 0.7) > 0.7)
        steps.step()
        keep = min(0.2, (1 + step) / (10 + step))
        averages = {name: keep * averages[name] + (1 - keep) * new for name, new in plain.state_dict().items()}
    assert clipped
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(state.average.state_dict()[name], averages[name], rtol=1e-4, atol=1e-6)


def test_training_ends_when_its_patience_does(task: Regression, tmp_path: Path):
    class Best(Regression):
        epochs = 0

        def validate(self, model: nn.Module) -> dict[str, float]:
            self.epochs += 1
            return {"score": -abs(self.epochs - 4.0)}

    state = run(model(), Best(task.x, task.y), replace(CONFIG, patience=3), tmp_path / "c.safetensors", {})
    assert (state.epoch, state.best_epoch) == (7, 4)


def test_a_batch_that_leaves_a_process_without_work_is_refused(task: Regression, tmp_path: Path):
    with pytest.raises(ValueError, match="batch=16: expected at least 33, so that each of 3 processes has a piece"):
        run(model(), task, CONFIG, tmp_path / "c", {}, at_once=16, processes=Processes(1, 3))


class Turned(nn.Module):
    """A linear map whose matrix lies transposed in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(2, 5, generator=generator(0, 0, 0)).T.clone())

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return x @ self.matrix


def test_a_parameter_of_any_memory_layout_resumes_exactly(task: Regression, tmp_path: Path):
    assert not Turned().matrix.is_contiguous()
    whole = run(Turned(), task, replace(CONFIG, epochs=4), tmp_path / "whole.safetensors", {})

    def stop(state: RunState) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(Turned(), task, replace(CONFIG, epochs=4), tmp_path / "cut.safetensors", {}, stop)
    cut = run(Turned(), task, replace(CONFIG, epochs=4), tmp_path / "cut.safetensors", {})
    assert cut.history == whole.history
    assert torch.equal(cut.model.state_dict()["matrix"], whole.model.state_dict()["matrix"])


def test_a_checkpoint_of_other_tensors_is_refused_in_one_line_and_kept(task: Regression, tmp_path: Path):
    file = tmp_path / "c.safetensors"
    run(model(), task, replace(CONFIG, epochs=1), file, {})
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"c\.safetensors: its tensors are not those of this network") as caught:
        run(Turned(), task, replace(CONFIG, epochs=1), file, {})
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


def test_fewer_items_than_a_batch(task: Regression, tmp_path: Path):
    few = Regression(task.x[:3], task.y[:3])
    assert len(run(model(), few, replace(CONFIG, epochs=2), tmp_path / "c.safetensors", {}).history) == 2


def test_generators_differ_by_every_argument():
    draws = [torch.rand((), generator=generator(*key)).item() for key in ((0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3))]
    assert len(set(draws)) == 4
    assert draws[0] == torch.rand((), generator=generator(0, 1, 2)).item()


def test_learning_rate_rises_then_falls():
    config = LoopConfig(lr=2.0, warmup=0.1)
    rates = [learning_rate(config, step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[19] == rates[20] == 2.0
    assert all(a >= b for a, b in pairwise(rates[20:]))
    assert rates[-1] < 1e-3
    assert learning_rate(replace(config, schedule="constant"), 199, 200) == 2.0
