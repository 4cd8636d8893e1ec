"""The native fitting kernel: C++ with SIMD, one field on one thread for its whole fit, all state in cache."""

import threading

import numpy as np
import torch

from fitting.config import FitConfig
from fitting.kernels.task import OnProgress, StepResult, StepTask
from fitting.losses import psnr_to_mse
from neuralfields.batch import FieldBatch
from neuralfields.kernels import compiled
from neuralfields.spec import FieldSpec

MAX_WIDTH = 256
MAX_OUTPUTS = 4
_MODULE = "fitting.kernels._native"


def missing() -> str | None:
    """Why the native module cannot be used, or None when it is there."""
    return compiled.missing(_MODULE)


def isas() -> list[str]:
    """Instruction sets that this build has and this machine can run, fastest first; empty without the module."""
    return compiled.isas(_MODULE)


def isa() -> str:
    """The instruction set that runs by default. Raises ValueError without the native module."""
    names = isas()
    if not names:
        raise ValueError(f"backend='native': {missing()}")
    return names[0]


def unsupported(spec: FieldSpec, config: FitConfig) -> str | None:
    """Why this backend cannot run such a fit, or None when it can."""
    if missing() is not None:
        return missing()
    if len(spec.shapes) != 2 * spec.num_layers:
        return f"{spec.describe()} (it trains dense layers only)"
    if spec.activation not in ("sine", "relu"):
        return f"activation={spec.activation!r} (it has sine and relu)"
    if max(spec.hidden) > MAX_WIDTH:
        return f"hidden width {max(spec.hidden)} (it goes up to {MAX_WIDTH})"
    if spec.out_dim > MAX_OUTPUTS:
        return f"out_dim={spec.out_dim} (it goes up to {MAX_OUTPUTS})"
    if config.dtype != "float32":
        return f"dtype={config.dtype!r} (it has float32)"
    if config.precision not in ("auto", "fp32"):
        return f"precision={config.precision!r} (it has fp32)"
    if config.needs_gradient:
        return f"eikonal={config.eikonal}, normals={config.normals} (the torch backend has them)"
    return None


def run(task: StepTask, on_progress: OnProgress | None = None, isa: str = "") -> StepResult:
    """Fit all fields; the contract is that of StepTask and StepResult. `isa` forces an instruction set.

    Runs in a worker thread so that Ctrl-C and progress reach the caller; KeyboardInterrupt stops the fit and is raised.
    """
    from fitting.kernels import _native

    config = task.config
    params = np.array(task.start.flat().numpy(), dtype=np.float32, order="C")  # a copy: the kernel works in place
    steps = np.zeros(len(params), np.int32)
    curves = np.full((len(params), -(-config.steps // config.curve_every)), np.nan, np.float32)
    progress = _native.Progress()
    failure: list[BaseException] = []
    finished = threading.Event()  # an interrupted join() says that a thread has ended which has not (Python 3.11)

    def work() -> None:
        try:
            _native.fit(
                params=params,
                dims=list(task.start.spec.dims),
                coords=_array(task.encoded),
                targets=_array(task.targets),
                value_scale=np.array(task.start.spec.scale, np.float32),
                lr=task.lr,
                ids=np.ascontiguousarray(task.ids, np.uint32),
                curves=curves,
                steps_taken=steps,
                options=_options(_native, task, isa),
                progress=progress,
            )
        except BaseException as error:  # carried over to the calling thread
            failure.append(error)
        finally:
            finished.set()

    worker = threading.Thread(target=work, name="fit", daemon=True)
    worker.start()
    try:
        is_done = False
        while not is_done:
            is_done = finished.wait(0.1)
            if on_progress is not None:
                on_progress(progress.done, progress.fields_done, progress.loss)
    except BaseException:
        progress.cancel()
        finished.wait()
        raise
    finally:
        worker.join()
    if failure:
        raise failure[0]
    return StepResult(FieldBatch.from_flat(task.start.spec, torch.from_numpy(params)), steps, curves)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)


def _options(native, task: StepTask, isa: str):
    spec, config = task.start.spec, task.config
    rows, columns = task.grid or (0, 0)
    return native.Options(
        activation=spec.activation,
        loss=config.loss,
        isa=isa,
        w0_first=spec.w0_first,
        w0_hidden=spec.w0_hidden,
        target_mse=psnr_to_mse(config.target_psnr),
        beta1=config.beta1,
        beta2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        decoupled=config.optimizer == "adamw",
        batch=config.batch,
        seed=config.seed,
        min_steps=config.min_steps,
        curve_every=config.curve_every,
        threads=config.threads or torch.get_num_threads(),
        grid_rows=rows,
        grid_columns=columns,
    )
