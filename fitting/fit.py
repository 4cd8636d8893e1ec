"""fit: a population of fields from a population of signals, shard by shard, resumable."""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path

import numpy as np
import torch

from fitting.config import FitConfig
from fitting.kernels import halves_tiles, step_native, step_tcnn, step_torch, step_triton
from fitting.kernels.task import StepResult, StepTask
from fitting.losses import mse_to_psnr
from fitting.metrics import summary
from fitting.schedule import learning_rates
from fitting.signals.signal import Points, Signals
from neuralfields import backend, inits
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import encode
from neuralfields.spec import FieldSpec
from neuralfields.store import FieldStore, StoreWriter, open_store
from neuralfields.store_index import COLUMNS


@dataclass(frozen=True)
class FitProgress:
    """Where a running fit is: psnr is of the fields in work, before clipping; seconds since the start."""

    fields_done: int
    fields_total: int
    steps_done: int
    steps_total: int
    psnr: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """Fitted fields in memory; quality: name -> (N,), such as psnr in dB or iou; steps (N,) updates made; curves (N, K)
    learning curves."""

    fields: FieldBatch
    quality: dict[str, np.ndarray]
    steps: np.ndarray
    curves: np.ndarray
    backend: str


OnFit = Callable[[FitProgress], None]


def fit(
    signals: Signals,
    spec: FieldSpec,
    config: FitConfig | None = None,
    *,
    out: str | Path,
    recipe: str | None = None,
    progress: OnFit | None = None,
    **overrides,
) -> FieldStore:
    """Fit one field to every signal and keep the population in the store `out`.

    A fit that was killed goes on at the first missing shard when called again with the same arguments, and ends byte
    for byte as one that was not. `overrides` are FitConfig settings. Raises ValueError for bad settings, a backend
    that cannot run the work, or an `out` that holds another population.
    """
    config = with_overrides(config or FitConfig(), overrides)
    chosen = choose_backend(spec, config, signals)
    started_from = _try(signals, spec, config)  # what cannot be fitted is refused before a file is written
    meta = {
        "recipe": recipe,
        "config": {**config.result_json(), **_settled(spec, config, chosen)},
        "signal": signals.describe(),
        "created_by": "neuralfields 0.1.0",
        **started_from,
    }
    with StoreWriter(out, spec, meta, len(signals), config.shard) as writer:
        missing = writer.missing()
        watch = Watch(progress, len(signals), config.steps, len(signals) - sum(p.stop - p.start for _, p in missing))
        for shard, positions in missing:
            started = time.perf_counter()
            part = signals.select(positions)
            result = _fit_part(part, spec, config, chosen, watch)
            fields, curves = result.fields.to(torch.float32), torch.from_numpy(result.curves)
            writer.write(shard, fields, _rows(part, result, config), curves)
            log_shard(Path(out), shard, result, time.perf_counter() - started)
            watch.base += len(part)
        if not writer.complete:
            written = open_store(out)
            quality = _quality(written, set(signals.columns()))
            writer.finish(statistics(written.batches(1024), quality, written.column("steps")))
    return open_store(out)


def fit_batch(
    signals: Signals, spec: FieldSpec, config: FitConfig | None = None, progress: OnFit | None = None, **overrides
) -> FitResult:
    """Fit one field to every signal, in memory only."""
    config = with_overrides(config or FitConfig(), overrides)
    watch = Watch(progress, len(signals), config.steps, 0)
    return _fit_part(signals, spec, config, choose_backend(spec, config, signals), watch)


def with_overrides(config: FitConfig, overrides: dict) -> FitConfig:
    """Return the config with some settings replaced. Raises ValueError for an unknown name."""
    known = [f.name for f in dataclass_fields(FitConfig)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}: expected some of {', '.join(known)}")
    return replace(config, **overrides)


