"""The public NFN code as the other side of a benchmark: its MNIST classifiers, by its own settings files.

Needs the repository AllanYangZhou/nfn on PYTHONPATH, with its folder experiments/perceiver-pytorch, and einops.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from apps.bench.peers import training_step
from neuralfields.batch import FieldBatch

# Of classify_siren_configs: nfnet/inv_ff_io_mnist.yaml (NP) and inv_ff_mnist.yaml (HNP), opt/adam.yaml.
_FREQUENCIES, _SCALE, _P_DROPOUT, _CHANNELS, _OUTPUTS, _RATE = 128, 3, 0.1, (512, 512, 512), 10, 1e-4
_MAX_FREQUENCY, _BANDS = 3, 3


def missing() -> str | None:
    """Why the public code cannot be imported, in one line; None if it can."""
    for name in ("einops", "perceiver_pytorch", "nfn"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not on PYTHONPATH (AllanYangZhou/nfn and its experiments/perceiver-pytorch)"
    if importlib.util.find_spec("experiments") is None:
        return "no checkout of AllanYangZhou/nfn on PYTHONPATH (the package alone lacks its experiments)"
    return None


def step(fields: FieldBatch, labels: Tensor, name: str = "nfn_np") -> Callable[[], float]:
    """Build the published MNIST classifier and its optimizer; each call is one training step and returns its loss.

    name: "nfn_np", with sinusoidal encodings of inputs and outputs, or "nfn_hnp". Gradients are not clipped, as there.
    """
    features = wsfeatures(fields)
    model = build(features, name)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    return training_step(model, lambda: model(features), labels, optimizer)


def wsfeatures(fields: FieldBatch):
    """Fields as the public code takes them, one channel in front."""
    common = importlib.import_module("nfn.common")
    return common.WeightSpaceFeatures([w.unsqueeze(1) for w in fields.weights], [b.unsqueeze(1) for b in fields.biases])


def build(features, name: str) -> nn.Module:
    """The public classifier for such fields. Raises ValueError for an unknown name."""
    modes = {"nfn_np": "NP", "nfn_hnp": "HNP"}
    if name not in modes:
        raise ValueError(f"name={name!r}: expected one of {', '.join(modes)}")
    layers, common = importlib.import_module("nfn.layers"), importlib.import_module("nfn.common")
    models = importlib.import_module("experiments.models")
    encoded = partial(layers.IOSinusoidalEncoding, max_freq=_MAX_FREQUENCY, num_bands=_BANDS, enc_layers=False)
    return models.InvariantNFN(
        common.network_spec_from_wsfeat(features, set_all_dims=True),
        list(_CHANNELS),
        partial(models.MlpHead, num_out=_OUTPUTS, dropout=_P_DROPOUT),
        mode=modes[name],
        feature_dropout=_P_DROPOUT,
        inp_enc_cls=partial(layers.GaussianFourierFeatureTransform, mapping_size=_FREQUENCIES, scale=_SCALE),
        pos_enc_cls=encoded if name == "nfn_np" else None,
    )
