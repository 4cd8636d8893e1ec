"""Pieces of a batch on several threads: the gradients of one thread, and nothing left behind."""

import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neuralfields import optimizers
from wsnets import models
from wsnets.features import weight_features
from wsnets.lanes import Lanes, most
from wsnets.train import ClassifyConfig, classify


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(*reversed(weight.shape), bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


@pytest.mark.parametrize("name", ["gmn", "ng_gnn", "ng_t", "nfn_np", "nft", "scale_gmn", "scale_gmn_b", "orbit"])
def test_gradients_are_bit_for_bit_those_of_one_lane(name: str, population) -> None:
    fields = population.fields[0:24]
    model = models.build_reader(models.sized(name, "small"), fields.spec, 3, torch.Generator().manual_seed(0)).train()
    parameters = list(model.parameters())

    def loss(start: int) -> Tensor:
        draws = torch.Generator().manual_seed(start)  # of dropout
        return model(weight_features(fields[start : start + 5]), draws).square().sum()

    found = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        model.zero_grad()
        with Lanes(number) as lanes, lanes.divided():
            total = lanes.add_gradients(parameters, (partial(loss, start) for start in range(0, 24, 5)))
        found.append((total, [None if p.grad is None else p.grad.clone() for p in parameters]))
    (total, gradients), *others = found
    assert any(gradient is not None and gradient.any() for gradient in gradients)
    for other_total, other in others:
        assert torch.equal(other_total, total)
        for mine, its in zip(gradients, other, strict=True):
            assert (mine is None and its is None) or torch.equal(mine, its)


@pytest.mark.parametrize("name", ["gmn", "ng_t"])
def test_a_training_ends_with_the_same_weights_on_any_number_of_threads(name, population, tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        settings = ClassifyConfig(model=models.sized(name, "small"), epochs=2, batch=48, noise=0.1, lr=1e-3)
        found.append(classify(population, settings, tmp_path / str(number)).model.state_dict())
        assert torch.get_num_threads() == number
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_each_lane_has_its_share_of_the_threads_while_it_works() -> None:
    torch.set_num_threads(4)
    weight = torch.ones((), requires_grad=True)
    seen, begun = {}, threading.Barrier(2)

    def loss() -> Tensor:
        begun.wait(30)  # both are at work at once
        seen[threading.current_thread().name] = torch.get_num_threads()
        return weight * 3.0

    with Lanes(2) as lanes, lanes.divided():
        total = lanes.add_gradients([weight], [loss] * 4)
    assert sorted(seen.items()) == [("lane_0", 2), ("lane_1", 2)]
    assert (total.item(), torch.get_num_threads()) == (12.0, 4)
    assert weight.grad is not None
    assert weight.grad.item() == 12.0


@pytest.mark.parametrize("number", [1, 2])
def test_what_a_piece_raises_is_raised_and_nothing_is_left_behind(number: int) -> None:
    torch.set_num_threads(2)
    weight, interval = torch.ones((), requires_grad=True), sys.getswitchinterval()

    def broken() -> Tensor:
        raise ValueError("NaN in a field")

    with pytest.raises(ValueError, match="NaN in a field"), Lanes(number) as lanes, lanes.divided():
        lanes.add_gradients([weight], [lambda: weight * 2.0, broken, lambda: weight * 2.0])
    assert (torch.get_num_threads(), sys.getswitchinterval()) == (2, interval)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


def test_gradients_step_a_parameter_of_any_memory_layout_alike() -> None:
    torch.set_num_threads(2)
    values, stepped = torch.arange(6.0).view(3, 2), []
    for weight in (values.T.clone(), values.T.contiguous()):
        layer = linear(weight)
        optimizer = optimizers.AdamW(layer.parameters(), lr=0.1, fused=True)
        with Lanes(2) as lanes:
            losses = [lambda scale=scale, layer=layer: (layer.weight.T * values * scale).sum() for scale in (1.0, 2.0)]
            lanes.add_gradients([layer.weight], losses)
        optimizer.step()
        stepped.append(layer.weight.detach())
    assert torch.equal(*stepped)


def test_a_parameter_without_a_part_in_the_loss_has_no_gradient() -> None:
    torch.set_num_threads(2)
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with Lanes(2) as lanes:
        lanes.add_gradients([used, unused], [lambda: used.sum(), lambda: 2.0 * used.sum()])
    assert used.grad is not None
    assert used.grad.tolist() == [3.0, 3.0]
    assert unused.grad is None


def test_there_are_as_many_lanes_as_there_is_work_for() -> None:
    small, large = [torch.zeros(10)], [torch.zeros(5_000, 1_000)]
    torch.set_num_threads(3)
    assert [most(pieces, small) for pieces in (1, 2, 3, 9)] == [1, 2, 3, 3]
    assert most(9, large) == 1
    assert most(9, [torch.zeros(10, device="meta")]) == 1  # any device that is no processor
    torch.set_num_threads(1)
    assert most(9, small) == 1
    torch.set_num_threads(64)
    assert most(9, small) == 4
