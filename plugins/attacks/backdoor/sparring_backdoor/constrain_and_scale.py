"""Constrain-and-scale: a backdoor that is trained to stay near the global model, then scaled."""

from __future__ import annotations

from typing import final

from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.local import LocalContext, LocalPlan
from sparring.roles import ActiveAttack
from sparring_backdoor.configs import ConstrainAndScaleConfig


@final
class Proximity(ActiveAttack[LocalPlan]):
    r"""Trains on $\alpha L_{\mathrm{class}} + (1 - \alpha) L_{\mathrm{ano}}$, $L_{\mathrm{ano}} = \|\theta - \theta_t\|_2^2$.

    $\theta_t$: the broadcast model. Divided by alpha the loss is $L_{\mathrm{class}} + \mu \|\theta - \theta_t\|_2^2$,
    $\mu = (1 - \alpha) / \alpha$. Its second term acts after each step of the optimiser on the first, as the minimiser of
    $\frac{1}{2 \eta} \|\theta' - \theta\|_2^2 + \mu \|\theta' - \theta_t\|_2^2$, which is
    $\theta' = \theta_t + (\theta - \theta_t) / (1 + 2 \eta \mu)$: the proximal gradient method, stable for every step size
    eta. alpha = 1 is plain training. The paper's early stop and its smaller step size are not part of it: a client's number of
    steps is the federation's.

    Source: Bagdasaryan, Veit, Hua, Estrin and Shmatikov, "How to backdoor federated learning", AISTATS 2020, 1807.00459.
    """

    def __init__(self, config: ConstrainAndScaleConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan whose steps pull towards the start."""
        mu = (1 - self.config.alpha) / self.config.alpha

        def pulled(row: Tensor, at: LocalContext) -> Tensor:
            assert at.start is not None
            return at.start + (row - at.start) / (1 + 2 * at.lr * mu)

        return signal.with_step(ctx.layer, pulled)
