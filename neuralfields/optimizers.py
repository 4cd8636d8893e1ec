"""Torch's optimizers without torch's compiler, which they import only to be left out by it: 90 MB and two seconds."""

import inspect

import torch
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