def choose_backend(spec: FieldSpec, config: FitConfig, signals: Signals) -> str:
    """Name of the backend that will run this work.

    Raises ValueError when an explicit request cannot be met, and when spec or config do not go with the signals.
    """
    if signals.channels != spec.out_dim:
        raise ValueError(f"spec has out_dim={spec.out_dim}: expected {signals.channels}, the channels of the signals")
    if config.loss not in signals.losses:
        raise ValueError(f"loss={config.loss!r}: expected {' or '.join(signals.losses)}, which suit these signals")
    if config.loss == "bce" and config.target_psnr > 0:
        raise ValueError(f"target_psnr={config.target_psnr}: expected 0 with loss='bce', where raw outputs are logits")
    on_gpu = {"triton": step_triton.unsupported(spec, config)}
    on_cpu = {"native": step_native.unsupported(spec, config), "torch": step_torch.unsupported(spec, config)}
    # Without a GPU Triton's interpreter may be there, which is for tests: never what "auto" wants.
    reasons = on_gpu | on_cpu if torch.cuda.is_available() else on_cpu | on_gpu
    asked = {"tcnn": step_tcnn.unsupported(spec, config, len(signals))} if config.backend == "tcnn" else {}
    return backend.choose(config.backend, reasons | asked)


def _quality(store: FieldStore, known: set[str]) -> dict[str, np.ndarray]:
    """The columns of a store's index that signals judged its fields by: those neither fixed nor known before."""
    own = [name for name in store.index.column_names if name not in COLUMNS and name not in known]
    psnr = store.column("psnr")
    judged = {} if own and np.isnan(psnr).all() else {"psnr": psnr}
    return judged | {name: store.column(name) for name in own}


def statistics(batches: Iterator[FieldBatch], quality: dict[str, np.ndarray], steps: np.ndarray) -> dict:
    """Statistics of a finished population: quality, how many diverged, mean steps, deviation of every tensor."""
    sums: dict[str, np.ndarray] = {}
    broken = []
    for batch in batches:
        whole = [value.flatten(1).isfinite().all(1) for value in batch.parameters.values()]
        broken.append(~torch.stack(whole).all(0).numpy())
        for name, value in batch.parameters.items():
            x = value.double().flatten()
            sums[name] = sums.get(name, np.zeros(3)) + np.array([x.numel(), x.sum().item(), x.square().sum().item()])
    diverged = np.concatenate(broken) | ~np.isfinite(quality.get("psnr", np.zeros(len(steps))))
    std = {name: float(np.sqrt(max(0.0, s[2] / s[0] - (s[1] / s[0]) ** 2))) for name, s in sums.items()}
    return {**summary(quality), "diverged": int(diverged.sum()), "steps_mean": float(np.mean(steps)), "std": std}


def _settled(spec: FieldSpec, config: FitConfig, chosen: str) -> dict:
    """What "auto" came to, so that a fit cannot go on in another way on another machine."""
    return {"backend": chosen, **({"precision": halves_tiles.precision(spec, config)} if chosen == "triton" else {})}


def _try(signals: Signals, spec: FieldSpec, config: FitConfig) -> dict:
    """Prepare the first field, raising what would be raised later; what it starts from, where that is in a store."""
    start = _task(signals.select(slice(0, 1)), spec, config).start.to(torch.float32).flat()
    stored = config.init not in ("shared", "random")
    return {"init_sha256": hashlib.sha256(start.numpy().tobytes()).hexdigest()} if stored else {}


def _task(signals: Signals, spec: FieldSpec, config: FitConfig) -> StepTask:
    dtype = getattr(torch, config.dtype)
    points = signals.points(spec)
    coords = points.coords.to(dtype)
    return StepTask(
        start=starting_point(spec, signals.ids, config).to(dtype),
        encoded=(coords if spec.trained_encoding else encode(spec, coords)).contiguous(),
        targets=points.targets.to(dtype),
        ids=signals.ids,
        grid=points.grid if spec.encoding is None and config.batch == 0 else None,
        config=config,
        lr=learning_rates(config),
        **(_surface(points, config, dtype) if config.needs_gradient else {}),
    )


