"""Torch's optimizers without torch's compiler, which they import only to be left out by it: 90 MB and two seconds."""

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class _Plain(Optimizer):
    """Methods of an optimizer as they are, not wrapped for the compiler."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    zero_grad = inspect.unwrap(Optimizer.zero_grad)


class Adam(_Plain, torch.optim.Adam):
    """As torch.optim.Adam. Kingma and Ba, "Adam", ICLR 2015."""


class AdamW(_Plain, torch.optim.AdamW):
    """As torch.optim.AdamW. Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019."""


def clip_gradients(parameters: Iterable[Tensor], most: float) -> None:
    """As torch's clip_grad_norm_, but gradients on a CPU whose norm is at most `most` are not multiplied by one."""
    learned = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in learned if p.grad is not None])
    if norm.is_cuda or not bool(norm <= most):
        nn.utils.clip_grads_with_norm_(learned, most, norm)
