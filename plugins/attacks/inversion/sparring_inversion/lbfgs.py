"""L-BFGS on a stack of independent problems: one evaluation serves all, each has its own curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
CURVATURE = 1e-10


def lbfgs(evaluate: Evaluate, x: Tensor, lr: float, history: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the iterates ``x`` [S, n] with their losses [S], the start first, without end.

    ``evaluate(x)`` gives losses [S] and gradients [S, n]. Steps have length ``lr`` along the quasi-Newton direction, the first
    one min(1, 1 / |gradient|_1) of it; there is no line search. A pair (s, y) with <s, y> at most 1e-10 is left out, and a row
    whose direction does not descend takes the gradient instead. A row whose loss is no longer finite stands still.

    Source: Liu, Nocedal, Mathematical Programming 45, 1989; the steps are those of `torch.optim.LBFGS` on one problem.
    """
    loss, g = evaluate(x)
    yield x, loss
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    curvature = torch.ones_like(loss)
    step = lr * (1 / g.abs().sum(1).clamp_min(1e-30)).clamp_max(1)
    while True:
        d = _direction(g, pairs, curvature)
        d = torch.where(((d * g).sum(1) < 0)[:, None], d, -g)
        s = torch.where(torch.isfinite(loss)[:, None], step[:, None] * d, torch.zeros_like(d))
        moved_loss, moved_g = evaluate(x + s)
        y = moved_g - g
        ys = (y * s).sum(1)
        good = ys > CURVATURE
        rho = torch.where(good, 1 / ys, torch.zeros_like(ys))
        curvature = torch.where(good, ys / y.square().sum(1), curvature)
        pairs = [*pairs, (s, torch.where(good[:, None], y, torch.zeros_like(y)), rho)][-history:]
        x, loss, g = x + s, moved_loss, moved_g
        step = torch.full_like(step, lr)
        yield x, loss


def _direction(g: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], curvature: Tensor) -> Tensor:
    """Minus the inverse Hessian's estimate times ``g``, row by row (two-loop recursion)."""
    q = -g
    alphas = []
    for s, y, rho in reversed(pairs):
        alphas.append(rho * (s * q).sum(1))
        q = q - alphas[-1][:, None] * y
    q = q * curvature[:, None]
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + s * (alpha - rho * (y * q).sum(1))[:, None]
    return q
