"""Laws of the native kernel: it is torch's fit, field by field, bit for bit the same wherever the field stands."""

import itertools
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fitting.config import FitConfig, Loss, Optimizer
from fitting.kernels import step_native
from fitting.kernels.task import StepTask
from fitting.schedule import learning_rates
from neuralfields import inits, philox
from neuralfields.grids import product_grid
from neuralfields.spec import FieldSpec

ISAS = step_native.isas()
if not ISAS:
    pytest.skip("the native module is not built here", allow_module_level=True)

from fitting.kernels import _native  # noqa: E402  (there only when built)

# Where torch's float32 run happens to hit the float64 one almost exactly, rounding of single weights (about 6e-8 of
# their size, twenty updates) is still allowed.
FLOOR = 1.5e-6


@dataclass(frozen=True)
class Case:
    dims: tuple[int, ...]
    activation: Literal["sine", "relu"] = "sine"
    loss: Loss = "mse"
    optimizer: Optimizer = "adam"
    batch: int = 0
    points: int = 37
    grid: tuple[int, int] | None = None
    own: bool = False  # every field has its own points


CASES = [
    Case((2, 17, 3)),
    Case((2, 17, 3), "relu", optimizer="adamw", batch=21),
    Case((3, 32, 16, 40, 1), loss="bce", optimizer="adamw"),
    Case((3, 32, 16, 40, 1), "relu", batch=50),
    Case((2, 64, 64, 3), loss="l1", batch=16),
    Case((2, 64, 64, 3), optimizer="adamw", points=91, grid=(7, 13)),
    Case((40, 24, 1), loss="bce", batch=9),
    Case((40, 24, 1), "relu", optimizer="adamw"),
    Case((1, 5, 2), points=1),
    Case((2, 130, 200, 4), points=120, grid=(8, 15)),
    Case((3, 33, 20, 1), batch=30, points=50, own=True),
    Case((3, 33, 20, 2), own=True),
    Case((3, 128, 128, 160, 1), points=150),  # the matrix unit: whole blocks of weights, a rest of the points
    Case((2, 256, 128, 3), "relu", points=96, optimizer="adamw"),
]


def make_task(case: Case, fields: int = 3, first_id: int = 7, **overrides: Any) -> StepTask:
    """Targets depend on the field's id alone, so that a field can be fitted in any company."""
    spec = FieldSpec(
        in_dim=case.dims[0],
        out_dim=case.dims[-1],
        hidden=case.dims[1:-1],
        activation=case.activation,
        w0_first=20.0,
        w0_hidden=25.0,
        scale=(0.5,) * case.dims[-1],
    )
    settings: dict[str, Any] = {"steps": 20, "lr": 1e-3, "weight_decay": 0.05, "curve_every": 1, "threads": 1}
    config = FitConfig(
        **{**settings, **overrides}, seed=5, loss=case.loss, optimizer=case.optimizer, batch=case.batch, init="random"
    )
    ids = np.arange(first_id, first_id + fields, dtype=np.uint32)
    generator = torch.Generator().manual_seed(0)
    coords = torch.rand(case.points, case.dims[0], generator=generator) * 2 - 1
    if case.own:
        coords = torch.stack([coords.roll(int(i), 1) * (0.9 + 0.01 * int(i)) for i in ids])
    shape = (case.points, case.dims[-1])
    targets = torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(int(i))) for i in ids])
    return StepTask(
        start=inits.initial(spec, ids, "random"),
        encoded=product_grid(case.grid) if case.grid else coords,
        targets=targets,
        ids=ids,
        grid=case.grid,
        config=config,
        lr=learning_rates(config),
    )


def raw_output(weights: list[torch.Tensor], task: StepTask, x: torch.Tensor) -> torch.Tensor:
    spec = task.start.spec
    for at in range(0, len(weights) - 2, 2):
        z = F.linear(x, weights[at], weights[at + 1])
        x = torch.relu(z) if spec.activation == "relu" else torch.sin((spec.w0_hidden if at else spec.w0_first) * z)
    return F.linear(x, weights[-2], weights[-1])