def _fit_part(signals: Signals, spec: FieldSpec, config: FitConfig, chosen: str, watch: "Watch") -> FitResult:
    task = _task(signals, spec, config)
    run = {"native": step_native.run, "triton": step_triton.run, "torch": step_torch.run, "tcnn": step_tcnn.run}[chosen]
    with torch_threads(config.threads):
        result: StepResult = run(task, watch.update)
        quality = signals.quality(result.fields)
    return FitResult(result.fields, quality, result.steps, result.curves, chosen)


def _surface(points: Points, config: FitConfig, dtype: torch.dtype) -> dict:
    """What losses of the gradient need. Raises ValueError for signals that do not have it."""
    if not math.isfinite(points.bound):
        raise ValueError(
            f"eikonal={config.eikonal}, normals={config.normals}: expected 0 for signals without distances"
        )
    if config.normals > 0 and points.normals is None:
        raise ValueError(f"normals={config.normals}: no normals are known where the surface is; expected 0")
    normals = None if points.normals is None else points.normals.to(dtype)
    return {"coords": points.coords.to(dtype), "normals": normals, "bound": points.bound}


def starting_point(spec: FieldSpec, ids: np.ndarray, config: FitConfig) -> FieldBatch:
    """Initial weights as config.init says: shared, random, or one field of a store ("runs/x#0")."""
    if config.init in ("shared", "random"):
        return inits.initial(spec, ids, config.init, config.seed, config.init_scheme)
    path, _, position = config.init.partition("#")
    if not Path(path).exists():
        raise ValueError(f"init={config.init!r}: expected shared, random or the path of a store")
    store = open_store(path)
    if not (position or "0").isdecimal() or int(position or 0) >= len(store):
        raise ValueError(f"init={config.init!r}: expected a field of that store, #0 to #{len(store) - 1}")
    start = store[int(position or 0)]
    if not bool(start.flat().isfinite().all()):
        raise ValueError(f"init={config.init!r}: expected a field of finite weights, this one has diverged")
    return inits.from_field(start, spec, len(ids))


def _rows(signals: Signals, result: FitResult, config: FitConfig) -> dict[str, list]:
    scheme = config.init_scheme or inits.default_scheme(result.fields.spec)
    origin = f"{config.init}/{scheme}/{config.seed}"
    return {
        "id": signals.ids.tolist(),
        "label": [-1] * len(signals) if signals.labels is None else signals.labels.tolist(),
        "split": [signals.split or ""] * len(signals),
        "name": list(signals.names),
        "init_id": [f"{origin}/{i}" if config.init == "random" else origin for i in signals.ids.tolist()],
        "steps": result.steps.tolist(),
        **{name: values.tolist() for name, values in (signals.columns() | result.quality).items()},
    }


def log_shard(out: Path, shard: int, result: FitResult, seconds: float) -> None:
    """Append what may differ between runs (times) to a log beside the store."""
    line = {"shard": shard, "fields": len(result.steps), "seconds": round(seconds, 3), "backend": result.backend}
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")


class Watch:
    """Turns a kernel's progress into FitProgress, at most five times a second."""

    def __init__(self, callback: OnFit | None, total: int, steps: int, base: int) -> None:
        self.callback, self.total, self.steps, self.base = callback, total, steps, base
        self.started = time.perf_counter()
        self.last = 0.0

    def update(self, field_steps: int, fields_done: int, mse: float) -> None:
        now = time.perf_counter()
        if self.callback is None or now - self.last < 0.2:
            return
        self.last = now
        quality = float(mse_to_psnr(torch.tensor(mse)))
        steps_done = self.base * self.steps + field_steps
        done = FitProgress(
            self.base + fields_done, self.total, steps_done, self.total * self.steps, quality, now - self.started
        )
        self.callback(done)


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
