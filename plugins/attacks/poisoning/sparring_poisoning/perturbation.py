"""Perturbations of the mean, and how far along them a row may lie from the rows around it."""

from __future__ import annotations

from torch import Tensor

from sparring_poisoning.declare import Direction


def perturbation(rows: Tensor, direction: Direction) -> Tensor:
    r"""$\nabla^p$ [p] of rows [n, p]: $-\sigma$ (std), $-\mu / \lVert \mu \rVert$ (unit) or $-\operatorname{sign}\mu$ (sign).

    $\mu$: the rows' mean; $\sigma$: the population standard deviation. A zero mean has the unit vector 0.
    """
    if direction == "std":
        return -rows.std(dim=0, correction=0)
    mu = rows.mean(dim=0)
    if direction == "sign":
        return -mu.sign()
    norm = mu.norm()
    unit: Tensor = -mu / norm.masked_fill(norm == 0, 1)
    return unit


def pairwise(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [n, n] between rows [n, p] whose mean is 0, and their squared norms [n]; float64."""
    gram = (centred @ centred.T).double()
    square = gram.diagonal()
    return (square[:, None] + square[None, :] - 2 * gram).clamp(min=0), square


def min_max_gamma(rows: Tensor, nabla: Tensor) -> Tensor:
    r"""The largest $\gamma$ with $\max_i \lVert \mu + \gamma\nabla - b_i \rVert \le \max_{i,j} \lVert b_i - b_j \rVert$.

    With $x_i = b_i - \mu$ and R the right side, constraint i is $a\gamma^2 - 2 h_i \gamma + c_i - R^2 \le 0$, where $a =
    \lVert\nabla\rVert^2$, $h_i = \langle\nabla, x_i\rangle$, $c_i = \lVert x_i\rVert^2 \le R^2$: the least of the n larger
    roots. 0 where $\nabla$ or R is 0.
    """
    x = rows - rows.mean(dim=0)
    a, h = nabla.double().square().sum(), (x @ nabla).double()
    between, c = pairwise(x)
    slack = (between.max() - c).clamp(min=0)
    root = (h.square() + a * slack).sqrt()
    larger = (h + root) / a.masked_fill(a == 0, 1)
    stable = slack / (root - h).masked_fill(root == h, 1)
    return larger.where(h >= 0, stable).min().masked_fill(a == 0, 0)


def min_sum_gamma(rows: Tensor, nabla: Tensor) -> Tensor:
    r"""The largest $\gamma$ of $\sum_i \lVert \mu + \gamma\nabla - b_i \rVert^2 \le \max_i \sum_j \lVert b_i - b_j \rVert^2$.

    Sums about the mean $\mu$ leave $n \gamma^2 \lVert\nabla\rVert^2 \le n \max_i \lVert b_i - \mu\rVert^2$: the row may lie
    as far from the mean as the furthest benign one. 0 where $\nabla$ is 0.
    """
    furthest = (rows - rows.mean(dim=0)).norm(dim=1).max().double()
    a = nabla.double().norm()
    gamma: Tensor = furthest / a.masked_fill(a == 0, 1)
    return gamma.masked_fill(a == 0, 0)
