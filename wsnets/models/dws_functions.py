"""The arithmetic of a DWS layer that autograd alone would do slowly: attention with tiny heads, and the matrix path.

Legend: N fields, T neurons of one hidden layer (the set), G heads of all targets, D channels of a head, J targets,
C channels, O rows and I columns of a middle weight matrix. Sets keep channels first, (channels, N, T): every head is
then a strided (D, T) slice of one GEMM's result, and the products with its (T, T) attention have a long last side.
Matrices keep channels last, (N, O, I, C). Both are worked through in pieces that stay in cache; attention and
activations are computed again in the backward pass instead of stored.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

# Entries of one piece: 2 MiB of float32.
_PIECE = 2**19
# 2^x of scores below this neither overflows when summed over a set nor loses the largest entry of any row.
_SAFE_EXPONENT = {torch.float32: 96.0, torch.float64: 960.0}


def pieces(count: int, size: int, reference: Tensor) -> Iterator[slice]:
    """Ranges of `count` items of `size` entries each that stay in cache; one range on a GPU."""
    step = count if reference.is_cuda else max(1, _PIECE // size)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


@dataclass(frozen=True)
class Statistics:
    """Mean and inverse standard deviation of every channel; of_batch: of the very input, not of the past."""

    mean: Tensor
    inverse: Tensor
    of_batch: bool


class Activation:
    """x = relu(gamma (y - mean) inverse + beta) * mask, piece by piece along the first dimension, and its gradient.

    y: (F, C, N, T) with gamma, beta, mean and inverse (C, 1, 1), or (N, O, I, C) with (C,). Without gamma: x =
    relu(y) * mask. mask: of a dropout, with its factor, or None. Ioffe and Szegedy, "Batch normalization", ICML 2015.
    """

    def __init__(
        self, gamma: Tensor | None, beta: Tensor | None, statistics: Statistics | None, mask: Tensor | None
    ) -> None:
        self.given = (gamma, beta, statistics, mask)
        self.gamma, self.mask = gamma, mask
        if gamma is not None and beta is not None and statistics is not None:
            self.mean, self.inverse, self.of_batch = statistics.mean, statistics.inverse, statistics.of_batch
            self.scale = gamma * self.inverse
            self.shift = beta - self.mean * self.scale
            self.d_beta, self.d_scaled = torch.zeros_like(gamma), torch.zeros_like(gamma)
            self.summed = (0, 1, 2) if gamma.ndim == 1 else (0, 2, 3)

    def again(self) -> "Activation":
        """One with sums at zero."""
        return Activation(*self.given)

    def __call__(self, y: Tensor, part: slice) -> Tensor:
        """x of a piece, a new tensor."""
        x = y[part].relu() if self.gamma is None else torch.addcmul(self.shift, y[part], self.scale).relu_()
        return x if self.mask is None else x.mul_(self.mask[part])

    def backward(self, dx: Tensor, x: Tensor, y: Tensor, part: slice) -> None:
        """Turn the gradient of x into that of the normalised y, in place, and gather what `finish` needs; x is lost."""
        if self.mask is not None:
            dx[part].mul_(self.mask[part])
        torch.ops.aten.threshold_backward(dx[part], x, 0.0, grad_input=dx[part])
        if self.gamma is not None:
            self.d_beta += dx[part].sum(self.summed).view_as(self.d_beta)
            moved = torch.sub(y[part], self.mean, out=x).mul_(dx[part])
            self.d_scaled += moved.sum(self.summed).view_as(self.d_scaled)

    def finish(self, dx: Tensor, y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Turn that gradient into the one of y, in place; return those of gamma and beta."""
        if self.gamma is None:
            return None, None
        d_gamma = self.d_scaled * self.inverse
        if not self.of_batch:
            dx.mul_(self.scale)
            return d_gamma, self.d_beta
        # scale (dx - mean(dx) - h mean(h dx)), h = (y - mean) inverse: an affine map of dx and y.
        count = y.numel() // self.gamma.numel()
        slope = -self.scale * self.inverse * d_gamma / count
        level = -self.scale * self.d_beta / count - slope * self.mean
        for part in pieces(len(y), y[0].numel(), y):
            dx[part].mul_(self.scale).add_(torch.addcmul(level, y[part], slope))
        return d_gamma, self.d_beta


