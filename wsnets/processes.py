"""Several processes that train one model: started by torchrun, joined by torch.distributed, or just this one."""

import atexit
import os
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is; `lead` writes the files and speaks."""

    rank: int = 0
    world: int = 1

    @property
    def lead(self) -> bool:
        """Whether this is the process that validates, writes and prints."""
        return self.rank == 0

    def sum_gradients(self, model: nn.Module, loss: Tensor) -> Tensor:
        """Add gradients and loss of all processes, in one transfer; return the sum of the losses.

        Raises ConnectionError when another process has ended.
        """
        if self.world == 1:
            return loss
        parameters = [p for p in model.parameters() if p.requires_grad]
        parts = [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters]
        together = torch.cat([*parts, loss.detach().reshape(1)])
        self._guarded(lambda: dist.all_reduce(together))
        *gradients, total = together.split([*(p.numel() for p in parameters), 1])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # Copied into place, because the fused optimizer needs gradients in the memory layout of their parameters.
            parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(gradient.view_as(parameter))
        return total[0]

    def agree(self, value: Value) -> Value:
        """The lead's value, in every process. Raises ConnectionError when another process has ended."""
        if self.world == 1:
            return value
        box = [value]
        self._guarded(lambda: dist.broadcast_object_list(box))
        return box[0]

    def _guarded(self, transfer) -> None:
        try:
            transfer()
        except RuntimeError as error:
            # torch's message: "[file and line] what happened. Advice"
            reason = str(error).splitlines()[0].split("] ")[-1].split(". ")[0]
            raise ConnectionError(
                f"process {self.rank} of {self.world} lost another one ({reason}); "
                "start the run again, it goes on from its last checkpoint"
            ) from error


def join(device: str = "auto") -> Processes:
    """Join the processes that torchrun started, by RANK and WORLD_SIZE, until this one ends; one alone otherwise.

    device: as in LoopConfig; unless it is "cpu", each process takes the GPU of its number on this machine, where there
    are any. Raises ValueError where there are fewer than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Processes()
    if not dist.is_initialized():
        gpus, here = 0 if device == "cpu" else torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if 0 < gpus < here:
            raise ValueError(f"device={device!r}: expected cpu, or a GPU for each of {here} processes; {gpus} found")
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
        atexit.register(leave)  # while Python runs: threads of the group release its tensors
        if gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return Processes(dist.get_rank(), world)


def leave() -> None:
    """Leave the group of processes, where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
