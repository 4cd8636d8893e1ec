"""Files built by hand the way the public projects write them give the picture that those projects would draw."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neuralfields as nf
from neuralfields import interop

SIZE = 12


class SineLayer(nn.Module):
    """A sine layer whose map is either its own (DWSNets) or an inner nn.Linear (NFN)."""

    def __init__(self, inputs: int, outputs: int, inner: bool):
        super().__init__()
        linear = nn.Linear(inputs, outputs)
        if inner:
            self.linear = linear
        else:
            self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        own = self.linear if hasattr(self, "linear") else self
        return torch.sin(30.0 * nn.functional.linear(x, own.weight, own.bias))


class ForeignField(nn.Module):
    """Two sine layers and a linear one, under the attribute name that the project uses."""

    def __init__(self, name: str, inner: bool, outputs: int):
        super().__init__()
        layers = [SineLayer(2, 16, inner), SineLayer(16, 16, inner), nn.Linear(16, outputs)]
        setattr(self, name, nn.Sequential(*layers))
        self.name = name

    def forward(self, coords: Tensor) -> Tensor:
        return getattr(self, self.name)(coords)


def grid_points(indexing: str) -> Tensor:
    """Corner-aligned pixel coordinates (SIZE * SIZE, 2), rows first; "xy" puts the column in coordinate 0."""
    line = np.linspace(-1, 1, SIZE)
    first, second = np.meshgrid(line, line, indexing=indexing)
    return torch.from_numpy(np.stack([first.ravel(), second.ravel()], axis=1)).float()


def make_foreign(name: str, inner: bool, outputs: int, count: int, seed: int) -> list[ForeignField]:
    generator = torch.Generator().manual_seed(seed)
    nets = [ForeignField(name, inner, outputs) for _ in range(count)]
    for parameter in (parameter for net in nets for parameter in net.parameters()):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return nets


def pictures(nets: list[ForeignField], indexing: str) -> Tensor:
    with torch.no_grad():
        return torch.stack([net(grid_points(indexing)).view(SIZE, SIZE, -1) for net in nets])


def rendered(imported: interop.Imported) -> Tensor:
    return nf.render.image(imported.fields, (SIZE, SIZE), clip=False)


@pytest.mark.parametrize("with_json", [True, False])
def test_dwsnets(tmp_path: Path, with_json: bool):
    nets = make_foreign("seq", inner=False, outputs=1, count=4, seed=0)
    folders = [f"mnist_png_{kind}_{i}" for i, kind in enumerate(["training_7", "training_0", "testing_3", "testing_3"])]
    paths = [f"dataset/inrs/{folder}/checkpoints/2023_01_0{i}.pth" for i, folder in enumerate(folders)]
    for net, path in zip(nets, paths, strict=True):
        (tmp_path / path).parent.mkdir(parents=True)
        torch.save(net.state_dict(), tmp_path / path)
    inrs = tmp_path / "dataset" / "inrs"
    order = [0, 1, 2, 3]
    if with_json:
        order = [1, 0, 3, 2]
        part = {"train": [1], "val": [0], "test": [3, 2]}
        label = ["7", "0", "3", "3"]
        splits = {
            s: {"path": [f"/home/x/{paths[i]}" for i in p], "label": [label[i] for i in p]} for s, p in part.items()
        }
        (inrs / "mnist_splits.json").write_text(json.dumps(splits))
    else:
        order = sorted(order, key=lambda i: folders[i])
    imported = interop.load(
        inrs, "dwsnets", activation="sine", w0=30.0, scale=1.0, offset=0.5, grid="corners", axes="xy", shape=(28, 28)
    )
    torch.testing.assert_close(rendered(imported), pictures(nets, "xy")[order] + 0.5, atol=1e-5, rtol=1e-5)
    assert list(imported.rows["label"]) == [[7, 0, 3, 3][i] for i in order]
    if with_json:
        assert imported.rows["split"] == ["train", "val", "test", "test"]
        assert list(imported.rows["id"]) == [0, 2**31, 2**30, 2**30 + 1]
    else:
        assert imported.rows["split"] == [["train", "train", "test", "test"][i] for i in order]
    assert imported.meta["signal"]["shape"] == [28, 28]


def test_dwsnets_reads_bare_lists_of_paths_without_labels(tmp_path: Path):
    nets = make_foreign("seq", inner=False, outputs=1, count=2, seed=3)
    for i, net in enumerate(nets):
        torch.save(net.state_dict(), tmp_path / f"wave_{i}.pth")
    (tmp_path / "ssl_splits.json").write_text(json.dumps({"train": ["wave_1.pth"], "test": ["wave_0.pth"]}))
    flags = {"activation": "sine", "w0": 30.0, "scale": 1.0, "offset": 0.5, "grid": "corners", "axes": "xy"}
    imported = interop.load(tmp_path, "dwsnets", **flags)
    assert list(imported.rows["label"]) == [-1, -1]
    torch.testing.assert_close(rendered(imported), pictures(nets, "xy")[[1, 0]] + 0.5, atol=1e-5, rtol=1e-5)


def test_nfn(tmp_path: Path):
    nets = make_foreign("net", inner=True, outputs=3, count=5, seed=1)
    labels = [4, 4, 0, 9, 1]
    for i, (net, label) in enumerate(zip(nets, labels, strict=True)):
        path = tmp_path / f"randinit_smaller_{label}s" / f"net{i}.pth"
        path.parent.mkdir(exist_ok=True)
        torch.save(net.state_dict(), path)
    # an extra fit of the same picture has the same number and must not take its place
    extra = tmp_path / "randinit_smaller_aug0_4s" / "net0.pth"
    extra.parent.mkdir()
    torch.save(nets[1].state_dict(), extra)
    flags = {"activation": "sine", "w0": 30.0, "scale": 0.5, "offset": 0.5, "grid": "corners", "axes": "ij"}
    imported = interop.load(tmp_path, "nfn", split_points=(3, 4), **flags)
    torch.testing.assert_close(rendered(imported), 0.5 * pictures(nets, "ij") + 0.5, atol=1e-5, rtol=1e-5)
    assert list(imported.rows["label"]) == labels
    assert imported.rows["split"] == ["train", "train", "train", "val", "test"]
    assert imported.rows["name"][3] == "randinit_smaller_9s/net3.pth"
    extras = interop.load(tmp_path, "nfn", prefix="randinit_smaller_aug0", **flags)
    assert torch.equal(extras.fields.flat()[0], imported.fields.flat()[1])


def write_flax(path: Path, layers: list[tuple[str, np.ndarray, np.ndarray]], labels: np.ndarray, order: str) -> None:
    """Write layers (name, kernel (n, in, out), bias (n, out)) as flat parameters, the bias of each layer first."""
    h5py = pytest.importorskip("h5py")
    entries = []
    for name, kernel, bias in layers:
        pair = [(f"{name}.bias", bias), (f"{name}.kernel", kernel)]
        entries += pair if order == "bias first" else pair[::-1]
    with h5py.File(path, "w") as file:
        file["params"] = np.concatenate([value.reshape(len(value), -1) for _, value in entries], axis=1)
        text = json.dumps([[key, value.shape[1:]] for key, value in entries])
        file.create_dataset("param_config", (1,), dtype=h5py.string_dtype())[0] = text
        file["labels"] = labels


def flax_layers(names: list[str], dims: list[int], count: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    layers = []
    for name, inputs, outputs in zip(names, dims[:-1], dims[1:], strict=True):
        kernel = rng.normal(0, 0.3, (count, inputs, outputs)).astype(np.float32)
        layers.append((name, kernel, rng.normal(0, 0.1, (count, outputs)).astype(np.float32)))
    return layers


@pytest.mark.parametrize("order", ["bias first", "kernel first"])
@pytest.mark.parametrize("model", ["SIREN", "MLP"])
def test_fit_a_nef(tmp_path: Path, model: str, order: str):
    names = {
        "SIREN": ["kernel_net_0.linear", "kernel_net_1.linear", "output_linear"],
        "MLP": ["Dense_0", "Dense_1", "Dense_2"],
    }
    layers = flax_layers(names[model], [2, 8, 8, 3], count=5)
    for start, end in ((0, 2), (2, 5)):
        part = [(name, kernel[start:end], bias[start:end]) for name, kernel, bias in layers]
        labels = np.arange(start, end) if start == 0 else np.arange(start, end).reshape(-1, 1)
        write_flax(tmp_path / f"nefs_{start}-{end}.hdf5", part, labels, order)
    params = {"hidden_dim": 8, "num_layers": 3 if model == "SIREN" else 2, "output_dim": 3}
    params |= {"omega_0": 8.0} if model == "SIREN" else {}
    (tmp_path / "nef.json").write_text(json.dumps({"name": model, "params": params}))
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    imported = interop.load(tmp_path, "fit-a-nef", scale=std, offset=mean, grid="corners", axes="xy")
    h = grid_points("xy").numpy()[None].astype(np.float64)
    for name, kernel, bias in layers:
        h = h @ kernel + bias[:, None]
        if name != layers[-1][0]:
            h = np.sin(8.0 * h) if model == "SIREN" else np.maximum(h, 0)
    expected = torch.from_numpy(h * std + np.array(mean)).float().view(5, SIZE, SIZE, 3)
    torch.testing.assert_close(rendered(imported), expected, atol=1e-5, rtol=1e-5)
    assert list(imported.rows["label"]) == [0, 1, 2, 3, 4]
    assert imported.rows["split"] == [None] * 5


def test_a_parameter_state_dict_is_named_tensors_in_order(tmp_path: Path):
    # NFN's own reader goes by the order of the keys; any names do
    state = OrderedDict(
        a_weight=torch.ones(4, 2), a_bias=torch.zeros(4), z_weight=torch.ones(1, 4), z_bias=torch.zeros(1)
    )
    (tmp_path / "randinit_smaller_0s").mkdir()
    torch.save(state, tmp_path / "randinit_smaller_0s" / "net0.pth")
    imported = interop.load(tmp_path, "nfn", activation="relu", scale=0.5, offset=0.5, grid="corners", axes="ij")
    assert imported.fields.spec.dims == (2, 4, 1)
