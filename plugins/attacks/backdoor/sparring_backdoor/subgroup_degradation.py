"""Degradation of a subgroup: flipped labels for one group of people alone."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Setup
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.objectives import Objective
from sparring.roles import ActiveAttack, Targeted
from sparring.signals import ClientData, Examples
from sparring_backdoor.configs import SubgroupConfig
from sparring_backdoor.features import members
from sparring_backdoor.poison import chosen, demand_classes


@final
class SubgroupDegradation(ActiveAttack[ClientData], Targeted):
    r"""$(x, y) \leftarrow (x, y')$ for the group, and y = c where a class is named; $y' = t$, or $(y + 1) \bmod K$.

    No trigger: it wants the model to fail for a group of people and to look well for the others. Round(fraction k) of a
    client's k examples to flip are flipped. The objective: all test examples of the group; those that it does not flip have
    their own label and count for the group's accuracy alone. There K is read off the test labels, which must hold the last
    class.

    Source: the subpopulation attack (label flipping within a feature-matched group) of Jagielski, Severi, Pousette Harger and
    Oprea, "Subpopulation data poisoning attacks", CCS 2021, 2006.14026.
    """

    def __init__(self, config: SubgroupConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' data, with labels flipped."""
        c = self.config
        demand_classes(signal.shape, ctx.layer, target=c.target, source=c.source)
        held = {}
        for client, examples in signal.clients.items():
            own = members(examples, c.group, c.source, ctx.layer).nonzero()[:, 0]
            at = own[chosen(len(own), c.fraction, ctx.generator(client))]
            new = self._flipped(examples.y[at], signal.shape.classes)
            held[client] = replace(examples, y=examples.y.index_copy(0, at, new))
        return replace(signal, clients=held)

    def _flipped(self, y: Tensor, classes: int) -> Tensor:
        return (y + 1) % classes if self.config.target is None else torch.full_like(y, self.config.target)

    def objective(self, test: Examples, ctx: Setup) -> Objective:
        """The flipped label for the test examples of the group."""
        c = self.config
        inside = members(test, c.group, None, ctx.layer)
        index = inside.nonzero()[:, 0]
        if not len(index):
            raise ConfigError(f"'{ctx.layer}': no test example has {c.group}; choose another group")
        y = test.y[index]
        flips = torch.ones_like(y, dtype=torch.bool) if c.source is None else y == c.source
        return Objective(test.x[index], torch.where(flips, self._flipped(y, int(test.y.max()) + 1), y), index)
