"""CAF: the covariance-bound agnostic filter."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.plugin_selection import CAFConfig
from sparring_aggregation.selection import admit_minority, nobody


@final
class CovarianceFilter(Aggregator):
    r"""The weighted mean whose covariance had the least top eigenvalue, of those that a filter passes through.

    From $c = 1$, while $\sum_i c_i > n - 2f$, once at least: with $\mu_c$ and $\Sigma_c$ the mean and covariance weighted by c,
    and v the top eigenvector of $\Sigma_c$,

    $$\tau_i = \langle v, x_i - \mu_c \rangle^2, \quad c_i \leftarrow c_i (1 - \tau_i / \max_{j : c_j > 0} \tau_j)$$

    The maximum is over rows that still have weight, so that each step takes the last of it from one: at most n steps. Works on
    the Gram matrix: with p = c / sum c and K the Gram matrix about $\mu_c$, the eigenvalues of $\Sigma_c$ are those of
    $\operatorname{diag}(\sqrt p) K \operatorname{diag}(\sqrt p)$, and the eigenproblem is n x n. Weights of the cohort are not
    respected. Clients whose weight ends at 0 are excluded. n = 0: a zero release of total weight 0. Identical rows: that row. A
    row that is not finite makes the release NaN. Raises `ConfigError` unless 2f < n.

    Source: Allouah, Guerraoui and Stephan: Towards Trustworthy Federated Learning with Untrusted Participants, ICML 2025,
    2505.01874, algorithm 2.
    """

    def __init__(self, config: CAFConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` unless 2f < n."""
        admit_minority("caf", self.config.f, n)

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The weighted mean [d]; its total is n."""
        del ctx
        n = len(cohort)
        if n == 0:
            return nobody(cohort)
        self.admit(n)
        p = filtered(cohort.gram.cpu(), self.config.f)
        excluded = (
            () if cohort.ids is None else tuple(i for i, weight in zip(cohort.ids, p.tolist(), strict=True) if weight == 0)
        )
        return Release(cohort.combine(p.to(cohort.base.device)), cohort.layout, float(n), n, excluded)


def filtered(gram: Tensor, f: int) -> Tensor:
    """The coefficients [n] of the mean, from the Gram matrix [n, n] of the rows about any point; NaN where it is not finite."""
    n = len(gram)
    if not bool(gram.isfinite().all()):
        return torch.full((n,), torch.nan, dtype=torch.float64)
    c = torch.ones(n, dtype=torch.float64)
    least, best = torch.inf, c / n
    while True:
        p = c / c.sum()
        to_mean = gram @ p
        about_mean = gram - to_mean[:, None] - to_mean + p @ to_mean
        root = p.sqrt()
        eigenvalues, vectors = torch.linalg.eigh(root[:, None] * about_mean * root)
        if float(eigenvalues[-1]) < least:
            least, best = float(eigenvalues[-1]), p
        tau = (about_mean @ (root * vectors[:, -1])).square()
        largest = tau[c > 0].max()
        if not float(largest) > 0:
            return best
        c = c * (1 - tau / largest).clamp(min=0)
        if float(c.sum()) <= n - 2 * f:
            return best
