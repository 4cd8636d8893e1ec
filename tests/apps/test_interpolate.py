"""nf interpolate: the path, what is drawn of it, and how far it leaves the mixture of its ends."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs

from apps.interpolate import Interpolate, along
from neuralfields import FieldBatch, ReLUField, symmetry
from neuralfields.render import image
from neuralfields.store import open_store, save
from wsnets import models
from wsnets.features import Normaliser
from wsnets.latents import Embedding, build_autoencoder


def test_a_row_of_pictures(nf, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "path.png"
    done = nf("interpolate", store, "--fields", 3, 8, "--frames", 5, "--size", 20, 30, "--out", out, "--json")
    assert done.code == 0, done.err
    figures = done.figures
    assert figures["positions"] == [3, 8]
    assert figures["shares"] == [0, 0.25, 0.5, 0.75, 1]
    assert figures["mse"][0] == figures["mse"][-1] == 0
    assert figures["largest_mse"] == max(figures["mse"]) == figures["mse"][round(4 * figures["largest_at"])]
    page = iio.imread(out)
    first = image(open_store(store)[3], (20, 30))[0].mul(255).round().byte().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(page[..., 0], (20, 30))
    assert (windows == first[..., 0]).all(axis=(2, 3)).any()


def test_departure_by_hand(nf, store: Path, tmp_path: Path) -> None:
    done = nf("interpolate", store, "--fields", 0, 1, "--frames", 3, "--out", tmp_path / "p.png", "--json")
    ends = open_store(store)[:2]
    middle = FieldBatch.from_flat(ends.spec, ends.flat().mean(0, keepdim=True))
    values, (a, b) = image(middle, (6, 5))[0], image(ends, (6, 5))
    assert done.figures["mse"][1] == pytest.approx(float((values - (a + b) / 2).square().mean()), rel=1e-5)


def test_aligned_undoes_symmetries(store: Path, generator: torch.Generator) -> None:
    one = open_store(store)[0]
    moved = symmetry.act(symmetry.sample(one.spec, 1, generator), one)
    options = Interpolate(store="", out="", fields=(0, 1), through="aligned")
    path = along(FieldBatch.cat([one, moved]), np.linspace(0, 1, 5), options)
    torch.testing.assert_close(path.flat(), one.flat().expand(5, -1), atol=1e-4, rtol=0)


def test_films(nf, store: Path, tmp_path: Path) -> None:
    words = ["interpolate", store, "--fields", 0, 1, "--frames", 4, "--size", 24, 20, "--out"]
    for name in ("path.gif", "path.mp4"):
        done = nf(*words, tmp_path / name)
        assert done.code == 0, done.err
    assert iio.imread(tmp_path / "path.gif").shape == (4, 24, 20, 3)
    assert count_frames_and_secs(str(tmp_path / "path.mp4"))[0] == 4


@pytest.fixture
def solids(tmp_path: Path) -> Path:
    """A store of two octahedra, a small and a large one."""
    signs = torch.cat([torch.eye(3), -torch.eye(3)]).expand(2, 6, 3).clone()
    biases = [torch.zeros(2, 6), -torch.tensor([[0.2], [0.8]])]
    fields = FieldBatch.from_layers(ReLUField(3, 1, hidden=(6,)), [signs, torch.ones(2, 1, 6)], biases)
    meta = {"signal": {"kind": "shape", "level": 0.0, "inside": "below"}}
    save(tmp_path / "shapes", fields, {"id": np.arange(2), "label": np.zeros(2, int)}, meta)
    return tmp_path / "shapes"


def test_shapes_share_one_camera(nf, solids: Path, tmp_path: Path) -> None:
    words = ["interpolate", solids, "--fields", 0, 1, "--frames", 3, "--resolution", 16]
    done = nf(*words, "--size", 48, 48, "--out", tmp_path / "path.gif", "--json")
    assert done.code == 0, done.err
    assert done.figures["mse"] == pytest.approx([0, 0, 0], abs=1e-12)  # only the bias of the last layer differs
    frames = iio.imread(tmp_path / "path.gif").astype(int)
    covered = [int((abs(frame - frame[0, 0]).sum(-1) > 30).sum()) for frame in frames]
    assert covered[0] < covered[1] < covered[2]
    nf(*words, "--level", -50, "--out", tmp_path / "none.png").assert_refused("level=-50", "none of the 3")


def test_bad_requests_are_one_line(nf, store: Path, tmp_path: Path) -> None:
    words = ["interpolate", store, "--fields", 0, 1, "--out"]
    nf(*words, tmp_path / "x.tiff").assert_refused(".png")
    nf(*words, tmp_path / "x.png", "--frames", 1).assert_refused("frames=1")
    nf(*words, tmp_path / "x.png", "--through", "latent").assert_refused("through='latent'", "--network")
    nf(*words, tmp_path / "x.png", "--network", "n").assert_refused("network='n'", "--through latent")
    nf(*words, tmp_path / "x.png", "--through", "latent", "--network", tmp_path / "absent").assert_refused("absent")
    nf("interpolate", store, "--fields", 0, 99, "--out", tmp_path / "x.png").assert_refused("31")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("kind", "name", "words", "said"),
    [
        ("pictures", "x.png", ("--level", 3), "level=3.0: expected only for shapes; these are pictures"),
        (
            "pictures",
            "x.gif",
            ("--resolution", 0),
            "resolution=0: expected only for shapes; these are films of pictures",
        ),
        ("pictures", "x.png", ("--fps", 3), "fps=3.0: expected only for films; these are pictures"),
        ("shapes", "x.png", ("--fps", 3), "fps=3.0: expected only for films; these are shapes"),
    ],
)
def test_what_would_be_ignored_is_refused(
    kind: str, name: str, words: tuple, said: str, nf, store: Path, solids: Path, tmp_path: Path
) -> None:
    path = {"pictures": store, "shapes": solids}[kind]
    nf("interpolate", path, "--fields", 0, 1, "--out", tmp_path / name, *words).assert_refused(said)
    assert not (tmp_path / name).exists()


def test_fields_that_are_not_finite_are_named(nf, store: Path, tmp_path: Path) -> None:
    kept = open_store(store)
    fields = kept[[4, 9]]
    fields.weights[0][1, 0, 0] = float("nan")
    save(tmp_path / "nan", fields, {"id": kept.ids[[4, 9]]}, kept.meta)
    words = ("interpolate", tmp_path / "nan", "--fields", 0, 1, "--out", tmp_path / "x.png")
    nf(*words).assert_refused("field id 9", "NaN or infinite")
    assert not (tmp_path / "x.png").exists()


def test_a_path_through_latents(nf, store: Path, tmp_path: Path, generator: torch.Generator) -> None:
    fields = open_store(store)
    settings = models.kind("inr2vec").small()
    model = build_autoencoder(settings, fields.spec, generator)
    normaliser = Normaliser.fit(settings.normalise, [fields[:]])
    network = Embedding(spec=fields.spec, settings=settings, model=model, normaliser=normaliser)
    network.save(tmp_path / "embedding")
    options = Interpolate(store="", out="", fields=(0, 1), through="latent", network=str(tmp_path / "embedding"))
    path = along(fields[:2], np.array([0.0, 0.5, 1.0]), options)
    latents = network.encode(fields[:2])
    expected = network.decode(torch.stack([latents[0], latents.mean(0), latents[1]]))
    torch.testing.assert_close(path.flat(), expected.flat())
    words = ["interpolate", store, "--fields", 0, 1, "--through", "latent", "--network", tmp_path / "embedding"]
    done = nf(*words, "--frames", 3, "--out", tmp_path / "path.png", "--json")
    assert done.code == 0, done.err
    assert done.figures["mse"][0] > 0  # the ends are decoded too