def loss_of(name: str, raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    losses = {"mse": F.mse_loss, "l1": F.l1_loss, "bce": F.binary_cross_entropy_with_logits}
    return losses[name](raw, target)


def split(flat: torch.Tensor, dims: tuple[int, ...]) -> list[torch.Tensor]:
    sizes = [n for i, o in itertools.pairwise(dims) for n in (i * o, o)]
    shapes = [s for i, o in itertools.pairwise(dims) for s in ((o, i), (o,))]
    return [part.reshape(shape).clone() for part, shape in zip(flat.split(sizes), shapes, strict=True)]


def torch_fit(task: StepTask, dims: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, np.ndarray]:
    """The same fits by autograd and torch.optim, one field after the other."""
    config, flats, curves = task.config, [], []
    for position, field_id in enumerate(task.ids):
        weights = [w.to(dtype).requires_grad_() for w in split(task.start.flat()[position], dims)]
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        betas = (config.beta1, config.beta2)
        optimizer = kind(weights, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
        curve = []
        for step in range(config.steps):
            own = task.encoded if task.encoded.ndim == 2 else task.encoded[position]
            x, y = own.to(dtype), task.targets[position].to(dtype)
            if config.batch:
                drawn = philox.indices(config.seed, np.array([field_id]), step, config.batch, len(x))[0]
                x, y = x[drawn], y[drawn]
            optimizer.zero_grad()
            loss = loss_of(config.loss, raw_output(weights, task, x), y)
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        flats.append(torch.cat([w.detach().flatten() for w in weights]))
        curves.append(curve)
    return torch.stack(flats), np.array(curves)


def test_sines_are_accurate_over_the_whole_range():
    turns = np.linspace(-1000.0, 1000.0, 400_001).astype(np.float32)  # half turns: arguments up to 3,142
    exact = np.pi * np.remainder(turns.astype(np.float64), 2.0)
    for isa in ISAS:
        sine, cosine = np.empty_like(turns), np.empty_like(turns)
        _native.sine_cosine(turns, sine, cosine, isa)
        assert np.abs(sine - np.sin(exact)).max() < 2.5e-7
        assert np.abs(cosine - np.cos(exact)).max() < 2.5e-7
        assert np.isnan(_sine_of(np.nan, isa))


def _sine_of(x: float, isa: str) -> float:
    sine, cosine = np.empty(1, np.float32), np.empty(1, np.float32)
    _native.sine_cosine(np.array([x], np.float32), sine, cosine, isa)
    return float(sine[0])


def test_draws_equal_the_numpy_twin_bit_for_bit():
    for seed, field_id, step, block in ((0, 0, 0, 0), (1, 2, 3, 4), (2**32 - 1, 2**31, 999, 12345)):
        counter = np.array([block, step, philox.STREAM_SAMPLE, 0], np.uint32)
        expected = philox.philox(counter, np.array([seed, field_id], np.uint32))
        assert _native.sample_words(seed, field_id, step, block) == expected.tolist()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_fit_is_as_near_to_float64_as_torch_is(case):
    task = make_task(case)
    exact, exact_curves = torch_fit(task, case.dims, torch.float64)
    plain, plain_curves = torch_fit(task, case.dims, torch.float32)
    allowed = 2 * (plain - exact).square().mean().sqrt().item() + FLOOR
    allowed_loss = 2 * np.abs(plain_curves - exact_curves).max() + FLOOR
    for isa in ISAS:
        result = step_native.run(task, isa=isa)
        error = (result.fields.flat() - exact).square().mean().sqrt().item()
        assert error <= allowed, f"{isa}: weights are {error:.2e} from float64, allowed {allowed:.2e}"
        assert np.abs(result.curves - exact_curves).max() <= allowed_loss, isa
        assert (result.steps == task.config.steps).all()


@pytest.mark.parametrize("case", [Case((2, 7, 5, 2), grid=(4, 5), points=20), Case((3, 9, 1), "relu", "bce")], ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_gradients_agree_with_finite_differences(case, isa):
    # The first Adam step with a huge eps is -lr * g / eps: the kernel's gradient, seen through its own update.
    task = make_task(case, fields=1, steps=1, lr=1e-3, eps=1e6, weight_decay=0.0)
    task = replace(task, lr=np.array([1e6], np.float32))
    flat = task.start.flat()[0].double()
    gradient = (flat - step_native.run(task, isa=isa).fields.flat()[0]).numpy()

    def loss_at(values: torch.Tensor) -> float:
        raw = raw_output(split(values, case.dims), task, task.encoded.double())
        return loss_of(case.loss, raw, task.targets[0].double()).item()

    step = 1e-6
    for index in range(len(flat)):
        moved = torch.zeros_like(flat)
        moved[index] = step
        numeric = (loss_at(flat + moved) - loss_at(flat - moved)) / (2 * step)
        assert gradient[index] == pytest.approx(numeric, rel=2e-4, abs=1e-6)


COMPANY = [
    Case((2, 32, 17, 3)),
    Case((2, 32, 17, 3), batch=16),
    Case((3, 128, 128, 1), own=True),
    Case((3, 128, 128, 1), own=True, batch=16),
]


@pytest.mark.parametrize("case", COMPANY, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_a_field_does_not_depend_on_its_company(isa, case):
    together = step_native.run(make_task(case, fields=100, threads=2), isa=isa)
    for position in (0, 41, 99):
        alone = step_native.run(make_task(case, fields=1, first_id=7 + position), isa=isa)
        assert torch.equal(alone.fields.flat()[0], together.fields.flat()[position])
        assert np.array_equal(alone.curves[0], together.curves[position])


@pytest.mark.parametrize("batch", [0, 8200])
def test_one_big_field_is_the_same_on_any_number_of_threads(batch):
    case = Case((2, 19, 18, 3), batch=batch, points=9000, grid=(90, 100))
    one, two, three = (step_native.run(make_task(case, fields=1, steps=4, threads=n)) for n in (1, 2, 3))
    in_company = step_native.run(make_task(case, fields=3, steps=4, threads=2))
    for other in (two, three, in_company):
        assert torch.equal(one.fields.flat()[0], other.fields.flat()[0])
        assert np.array_equal(one.curves[0], other.curves[0])


def test_a_grid_that_is_none_is_refused():
    task = make_task(Case((2, 16, 1), points=12, grid=(3, 4)))
    with pytest.raises(ValueError, match="grid"):
        step_native.run(replace(task, grid=(4, 3)))


def test_a_field_stops_before_the_update_that_would_follow():
    case = Case((2, 16, 1), points=9)
    free = step_native.run(make_task(case, fields=4, steps=300, lr=5e-3))
    mse = 0.25 * free.curves  # values are 0.5 * raw + offset
    target_psnr = 20.0
    expected = [int(np.argmax(row <= 10.0 ** (-target_psnr / 10.0))) for row in mse]
    stopped = step_native.run(make_task(case, fields=4, steps=300, lr=5e-3, target_psnr=target_psnr))
    assert 0 < min(expected) < max(expected)
    assert stopped.steps.tolist() == expected
    for position, steps in enumerate(expected):
        assert np.isfinite(stopped.curves[position, : steps + 1]).all()
        assert np.isnan(stopped.curves[position, steps + 1 :]).all()
        shorter = step_native.run(make_task(case, fields=1, first_id=7 + position, steps=steps, lr=5e-3))
        assert torch.equal(shorter.fields.flat()[0], stopped.fields.flat()[position])


def test_a_later_first_stop_is_kept_to():
    result = step_native.run(make_task(Case((2, 16, 1)), steps=50, target_psnr=0.1, min_steps=13))
    assert (result.steps == 13).all()


@pytest.mark.parametrize("loss", ["mse", "l1", "bce"])
def test_nan_shows_in_the_curve_and_does_not_hang(loss):
    task = make_task(Case((2, 16, 3), loss=loss), fields=2, target_psnr=10.0)
    task.targets[0, 3, 1] = float("nan")
    result = step_native.run(task)
    assert np.isnan(result.curves[0]).all()
    assert result.steps[0] == task.config.steps
    assert np.isfinite(result.curves[1, 0])


def test_an_interrupt_is_raised_once_the_kernel_has_ended(monkeypatch: pytest.MonkeyPatch):
    # Python 3.11 takes a thread whose join() was interrupted for one that has ended, and does not wait for it again.
    monkeypatch.setattr(threading.Thread, "join", lambda thread, timeout=None: None)
    kernel, ended = _native.fit, threading.Event()
    monkeypatch.setattr(_native, "fit", lambda **options: [kernel(**options), time.sleep(0.2), ended.set()])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step_native.run(make_task(Case((2, 9, 1)), steps=50), interrupt)
    assert ended.is_set()


def test_progress_counts_and_a_cancelled_fit_ends_before_its_work():
    seen: list[tuple[int, int, float]] = []

    class Enough(Exception):
        pass

    def watch(done: int, fields_done: int, loss: float) -> None:
        seen.append((done, fields_done, loss))
        if done > 0:
            raise Enough

    task = make_task(Case((2, 128, 128, 3), points=2000), fields=50, steps=5000, threads=2)
    before = threading.active_count()
    with pytest.raises(Enough):
        step_native.run(task, watch)
    assert threading.active_count() == before
    assert seen[-1][0] < 50 * 5000, "the fit ended before it could be cancelled"


@pytest.mark.parametrize(
    ("spec", "config", "reason"),
    [
        (FieldSpec(in_dim=2, out_dim=1, hidden=(300,)), FitConfig(), "300"),
        (FieldSpec(in_dim=2, out_dim=5, hidden=(16,)), FitConfig(), "out_dim=5"),
        (FieldSpec(in_dim=2, out_dim=1, hidden=(16,)), FitConfig(dtype="float64"), "float64"),
    ],
)
def test_what_it_cannot_run_is_said(spec, config, reason):
    assert reason in (step_native.unsupported(spec, config) or "")


# Room for the stacks of some threads, in a process of its own.
CRAMPED = """
import resource
from pathlib import Path
from fitting.kernels import step_native
from tests.fitting.kernels.test_step_native import Case, make_task
task = make_task(Case((2, 16, 1)), fields=200, threads=200)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    step_native.run(task)
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_that_cannot_be_started_are_refused_in_one_line():
    process = subprocess.run([sys.executable, "-c", CRAMPED], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    (line,) = process.stdout.splitlines()
    assert line.startswith("threads=200: the system starts no more than ")


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="isa='mmx'"):
        step_native.run(make_task(Case((2, 16, 1))), isa="mmx")
