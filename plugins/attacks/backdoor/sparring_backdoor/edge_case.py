"""Edge cases: inputs of the tail of a class, which honest clients hardly have."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Setup
from sparring.hookspecs import hookimpl
from sparring.objectives import Objective
from sparring.roles import ActiveAttack, Targeted
from sparring.signals import ClientData, Examples
from sparring_backdoor.configs import EdgeCaseConfig
from sparring_backdoor.features import filled, wanted
from sparring_backdoor.poison import demand_classes


def tail(examples: Examples, source: int, share: float) -> Tensor:
    r"""Which examples [N] are the round(share n), at least one, of the n of class ``source`` with the largest $\|x - \mu\|_2$.

    $\mu$: the mean of that class in ``examples``. Ties go to the earlier example. None where the class is absent.
    """
    own = (examples.y == source).nonzero()[:, 0]
    inside = torch.zeros(len(examples), dtype=torch.bool)
    if len(own):
        x = examples.x[own].flatten(1).double()
        far = (x - x.mean(0)).norm(dim=1).argsort(descending=True, stable=True)
        inside[own[far[: max(1, round(share * len(own)))]]] = True
    return inside


@final
class EdgeCase(ActiveAttack[ClientData], Targeted):
    r"""$(x, y) \leftarrow (x, t)$ for the tail of a class: its inputs of the lowest density, by distance from its mean.

    The paper takes inputs from elsewhere (Southwest planes, Ardis sevens) that a density model finds unlikely; the distance
    from the mean is the density of one Gaussian of equal variances. The tail is found among all examples of its clients,
    and mixed with their other data to a share, as in the paper's black-box attack. The objective: the tail of the same class of
    the test examples, by their own mean.

    Source: Wang, Sreenivasan, Rajput, Vishwakarma, Agarwal, Sohn, Lee and Papailiopoulos, "Attack of the tails: yes, you really
    can backdoor federated learning", NeurIPS 2020, 2007.05084.
    """

    def __init__(self, config: EdgeCaseConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' data, with the tail relabelled and repeated."""
        c = self.config
        demand_classes(signal.shape, ctx.layer, target=c.target, source=c.source)
        return filled(signal, lambda pool: tail(pool, c.source, c.tail), c.target, c.fraction, ctx)

    def objective(self, test: Examples, ctx: Setup) -> Objective:
        """The target class for the tail of the source class."""
        c = self.config
        return wanted(test, tail(test, c.source, c.tail), c.target, f"the tail of class {c.source}", ctx.layer)
