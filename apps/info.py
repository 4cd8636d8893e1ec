"""nf info: what a store holds, or what this installation can do."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tyro.conf import Positional, arg

from apps.fit import diverged_line
from apps.info_network import is_network, network
from apps.options import SHOWN, Shown
from apps.output import Output, file_size, psnr_figures, psnr_line, sparkline
from apps.versions import cores, processor, versions

if TYPE_CHECKING:
    from neuralfields import FieldStore


JUDGED = (
    "iou",
    "chamfer_l1",
    "f_score",
    "normal_consistency",
    "psnr_heldout",
    "ssim_heldout",
)  # columns of an index besides the PSNR


@dataclass(frozen=True, kw_only=True)
class Info:
    """Describe a store or a trained network; without either, this installation: versions, backends, processor."""

    store: Annotated[Positional[str | None], arg(metavar="FOLDER", help_behavior_hint="(default: none)")] = None
    """Folder of a store, or one that `nf train` wrote."""
    check: bool = False
    """Read every file of the store and compare its checksum, or load the network whole."""
    output: Shown = SHOWN


def info(options: Info, output: Output) -> None:
    """Run `nf info`."""
    if options.store is None:
        if options.check:
            raise ValueError("check=True: expected with the FOLDER of a store or a network")
        _installation(output)
    elif not (Path(options.store) / "store.json").is_file() and is_network(options.store):
        network(options.store, options.check, output)
    else:
        _store(options.store, options.check, output)


def backends() -> dict[str, str]:
    """Name -> what it runs on, or why it cannot run here."""
    from fitting import FitConfig
    from fitting.kernels import step_native, step_triton
    from neuralfields import SIREN

    reason = step_native.unsupported(SIREN(2, 1), FitConfig(backend="native"))
    triton = step_triton.missing()
    return {
        "torch": "yes",
        "native": f"yes, {step_native.isa()}" if reason is None else f"no: {reason}",
        "triton": "yes" if triton is None else f"no: {triton}",
    }


def _installation(output: Output) -> None:
    import torch

    found, names = versions(), backends()
    machine = [("processor", processor()), ("cores", cores()), ("torch threads", torch.get_num_threads())]
    output.facts([*found.items(), *machine, *((f"backend {name}", text) for name, text in names.items())])
    output.record(versions=found, processor=processor(), cores=cores(), backends=names)
    output.record(torch_threads=torch.get_num_threads())
    output.next(["nf", "demo"])


def _store(path: str, check: bool, output: Output) -> None:
    from neuralfields.store import open_store

    store = open_store(path)
    if check:
        store.verify()
    figures, config, signal = _psnr(store), store.meta.get("config") or {}, store.meta.get("signal") or {}
    state = "complete" if store.complete else f"incomplete: {store.num_planned - len(store):,} fields still to fit"
    num_bytes = sum(file.stat().st_size for file in Path(path).iterdir() if file.is_file())
    labels, splits = _counts(store, signal), Counter(store.index.column("split").to_pylist())
    output.facts(
        [
            ("store", path),
            ("fields", f"{len(store):,} of {store.num_planned:,}, {state}"),
            ("size", file_size(num_bytes)),
            ("checksums", "all files agree" if check else None),
            ("spec", store.spec.describe()),
            ("pixels", f"{store.spec.grid}, {store.spec.axes}" if store.spec.in_dim == 2 else None),
            ("signal", _signal(signal)),
            ("recipe", store.meta.get("recipe")),
            ("fit", _config(config)),
            ("seed", config.get("seed")),
            ("init", config.get("init")),
            ("splits", ", ".join(f"{name or 'none'} {count:,}" for name, count in sorted(splits.items())) or None),
            ("classes", ", ".join(f"{name}: {count:,}" for name, count in labels.items()) or None),
            ("PSNR", psnr_line(figures)),
            ("", _histogram(store) if figures else None),
            ("diverged", diverged_line(store)),
            *_quality(store),
            ("numbers", ", ".join(numbers := _numeric_columns(store))),
            *_failures(signal),
            ("written by", store.meta.get("created_by")),
        ]
    )
    output.record(store=path, fields=len(store), planned=store.num_planned, complete=store.complete, bytes=num_bytes)
    output.record(spec=store.spec.to_json(), meta=store.meta, splits=dict(splits), classes=labels, **figures)
    output.record(numeric_columns=numbers)
    if len(store):
        output.next(["nf", "render", path, "--out", "grid.png"])


def _psnr(store: "FieldStore") -> dict[str, float]:
    if "psnr" not in store.index.column_names:
        return {}
    values = store.column("psnr").astype(np.float64)
    return psnr_figures(values[np.isfinite(values)])


def _histogram(store: "FieldStore") -> str | None:
    values = store.column("psnr").astype(np.float64)
    values = values[np.isfinite(values)]
    marks = sparkline(values)
    return f"{values.min():.1f} {marks} {values.max():.1f} dB" if marks and np.ptp(values) > 0 else None


def _counts(store: "FieldStore", signal: dict) -> dict[str, int]:
    counted = Counter(int(label) for label in store.labels if label >= 0)
    names = signal.get("classes") or []
    return {names[k] if k < len(names) else str(k): count for k, count in sorted(counted.items())}


def _signal(signal: dict) -> str | None:
    if not signal:
        return None
    split = f", split {signal['split']}" if signal.get("split") else ""
    kind = str(signal.get("kind"))
    if signal.get("shape") is not None:
        kind += f" {'x'.join(map(str, signal['shape']))}x{signal.get('channels')}"
    elif "shape" in signal:  # of pictures that came from files which do not say it
        kind += f" of {signal.get('channels')} channels, size unknown,"
    return f"{kind} from {signal.get('source')}{split}"


def _quality(store: "FieldStore") -> list[tuple[str, str]]:
    """Mean and least of every figure but the PSNR by which fields were judged."""
    rows = []
    for name in sorted(set(store.index.column_names) & set(JUDGED)):
        values = store.column(name).astype(np.float64)
        if np.isfinite(values).any():
            rows.append((name, f"{np.nanmean(values):.4f} mean, {np.nanmin(values):.4f} to {np.nanmax(values):.4f}"))
    return rows


def _numeric_columns(store: "FieldStore") -> list[str]:
    """Columns of the index that hold numbers, of which `nf train regress --target` takes one."""
    from pyarrow import types

    schema = store.index.schema
    return [field.name for field in schema if types.is_integer(field.type) or types.is_floating(field.type)]


def _failures(signal: dict) -> list[tuple[str, str]]:
    """What could not be fitted, and why."""
    failed = signal.get("failed") or dict(signal.get("failures") or [])
    return [("failed", f"{name}: {why}") for name, why in failed.items()]


def _config(config: dict) -> str | None:
    if not config:
        return None
    names = ("optimizer", "steps", "lr", "schedule", "batch", "target_psnr", "backend")
    return ", ".join(f"{name} {config[name]}" for name in names if config.get(name))
