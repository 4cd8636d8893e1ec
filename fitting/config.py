"""FitConfig: everything about how fields are found, apart from their architecture."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from neuralfields.inits import Scheme

Schedule = Literal["constant", "cosine"]
Optimizer = Literal["adam", "adamw"]
Loss = Literal["mse", "l1", "bce"]
DType = Literal["float32", "float64"]
Precision = Literal["auto", "fp32", "tf32x3", "tf32", "mixed", "bf16"]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a population is fitted.

    steps: optimizer steps per field; lr: peak learning rate; schedule: "constant" or "cosine" decay to lr_final * lr,
    after `warmup` steps of linear rise; optimizer: Adam (weight_decay is L2) or AdamW (decoupled), beta1, beta2, eps;
    loss: mean over points and channels of raw outputs against normalised targets; batch: points drawn per step, with
    replacement (0: all points); init: "shared" (one init for the population), "random" (one per field), or the path
    of a store and a position in it, "runs/x#0"; init_scheme: formula of neuralfields.inits (None: the activation's
    own); seed: with the field's id the only source of randomness; target_psnr: a field stops at this PSNR in dB (of
    the step's points, unclipped), not before min_steps (0: never stops early); curve_every: steps between points of
    the learning curve; shard: fields per file; dtype: arithmetic; precision: of the hidden layers' products on the
    triton backend, where auto is the fastest that costs less than 0.5 dB and mixed is high and low bfloat16 halves
    forward, high ones backward (the others have fp32); backend: auto, torch, native, triton, or tcnn for one field on
    a hash grid; threads: 0 means all cores; eikonal, normals: weights of two more losses of distance fields, on the
    torch backend (losses.surface_terms). Raises ValueError for values outside
    these.
    """

    steps: int = 1000
    lr: float = 1e-3
    schedule: Schedule = "constant"
    warmup: int = 0
    lr_final: float = 0.0
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    loss: Loss = "mse"
    batch: int = 0
    init: str = "shared"
    init_scheme: Scheme | None = None
    seed: int = 0
    target_psnr: float = 0.0
    min_steps: int = 0
    curve_every: int = 50
    shard: int = 1024
    dtype: DType = "float32"
    precision: Precision = "auto"
    backend: str = "auto"
    threads: int = 0
    eikonal: float = 0.0
    normals: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("curve_every", 1), ("shard", 1), ("batch", 0), ("warmup", 0)):
            _check(name, getattr(self, name), getattr(self, name) >= least, f"a whole number from {least}")
        _check("threads", self.threads, 0 <= self.threads <= 1024, "a whole number from 0 to 1024")
        for name in ("min_steps", "target_psnr", "weight_decay", "lr_final", "eikonal", "normals"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "a finite number, zero or more")
        for name in ("lr", "eps"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "a finite positive number")
        for name in ("beta1", "beta2"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        kinds = {"schedule": Schedule, "optimizer": Optimizer, "loss": Loss, "dtype": DType, "precision": Precision}
        for name, kind in kinds.items():
            accepted = get_args(kind)
            _check(name, getattr(self, name), getattr(self, name) in accepted, f"one of {', '.join(accepted)}")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "a whole number in [0, 2^32)")
        _check("warmup", self.warmup, self.warmup <= self.steps, f"at most steps={self.steps}")

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> "FitConfig":
        """Read `to_json` output. Raises ValueError for unknown keys."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"config: unknown keys {unknown}; expected {known}")
        return cls(**data)

    def result_json(self) -> dict:
        """The settings that decide the result: without backend, threads and shard, which must not."""
        return {k: v for k, v in self.to_json().items() if k not in ("threads", "shard")}

    @property
    def needs_gradient(self) -> bool:
        """Whether a loss needs the gradient of the field."""
        return self.eikonal > 0 or self.normals > 0


def _check(name: str, value: object, ok: bool, accepted: str) -> None:
    if not ok:
        raise ValueError(f"{name}={value!r}: expected {accepted}")
