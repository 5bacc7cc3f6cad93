"""What the attacks of Fang et al. share: the course of a rule without attack, and values beyond the benign extreme."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.context import Round
from sparring.signals import Updates
from sparring_poisoning.seen import draws

COLUMNS = 1 << 16


def trimmed_mean(rows: Tensor, f: int) -> Tensor:
    """Mean [p] of rows [n, p] without the f smallest and f largest values of each coordinate; f at most floor((n - 1) / 2)."""
    n = len(rows)
    f = min(f, (n - 1) // 2)
    return torch.cat([block.sort(dim=0).values[f : n - f].mean(dim=0) for block in rows.split(COLUMNS, dim=1)])


def median(rows: Tensor) -> Tensor:
    """Median [p] of rows [n, p] in each coordinate; of two middle values the mean."""
    return trimmed_mean(rows, len(rows))


def course(signal: Updates, known: Updates, rule: Callable[[Tensor], Tensor]) -> Tensor:
    """s [p] in {-1, 0, 1}: the direction in which the model would change without attack.

    With benign updates ``known``: the sign of what ``rule`` makes of all clients' honest rows; else of the own rows' mean.
    """
    partial = not set(known.ids).isdisjoint(signal.ids)
    if partial:
        return known.params.mean(dim=0).sign()
    order = sorted(range(len(signal.ids) + len(known.ids)), key=lambda k: (*signal.ids, *known.ids)[k])
    return rule(torch.cat([signal.params, known.params])[order]).sign()


def against(signal: Updates, known: Updates, ctx: Round, s: Tensor, b: float) -> Updates:
    r"""Rows [m, d] on the far side of the benign values, against the course s in each coordinate.

    Benign rows ``known``: from the extreme $w$ (the least where s = 1, the greatest where s = -1) to b times it away from 0,
    or to w / b where that is further against s. Own rows ``known``: from $\mu - 3 s \sigma$ to $\mu - 4 s \sigma$. Uniformly,
    by each client; where s = 0, 0 and $\mu$.
    """
    u = draws(torch.rand, signal, ctx)
    if not set(known.ids).isdisjoint(signal.ids):
        mu, sigma = known.params.mean(dim=0), known.params.std(dim=0, correction=0)
        return signal.with_params(u.add_(3).mul_(-s * sigma).add_(mu))
    least, greatest = known.params.amin(dim=0), known.params.amax(dim=0)
    extreme = least.where(s > 0, greatest) * s.abs()
    inwards = (s * extreme > 0).to(u)
    return signal.with_params(u.mul_(b - 1).add_(1).pow_(1 - 2 * inwards).mul_(extreme))
