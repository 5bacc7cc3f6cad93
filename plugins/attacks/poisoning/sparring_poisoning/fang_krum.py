"""The attack of Fang et al. on Krum."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.fang import course
from sparring_poisoning.perturbation import pairwise
from sparring_poisoning.plugin_crafted import FangConfig
from sparring_poisoning.seen import all_send, seen

HALVINGS = 20


def krum(rows: Tensor, f: int) -> Tensor:
    """The row [p] of rows [n, p] whose n - f - 2 (at least one) nearest others lie at the least sum of squared distances."""
    n = len(rows)
    if n == 1:
        return rows[0]
    square, _ = pairwise(rows - rows.mean(dim=0))
    return rows[int(_nearest(square, max(n - f - 2, 1)).argmin())]


def _nearest(square: Tensor, k: int) -> Tensor:
    """Sum [n] of the k least entries of each row of distances [n, n], beside the diagonal."""
    others = square.clone().fill_diagonal_(torch.inf).sort(dim=1).values[:, : len(square) - 1]
    return others[:, :k].sum(dim=1)


class Search:
    """The search for lambda among rows b [k, p] and a course s [p]; everything it needs of them fits into [k, k] numbers."""

    def __init__(self, rows: Tensor, s: Tensor) -> None:
        self.square = pairwise(rows - rows.mean(dim=0))[0].cpu()
        self.norms = rows.norm(dim=1).double().square().cpu()
        self.along = (rows @ s).double().cpu()
        self.size = float(s.abs().sum().clamp(min=1))

    def bound(self, n: int, f: int) -> float:
        """The upper bound of lambda for n rows with f crafted ones among them (theorem 1 of the paper)."""
        spread = float(_nearest(self.square, max(n - f - 2, 1)).min()) if len(self.square) > 1 else 0.0
        return float((spread / (max(n - 2 * f - 1, 1) * self.size)) ** 0.5 + (self.norms.max() / self.size).sqrt())

    def chosen(self, size: float, copies: int, f: int) -> bool:
        """Whether Krum, bearing f, would choose one of ``copies`` rows -``size`` s among these."""
        k = len(self.norms)
        near = max(k + copies - f - 2, 1)
        away = self.norms + 2 * size * self.along + size**2 * self.size
        own = away.sort().values[: max(near - (copies - 1), 0)].sum()
        theirs = torch.cat([self.square.clone().fill_diagonal_(torch.inf), away[:, None].expand(k, copies)], dim=1)
        return bool(own <= theirs.sort(dim=1).values[:, :near].sum(dim=1).min())

    def step(self, copies: int, f: int) -> tuple[float, bool]:
        """Lambda, halved from its bound until it is chosen, and whether it was; at most `HALVINGS` times."""
        size = self.bound(len(self.norms) + copies, f)
        for _ in range(HALVINGS):
            if self.chosen(size, copies, f):
                return size, True
            size /= 2
        return size, False


@final
class FangKrum(ActiveAttack[Updates]):
    r"""Every client sends $-\lambda s$ with the largest $\lambda$, of a bound and its halves, for which Krum chooses it.

    s: signs of the model's change without attack; an update of 0 is the model that was sent out. Full knowledge (``benign``):
    s is the sign of Krum's choice among all clients' honest rows, and $\lambda$ is tried with m copies among the benign rows,
    Krum bearing f = m. Partial knowledge (``own``): s is the sign of the own rows' mean, and these stand for the benign ones;
    one copy is tried among them, then two, up to m, with f the number of copies. The bound is that of the paper's theorem 1.
    After 20 halvings (the paper: below 1e-5, whatever the size of updates) it sends what is left, which is next to nothing.
    Krum with n - f - 2 < 1 counts one neighbour. Acts on parameters; buffers stay. Raises `ConfigError` where it is not
    granted what it is to see.

    Source: Fang, Cao, Jia and Gong, "Local model poisoning attacks to Byzantine-robust federated learning", USENIX Security
    2020, 1911.11815; all copies are identical (the paper's epsilon is 0).
    """

    def __init__(self, config: FangConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], all of the same parameters."""
        assert isinstance(ctx, Round)
        m = len(signal.ids)
        if m == 0:
            return signal
        known = seen(signal, ctx, self.config.knowledge)
        s = course(signal, known, lambda rows: krum(rows, m))
        search, size = Search(known.params, s), 0.0
        partial = not set(known.ids).isdisjoint(signal.ids)
        for copies in range(1 if partial else m, m + 1):
            size, found = search.step(copies, copies)
            if found:
                break
        return all_send(signal, -size * s)
