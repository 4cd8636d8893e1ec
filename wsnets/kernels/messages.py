"""Messages of a block of edges by the native kernel: made when they are needed, so that none takes memory.

Legend as in wsnets/models/neural_graph_messages.py: N fields, V nodes, T targets, S sources, C channels.
"""

import torch
from torch import Tensor

from wsnets.kernels.native import array

Layers = tuple[int, int]  # first node of the targets' layer, and of the sources'


def gather(
    modulation: Tensor, nodes: Tensor, statistics: Tensor, layers: Layers, is_first: bool, isa: str = ""
) -> None:
    """Write sum, least, largest and sum of squares of the messages into every target, or go on with them, in place.

    Shapes: modulation (N, T, S, 2 C): scale, shift; nodes (N, V, 2 C): a, b; statistics (N, V, 4, C); all contiguous. A
    message is scale (a_t + b_s) + shift. isa: forces an instruction set. Raises ValueError for shapes that do not fit.
    """
    from wsnets.kernels import _native

    given = map(array, (modulation, nodes, statistics))
    _native.aggregate(*given, *layers, is_first, torch.get_num_threads(), isa)


def gather_back(
    modulation: Tensor,
    nodes: Tensor,
    statistics: Tensor,
    gradient: Tensor,
    d_modulation: Tensor,
    d_nodes: Tensor,
    layers: Layers,
    isa: str = "",
) -> None:
    """Write d_modulation and add to d_nodes, from what a message hears of its target: offset + slope m, and all of an
    extreme's gradient where it is the extreme.

    gradient (N, V, 4, C): offset, the extremes' gradients, slope; the others as in `gather`.
    """
    from wsnets.kernels import _native

    given = (*map(array, (modulation, nodes, statistics)), *layers)
    _native.aggregate_back(*given, *map(array, (gradient, d_modulation, d_nodes)), torch.get_num_threads(), isa)
