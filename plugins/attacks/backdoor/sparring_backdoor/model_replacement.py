"""Model replacement: a backdoored update, scaled until it outweighs all others."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates


@final
class Scaling(ActiveAttack[Updates]):
    r"""$\Delta_i \leftarrow \gamma\,\Delta_i$ for each of the m clients of the attack, $\gamma = n / (\eta m)$ by default.

    n: sampled clients; eta: the server's learning rate. Near convergence the honest updates cancel, and the new global model is
    the mean of the attack's own models: $\theta + \frac{\eta}{n} \sum_i \gamma \Delta_i = \frac{1}{m} \sum_i \theta_i$, for
    equal weights. Train-and-scale: with a bound S, $\gamma_i = \min(\gamma, S / \|\Delta_i\|_2)$. Acts on parameters; buffers
    stay. A zero update stays zero.

    Source: Bagdasaryan, Veit, Hua, Estrin and Shmatikov, "How to backdoor federated learning", AISTATS 2020, 1807.00459.
    """

    def __init__(self, scale: float | None, server_lr: float, norm_bound: float | None = None) -> None:
        self.scale, self.server_lr, self.norm_bound = scale, server_lr, norm_bound

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], scaled."""
        assert isinstance(ctx, Round)
        m = len(signal.ids)
        if m == 0:
            return signal
        gamma = len(ctx.cohort) / (self.server_lr * m) if self.scale is None else self.scale
        if self.norm_bound is None:
            return signal.with_params(gamma * signal.params)
        norms = torch.linalg.vector_norm(signal.params, dim=1, dtype=torch.float64)
        factors = (self.norm_bound / norms).clamp(max=gamma)
        return signal.with_params(factors.to(signal.params)[:, None] * signal.params)
