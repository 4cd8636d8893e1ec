"""How exact a kernel is, beside torch in the same precision."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_FLOOR = 4 * torch.finfo(torch.float32).eps  # where torch has almost no error


def error(x: Tensor, exact: Tensor) -> Tensor:
    """Relative error in the Frobenius norm."""
    return (x.double() - exact).norm() / exact.norm().clamp_min(1e-30)


def assert_as_exact(ours: list[Tensor], theirs: list[Tensor], exact: list[Tensor]) -> None:
    """Error against float64 at most twice torch's in float32, or a few roundings."""
    assert_all_as_exact([(ours, theirs, exact)])


def assert_all_as_exact(draws: Iterable[tuple[list[Tensor], list[Tensor], list[Tensor]]]) -> None:
    """The same of errors added up over several draws, each ours, torch's and exact: one alone may be lucky."""
    found = [(_errors(ours, exact), _errors(theirs, exact)) for ours, theirs, exact in draws]
    mine, torchs = (torch.stack(errors).sum(0) for errors in zip(*found, strict=True))
    assert bool((mine <= 2 * torchs + _FLOOR).all()), f"ours {mine.tolist()}, torch {torchs.tolist()}"


def _errors(found: list[Tensor], exact: list[Tensor]) -> Tensor:
    assert [x.shape for x in found] == [x.shape for x in exact]
    return torch.stack([error(x, right) for x, right in zip(found, exact, strict=True)])


def assert_same_gradients(native: nn.Module, exact: nn.Module) -> None:
    """Gradients of all parameters in float32 and in float64, by a thousandth of each."""
    for (name, ours), theirs in zip(native.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        # A bias before a normalisation has no gradient: what is left there is rounding.
        off = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm().clamp_min(1e-3)
        assert off < 1e-3, (name, off)
