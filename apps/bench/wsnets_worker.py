"""One side of `nf bench wsnets` in a process of its own: builds its training step, then makes one whenever it is told.

Started as `python -m apps.bench.wsnets_worker JSON`. Writes a line of JSON when it is ready, one for every line that
it reads, and a last one with its peak memory when its input ends; or, asked to count, the operations of a field.
"""

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields.batch import FieldBatch

# Model: module of apps.bench.peers, name of the repository's folder.
PUBLIC = {
    "dws": ("dws", "DWSNets"),
    "nfn_np": ("nfn", "nfn"),
    "nfn_hnp": ("nfn", "nfn"),
    "ng_gnn": ("neural_graph", "neural-graphs"),
    "ng_t": ("neural_graph", "neural-graphs"),
    "scale_gmn": ("scale_gmn", "scalegmn"),
    "scale_gmn_b": ("scale_gmn", "scalegmn"),
}
_AMSGRAD = ("dws", "ng_gnn", "ng_t")  # published with this form of AdamW
_COUNTED = 8  # fields, for the count of operations


def main(request: dict) -> None:
    """Build the step that the request names and serve it."""
    import torch

    torch.set_num_threads(request["threads"])
    if request["public"]:
        sys.path.insert(0, str(Path(request["public"]) / PUBLIC[request["model"]][1]))
    why = missing(request)
    if why is not None:
        print(json.dumps({"missing": why}), flush=True)
        return
    make = public if request["public"] else ours
    if request["count"]:  # in a process of its own, whose memory does not count
        torch.set_num_threads(1)  # operations of other threads would not be counted
        flop = counted(make(request["model"], *problem(_COUNTED))) / _COUNTED
        print(json.dumps({"gflop_per_sample": flop / 1e9}), flush=True)
        return
    once = make(request["model"], *problem(request["batch"]))
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        loss = once()
        print(json.dumps({"seconds": time.perf_counter() - started, "loss": loss}), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": peak}), flush=True)


def missing(request: dict) -> str | None:
    """Why this side cannot run, or None."""
    if not request["public"]:
        return None
    if request["model"] not in PUBLIC:
        return "no public code to compare with"
    return importlib.import_module(f"apps.bench.peers.{PUBLIC[request['model']][0]}").missing()


def problem(count: int) -> tuple["FieldBatch", "Tensor"]:
    """Sine fields 2-32-32-1 as they start (generic values suffice for timing) and labels of ten classes."""
    import numpy as np
    import torch

    from neuralfields import SIREN
    from neuralfields.inits import draw

    return draw(SIREN(2, 1), np.arange(count, dtype=np.uint32)), torch.arange(count) % 10


def ours(name: str, fields: "FieldBatch", labels: "Tensor") -> Callable[[], float]:
    """Our step on the published settings: forward, cross-entropy, backward by pieces, clip, AdamW."""
    import torch
    from torch import nn

    from neuralfields.optimizers import AdamW, clip_gradients
    from wsnets import models
    from wsnets.features import Normaliser, weight_features
    from wsnets.lanes import Lanes, most

    settings, draws = models.kind(name)(), torch.Generator().manual_seed(0)
    model = models.build_reader(settings, fields.spec, 10, draws).train()
    options = {"lr": 1e-3, "weight_decay": 5e-4, "amsgrad": name in _AMSGRAD}
    optimizer = AdamW(model.parameters(), **options, fused=True)
    learned = list(model.parameters())
    mode = "per_layer" if settings.normalise == "per_weight" else settings.normalise
    normaliser, count = Normaliser.fit(mode, [fields]), len(fields)
    at_once = settings.fields_at_once or count
    lanes = Lanes(most(-(-count // at_once), learned))

    def loss(start: int) -> "Tensor":
        part = fields[start : start + at_once]
        logits = model(normaliser(weight_features(part)), torch.Generator().manual_seed(start))
        return nn.functional.cross_entropy(logits, labels[start : start + at_once]) * (len(part) / count)

    def once() -> float:
        optimizer.zero_grad(set_to_none=True)
        with lanes.divided():
            total = lanes.add_gradients(learned, (partial(loss, start) for start in range(0, count, at_once)))
            clip_gradients(learned, 10.0)
            optimizer.step()
        return total.item()

    return once


def public(name: str, fields: "FieldBatch", labels: "Tensor") -> Callable[[], float]:
    """The step of the public code."""
    peer = importlib.import_module(f"apps.bench.peers.{PUBLIC[name][0]}")
    return peer.step(fields, labels, name)


def counted(once: Callable[[], float]) -> int:
    """Floating-point operations of matrix products and attention in one step."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        once()
    return counter.get_total_flops()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
