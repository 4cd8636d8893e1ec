"""The state of a batch of scenes in work: one step of all of them, and exact checkpoints.

Legend: N scenes, R rays of each per step, S samples of a ray.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fitting.view_pool import RayPool
from neuralfields import inits, optimizers, philox
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import density
from neuralfields.render.occupancy_grid import OccupancyGrid
from neuralfields.render.view import radiance
from neuralfields.render.volume import composite, evaluate_live, sample_rays
from neuralfields.spec import FieldSpec
from neuralfields.store_files import write_atomic

# The third counter word of the shifts of samples along their rays; see neuralfields.philox.
STREAM_JITTER = 25
# Adam as for hash tables: entries that few samples touch still take full steps.
_BETAS, _EPS = (0.9, 0.99), 1e-15


@dataclass(frozen=True, kw_only=True)
class ViewFitConfig:
    """How radiance fields are fitted to posed views.

    steps: optimizer steps; rays R per scene and step; samples S: intervals of a ray between where it enters and leaves
    the box, a sample in each, all samples of a ray shifted together; budget: samples evaluated per scene and step at
    most, rays beyond it are left out of the step; near: nothing is seen nearer than this, in the scene's units, which
    keeps fog from the cameras that stand in the box; lr: learning rate of Adam, falling exponentially to lr_final * lr
    after a linear rise over `warmup` steps; grid: cells along an axis of the occupancy grid (0: none), looked at every
    grid_every steps, ruling cells out from step grid_start; init: "shared" or "random"; seed: with a scene's id the
    only source of randomness; curve_every: steps between points of the learning curve (mean squared error of the step's
    rays); checkpoint_every: steps between checkpoints; batch: scenes in work together, one file each batch; threads: 0
    means all cores. Raises ValueError for values outside these.
    """

    steps: int = 1000
    rays: int = 2048
    samples: int = 64
    budget: int = 2**13
    near: float = 0.1
    lr: float = 5e-3
    lr_final: float = 0.05
    warmup: int = 100
    grid: int = 32
    grid_every: int = 8
    grid_start: int = 64
    init: str = "shared"
    seed: int = 0
    curve_every: int = 10
    checkpoint_every: int = 200
    batch: int = 16
    threads: int = 0

    def __post_init__(self) -> None:
        counts = ("steps", "rays", "samples", "budget", "grid_every", "curve_every", "checkpoint_every", "batch")
        least = dict.fromkeys(counts, 1) | dict.fromkeys(("warmup", "grid", "grid_start", "threads"), 0)
        for name, bound in least.items():
            value = getattr(self, name)
            _check(name, value, isinstance(value, int) and value >= bound, f"a whole number from {bound}")
        _check("near", self.near, 0 <= self.near < math.inf, "a finite number, zero or more")
        _check("lr", self.lr, 0 < self.lr < math.inf, "a finite positive number")
        _check("lr_final", self.lr_final, 0 < self.lr_final <= 1, "a number in (0, 1]")
        _check("init", self.init, self.init in ("shared", "random"), "shared or random")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "a whole number in [0, 2^32)")

    def rate(self, step: int) -> float:
        """Learning rate of a step: lr * lr_final^(step / steps), times (step + 1) / warmup while that is below 1."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * rise * self.lr_final ** (step / self.steps)

    def result_json(self) -> dict:
        """The settings that decide the result: without threads, checkpoint_every and batch, which must not."""
        return {k: v for k, v in asdict(self).items() if k not in ("threads", "checkpoint_every", "batch")}


def _check(name: str, value: object, ok: bool, accepted: str) -> None:
    if not ok:
        raise ValueError(f"{name}={value!r}: expected {accepted}")


def within_budget(live: Tensor, budget: int) -> Tensor:
    """The first rays of every field that have at most `budget` live samples together, one at least: (N, R) bool.

    live (N, R, S). A step then costs the same while the whole box is in question as later, when rays have few live
    samples, and the same for every field; which rays are kept depends on no other field.
    """
    kept = live.sum(-1).cumsum(-1) <= budget
    kept[:, 0] = True
    return kept


