"""PictureNet: it learns, is the same every time, and comes back from its folder as it was."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from wsnets.picture_features import PictureNet, PictureNetConfig, load, moved, train

SHAPE = (1, 8, 6)
CONFIG = PictureNetConfig(epochs=2, batch=20, width=4, features=8, device="cpu")
ABOUT = {"kind": "stripes"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers as small as these only lose time by being shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(count: int = 120, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Noise with a bright row or a bright column: two classes."""
    draws = torch.Generator().manual_seed(seed)
    labels = np.arange(count) % 2
    values = 0.4 * torch.rand(count, *SHAPE, generator=draws)
    places = torch.randint(6, (count,), generator=draws)
    for number, place in enumerate(places.tolist()):
        part = values[number, 0]
        (part[place] if labels[number] else part[:, place]).add_(0.5)
    return values, labels


def trained(folder: Path, config: PictureNetConfig = CONFIG) -> tuple[PictureNet, float]:
    values, labels = pictures()
    return train(lambda rows: values[rows], labels, SHAPE, folder, ABOUT, config)


def test_it_learns_and_reads(tmp_path: Path) -> None:
    net, accuracy = trained(tmp_path, PictureNetConfig(epochs=10, batch=10, width=8, features=16, device="cpu"))
    values, labels = pictures(seed=1)
    features, classes = net.read(values)
    assert accuracy > 0.9
    assert (classes.numpy() == labels).mean() > 0.9
    assert features.shape == (120, 16)
    assert (features >= 0).all()


def test_the_same_seed_gives_the_same_network(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    (first, one), (second, two) = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert one == two
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is not used


def test_the_folder_gives_it_back_without_a_picture(tmp_path: Path) -> None:
    net, accuracy = trained(tmp_path)

    def none(rows: np.ndarray) -> torch.Tensor:
        raise AssertionError("pictures were drawn although the network is there")

    again, same = train(none, pictures()[1], SHAPE, tmp_path, ABOUT, CONFIG)
    assert same == accuracy
    values = pictures(seed=2)[0]
    assert torch.equal(again.read(values)[0], net.read(values)[0])
    assert not again.training


def test_a_batch_is_its_singles(tmp_path: Path) -> None:
    net, _ = trained(tmp_path)
    values = pictures(seed=3)[0][:5]
    singles = torch.cat([net.read(one[None])[0] for one in values])
    torch.testing.assert_close(net.read(values)[0], singles, rtol=1e-5, atol=1e-6)


def test_moved_pictures_keep_their_colours(generator: torch.Generator) -> None:
    values = pictures()[0][:3]
    seen = set()
    for _ in range(40):
        there = moved(values, 1, generator)
        assert there.shape == values.shape
        seen.add(tuple(there[0, 0, 3:5, 2:4].flatten().tolist()))
    assert len(seen) == 9
    assert moved(values, 0, generator) is values


def test_other_pictures_or_settings_are_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    values, labels = pictures()
    with pytest.raises(ValueError, match="other trained_on"):
        train(lambda rows: values[rows], labels, SHAPE, tmp_path, {"kind": "dots"}, CONFIG)
    with pytest.raises(ValueError, match="other config"):
        train(lambda rows: values[rows], labels, SHAPE, tmp_path, ABOUT, PictureNetConfig())
    with pytest.raises(FileNotFoundError, match="no finished network"):
        load(tmp_path / "absent")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    values, labels = pictures()
    for wrong, said in (
        (labels * 0, "at least two classes"),
        (labels[:2], "at least 4"),
        (labels - 1, "from -1 to 0"),
        (labels * 20_000, "label 20000 is too large"),
    ):
        with pytest.raises(ValueError, match=said):
            train(lambda rows: values[rows], wrong, SHAPE, tmp_path, ABOUT, CONFIG)
    net = trained(tmp_path)[0]
    with pytest.raises(ValueError, match=r"pictures has shape \(2, 3, 8, 6\)"):
        net.read(torch.zeros(2, 3, 8, 6))
    for change, said in (({"width": 0}, "width=0"), ({"held_out": 1.0}, "held_out=1.0"), ({"shift": -1}, "shift=-1")):
        with pytest.raises(ValueError, match=said):
            PictureNetConfig(**change)
    with pytest.raises(ValueError, match=r"unknown keys \['depth'\]"):
        PictureNetConfig.from_json({"depth": 3})


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 20), (1, 5, 3), (2, 1, 64)])
def test_any_size_of_pictures(shape: tuple[int, int, int], generator: torch.Generator) -> None:
    net = PictureNet(shape, 3, CONFIG, generator)
    assert net(torch.rand(2, *shape, generator=generator)).shape == (2, 3)