class SetAttention(Function):
    """Multi-head self-attention over the neurons of one layer, from one source to J targets of the same width.

    q, k, v = W x + b in heads; o = q + softmax(q k^T / sqrt(out)) v; z = o + relu(W' o + b'), out = heads * D.
    Shapes: x (in, N, T); weight (3 D G, in) and bias (3 D G,), rows ordered (q k v, D, J, heads); out_weight (J, out,
    out), out_bias (J, out); z (J, out, N, T), out ordered (heads, D). Lee et al., "Set transformer", ICML 2019.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, out_bias: Tensor, heads: int
    ) -> Tensor:
        (_, n, t), (targets, out, _) = x.shape, out_weight.shape
        size = out // heads
        buffer = _project(x, weight, bias, size)
        heads_of = _heads(buffer, size, n, t)
        factor = 1.0 / math.sqrt(out)
        mixed = _mix(*heads_of, factor).view(targets, heads, n, size + 1, t).permute(0, 1, 3, 2, 4)
        inverse = mixed[:, :, size:].reciprocal()
        o = x.new_empty(targets, heads, size, n, t)
        q = heads_of[0].view(size, targets, heads, n, t).permute(1, 2, 0, 3, 4)
        torch.addcmul(q, mixed[:, :, :size], inverse, out=o)
        o = o.view(targets, out, n * t)
        ctx.save_for_backward(x, weight, out_weight, out_bias, o, inverse, buffer)
        ctx.heads = heads
        z = torch.baddbmm(out_bias.unsqueeze(2), out_weight, o).relu_().add_(o)
        return z.view(targets, out, n, t)

    @staticmethod
    @once_differentiable
    def backward(ctx, dz: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out_weight, out_bias, o, inverse, buffer = ctx.saved_tensors
        (_, n, t), (targets, out, _), heads = x.shape, out_weight.shape, ctx.heads
        size = out // heads
        dz = dz.reshape(targets, out, n * t)
        dh = _relu_backward(dz, torch.baddbmm(out_bias.unsqueeze(2), out_weight, o))
        d_out_weight, d_out_bias = torch.bmm(dh, o.transpose(1, 2)), dh.sum(2)
        do = torch.baddbmm(dz, out_weight.transpose(1, 2), dh).view(targets, heads, size, n, t)
        q, k, v = _heads(buffer, size, n, t)
        by_head = (size, targets, heads, n, t)
        # d(softmax) needs a (g - <a, g>) = e (r g - r <a, g>): the second term rides along as one more channel.
        scaled = x.new_empty(size + 1, *by_head[1:])
        torch.mul(do.permute(2, 0, 1, 3, 4), inverse.permute(2, 0, 1, 3, 4), out=scaled[:size])
        mixed = o.view(targets, heads, size, n, t) - q.view(by_head).permute(1, 2, 0, 3, 4)
        torch.neg((scaled[:size].permute(1, 2, 0, 3, 4) * mixed).sum(2), out=scaled[size])
        factor = 1.0 / math.sqrt(out)
        dq, dk, dv = _mix_backward(q, k, v, scaled.view(size + 1, -1, t), factor)
        grads = x.new_empty(3, *by_head)
        place = (targets, heads, n, size, t)
        torch.add(do.permute(2, 0, 1, 3, 4), dq.view(place).permute(3, 0, 1, 2, 4), alpha=factor, out=grads[0])
        torch.mul(dk.view(place).permute(3, 0, 1, 2, 4), factor, out=grads[1])
        grads[2].copy_(dv.view(place).permute(3, 0, 1, 2, 4))
        grads = grads.view(len(weight), n * t)
        d_weight, d_bias = grads @ x.reshape(len(x), n * t).T, grads.sum(1)
        dx = (weight.T @ grads).view(x.shape) if ctx.needs_input_grad[0] else None
        return dx, d_weight, d_bias, d_out_weight, d_out_bias, None


def _project(x: Tensor, weight: Tensor, bias: Tensor, size: int) -> Tensor:
    """W x + b (3 D G, N T), with G rows of ones below: the channel of v whose mixture is the softmax's denominator."""
    rows, columns = len(weight), x[0].numel()
    buffer = x.new_empty(rows + rows // (3 * size), columns)
    torch.addmm(bias.unsqueeze(1), weight, x.reshape(len(x), columns), out=buffer[:rows])
    buffer[rows:] = 1.0
    return buffer


def _heads(buffer: Tensor, size: int, n: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys (D, G N, T), values with the row of ones (D + 1, G N, T): views."""
    parts = buffer.view(3 * size + 1, -1, t)
    return parts[:size], parts[size : 2 * size], parts[2 * size :]


def _exponentials(a: Tensor, b: Tensor, factor: float, out: Tensor, keys: int | None) -> Tensor:
    """e^(factor a b^T) of every head (heads, T, T), divided by the largest entry along dimension `keys` unless None.

    As powers of two: torch's exp2 takes half the time of its exp on a CPU.
    """
    torch.baddbmm(out, a.permute(1, 2, 0), b.permute(1, 0, 2), beta=0, alpha=factor / math.log(2.0), out=out)
    if keys is not None:
        out.sub_(out.amax(keys, keepdim=True))
    return torch.exp2(out, out=out)


def _is_safe(q: Tensor, k: Tensor, factor: float) -> bool:
    """Whether no score can reach an exponent that needs the usual subtraction of the row's largest score."""
    if q.is_cuda:
        return False
    bound = len(q) * _largest(q) * _largest(k)
    return bound * (factor / math.log(2.0)) < _SAFE_EXPONENT.get(q.dtype, 0.0)


def _largest(x: Tensor) -> float:
    """Largest absolute value, NaN if there is one; without a copy of x."""
    low, high = torch.aminmax(x)
    return float(torch.maximum(high, -low))


def _mix(q: Tensor, k: Tensor, v: Tensor, factor: float) -> Tensor:
    """sum_j e_ij v_j of every head (G N, D + 1, T); the last channel is the sum of e."""
    (size, heads, t), keys = v.shape, None if _is_safe(q, k, factor) else 1
    parts = list(pieces(heads, t * t, q))
    mixed, buffer = q.new_empty(heads, size, t), q.new_empty(parts[0].stop, t, t)
    for part in parts:
        e = _exponentials(k[:, part], q[:, part], factor, buffer[: part.stop - part.start], keys)
        torch.bmm(v[:, part].permute(1, 0, 2), e, out=mixed[part])
    return mixed


def _mix_backward(q: Tensor, k: Tensor, v: Tensor, g: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q and k (both without `factor`) and v (G N, D, T), given g (D + 1, G N, T); e is computed again."""
    (size, heads, t), keys = q.shape, None if _is_safe(q, k, factor) else 2
    parts = list(pieces(heads, t * t, q))
    dq, dk, dv = (q.new_empty(heads, size, t) for _ in range(3))
    buffers = q.new_empty(2, parts[0].stop, t, t)
    for part in parts:
        first, second = buffers[:, : part.stop - part.start]
        qp, kp, vp, gp = (x[:, part] for x in (q, k, v, g))
        e = _exponentials(qp, kp, factor, first, keys)
        torch.bmm(gp[:size].permute(1, 0, 2), e, out=dv[part])
        torch.bmm(gp.permute(1, 2, 0), vp.permute(1, 0, 2), out=second)
        ds = e.mul_(second)
        torch.bmm(kp.permute(1, 0, 2), ds.transpose(1, 2), out=dq[part])
        torch.bmm(qp.permute(1, 0, 2), ds, out=dk[part])
    return dq, dk, dv


def _relu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, x, 0.0)


class Activate(Function):
    """x = relu(norm(y)) * mask of a set, (F, C, N, T); see Activation."""

    @staticmethod
    def forward(
        ctx, y: Tensor, gamma: Tensor | None, beta: Tensor | None, statistics: Statistics | None, mask: Tensor | None
    ) -> Tensor:
        activation = Activation(gamma, beta, statistics, mask)
        ctx.save_for_backward(y)
        ctx.activation = activation
        return activation(y, slice(None))

    @staticmethod
    @once_differentiable
    def backward(ctx, dx: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        everything, activation = slice(None), ctx.activation.again()
        dy = dx.clone(memory_format=torch.contiguous_format)
        activation.backward(dy, activation(y, everything), y, everything)
        d_gamma, d_beta = activation.finish(dy, y)
        return dy, d_gamma, d_beta, None, None


class MatrixMap(Function):
    """Activation, linear map and pools of one middle weight matrix.

    x = relu(norm(y)) * mask, or y where `raw`; z = x W^T; rows = pool of x over I, columns = pool of x over O. Shapes:
    y (N, O, I, C), weight (C', C), z (N, O, I, C'), rows (N, O, C), columns (N, I, C). pool: "max", "mean" or "sum";
    where several entries are the largest, each gets the gradient. gamma to mask: see Activation.
    """

    @staticmethod
    def forward(
        ctx,
        y: Tensor,
        weight: Tensor,
        pool: str,
        raw: bool,
        gamma: Tensor | None,
        beta: Tensor | None,
        statistics: Statistics | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, num_rows, num_columns, channels = y.shape
        z = y.new_empty(n, num_rows, num_columns, len(weight))
        rows, columns = y.new_empty(n, num_rows, channels), y.new_empty(n, num_columns, channels)
        activation = None if raw else Activation(gamma, beta, statistics, mask)
        for part in pieces(n, y[0].numel(), y):
            x = y[part] if activation is None else activation(y, part)
            torch.mm(x.flatten(0, 2), weight.T, out=z[part].flatten(0, 2))
            reduce(x, 2, pool, rows[part])
            reduce(x, 1, pool, columns[part])
        ctx.save_for_backward(y, weight, rows, columns)
        ctx.activation, ctx.pool = activation, pool
        return z, rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx, dz: Tensor, d_rows: Tensor, d_columns: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, rows, columns = ctx.saved_tensors
        activation: Activation | None = None if ctx.activation is None else ctx.activation.again()
        d_weight, dz, d_rows, d_columns = torch.zeros_like(weight), *(g.contiguous() for g in (dz, d_rows, d_columns))
        dy = torch.empty_like(y) if any(ctx.needs_input_grad[i] for i in (0, 4, 5)) else None  # y, gamma, beta
        for part in pieces(len(y), y[0].numel(), y):
            x = y[part] if activation is None else activation(y, part)
            gradient = dz[part].flatten(0, 2)
            d_weight.addmm_(gradient.T, x.flatten(0, 2))
            if dy is None:
                continue
            torch.mm(gradient, weight, out=dy[part].flatten(0, 2))
            _add_pool_gradient(dy[part], x, rows[part], d_rows[part], 2, ctx.pool)
            _add_pool_gradient(dy[part], x, columns[part], d_columns[part], 1, ctx.pool)
            if activation is not None:
                activation.backward(dy, x, y, part)
        d_gamma, d_beta = activation.finish(dy, y) if activation is not None and dy is not None else (None, None)
        return dy, d_weight, None, None, d_gamma, d_beta, None, None


class Spread(Function):
    """z (N, O, I, C) + rows (N, O, C) repeated along I + columns (N, I, C) repeated along O, in place."""

    @staticmethod
    def forward(ctx, z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        for part in pieces(len(z), z[0].numel(), z):
            z[part].add_(rows[part].unsqueeze(2)).add_(columns[part].unsqueeze(1))
        ctx.mark_dirty(z)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d_rows, d_columns = dy.new_empty(*dy.shape[:2], dy.shape[3]), dy.new_empty(len(dy), *dy.shape[2:])
        for part in pieces(len(dy), dy[0].numel(), dy):
            torch.sum(dy[part], 2, out=d_rows[part])
            torch.sum(dy[part], 1, out=d_columns[part])
        return dy, d_rows, d_columns


def moments(y: Tensor, summed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and variance (divided by the count) over the dimensions `summed`, one-dimensional; in two passes."""
    mean = y.mean(summed, keepdim=True)
    squares = torch.zeros_like(mean)
    for part in pieces(len(y), y[0].numel(), y):
        squares += (y[part] - mean).square_().sum(summed, keepdim=True)
    return mean.flatten(), squares.flatten() * (mean.numel() / y.numel())


def reduce(x: Tensor, dim: int, pool: str, out: Tensor | None = None) -> Tensor:
    """Largest value, mean or sum over a dimension."""
    if pool == "max":
        return x.amax(dim) if out is None else torch.amax(x, dim, out=out)
    return torch.sum(x, dim, out=out) if pool == "sum" else torch.mean(x, dim, out=out)


def _add_pool_gradient(dx: Tensor, x: Tensor, pooled: Tensor, gradient: Tensor, dim: int, pool: str) -> None:
    gradient = gradient.unsqueeze(dim)
    if pool == "max":
        # eq into floats gives 0 or 1 in one vectorised pass; a boolean mask takes several slow ones.
        dx.addcmul_(torch.eq(x, pooled.unsqueeze(dim), out=torch.empty_like(x)), gradient)
    else:
        dx.add_(gradient, alpha=1.0 if pool == "sum" else 1.0 / x.shape[dim])