class ViewRun:
    """N scenes in work, one optimizer over their stacked parameters; ids (N,) uint32; background (3,) or a number."""

    def __init__(
        self, pool: RayPool, spec: FieldSpec, config: ViewFitConfig, ids: np.ndarray, background: Tensor | float
    ) -> None:
        self.pool, self.spec, self.config, self.ids, self.background = pool, spec, config, ids, background
        start = inits.initial(spec, ids, config.init, config.seed)
        self.parameters = {n: v.detach().clone().requires_grad_() for n, v in start.parameters.items()}
        self.optimizer = optimizers.Adam(self.parameters.values(), lr=config.lr, betas=_BETAS, eps=_EPS, fused=True)
        self.grid = OccupancyGrid.full(len(ids), config.grid, 2.0 / config.samples) if config.grid else None
        self.curves = torch.full((len(ids), -(-config.steps // config.curve_every)), float("nan"))
        self.step = 0

    @property
    def fields(self) -> FieldBatch:
        """The fields as they are now."""
        return FieldBatch(self.spec, {name: value.detach() for name, value in self.parameters.items()})

    def advance(self) -> Tensor:
        """Take one step with all scenes; return the mean squared error of the rays of each before it: (N,)."""
        config, step = self.config, self.step
        self._look(step)
        rays, colours = self.pool.draw(config.seed, self.ids, step, config.rays)
        jitter = philox.uniform(config.seed, self.ids, STREAM_JITTER, step, config.rays)
        occupied = None if self.grid is None else self.grid.occupied
        at = sample_rays(rays, config.samples, torch.from_numpy(jitter).unsqueeze(-1), occupied)
        kept = within_budget(at.live, config.budget)
        field = radiance(FieldBatch(self.spec, self.parameters))
        values = evaluate_live(field, at.positions, rays.directions, at.live & kept.unsqueeze(-1))
        shown = composite(values[..., 3], values[..., :3], at.deltas, self.background)
        errors = (shown.colour - colours).square().mean(-1)
        losses = (errors * kept).sum(1) / kept.sum(1)
        self.optimizer.param_groups[0]["lr"] = config.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        if losses.requires_grad:
            losses.sum().backward()
        for value in self.parameters.values():  # no ray met a live sample: moments fade as they do beside other scenes
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        self.optimizer.step()
        if step % config.curve_every == 0:
            self.curves[:, step // config.curve_every] = losses.detach()
        self.step += 1
        return losses.detach()

    def _look(self, step: int) -> None:
        """Look where the fields have density, every grid_every steps."""
        config = self.config
        if self.grid is not None and step and step % config.grid_every == 0:
            fields = self.fields
            rule_out = step >= config.grid_start
            self.grid = self.grid.updated(lambda at: density(fields, at), config.seed, self.ids, step, rule_out)

    def save(self, path: Path) -> None:
        """Write everything the next step depends on, whole or not at all."""
        tensors = {f"parameters.{name}": value.detach() for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            tensors |= {f"adam.{name}.{key}": v for key, v in self.optimizer.state.get(value, {}).items()}
        if self.grid is not None:
            tensors |= {f"grid.{key}": value for key, value in self.grid.state().items()}
        ids = torch.from_numpy(self.ids.astype(np.int64))
        tensors |= {"ids": ids, "curves": self.curves, "step": torch.tensor(self.step)}
        write_atomic(path, save({name: value.contiguous() for name, value in tensors.items()}))

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of the same scenes and settings. Raises ValueError for a damaged one."""
        try:
            tensors = load(path.read_bytes())
            if tensors["ids"].tolist() != self.ids.tolist():
                raise ValueError(f"{path} is of scenes {tensors['ids'].tolist()}: expected {self.ids.tolist()}")
            for name, value in self.parameters.items():
                with torch.no_grad():
                    value.copy_(tensors[f"parameters.{name}"])
                stem = f"adam.{name}."
                state = {key.removeprefix(stem): v for key, v in tensors.items() if key.startswith(stem)}
                if state:
                    self.optimizer.state[value] = state
            self.curves, self.step = tensors["curves"], int(tensors["step"])
            if self.grid is not None:
                self.grid = self.grid.restored({key: tensors[f"grid.{key}"] for key in ("density", "mask")})
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged ({error}): remove it to fit its scenes from the start") from None
