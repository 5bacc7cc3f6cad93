"""Targeted label flipping: one class is taught to be another, and the rest is left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch

from sparring.context import Context, Setup
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.objectives import Objective
from sparring.roles import ActiveAttack, Targeted
from sparring.signals import ClientData, Examples
from sparring_poisoning.data import among, drawn, put
from sparring_poisoning.plugin_data import TargetedLabelFlipConfig


@final
class TargetedLabelFlip(ActiveAttack[ClientData], Targeted):
    r"""For each pair (s, t), a share ``fraction`` of each client's examples of class s becomes labelled t; inputs stay.

    The objective: test examples of the source classes, unchanged, are taken for their t. A client without examples of a source
    class has nothing to relabel. Raises `ConfigError` where a class is none of the data's.

    Source: Tolpegin, Truex, Gursoy and Liu, "Data poisoning attacks against federated learning systems", ESORICS 2020,
    2007.08432.
    """

    def __init__(self, config: TargetedLabelFlipConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' data with the source classes relabelled."""
        among(tuple(label for pair in self.config.pairs for label in pair), signal.shape.classes, ctx.layer)
        return replace(signal, clients={client: self._poisoned(client, own, ctx) for client, own in signal.clients.items()})

    def _poisoned(self, client: int, examples: Examples, ctx: Context) -> Examples:
        generator, y = ctx.generator(client), examples.y
        for source, target in self.config.pairs:
            # Of the true labels: a chain such as 0 -> 1, 1 -> 2 relabels no example twice.
            index = drawn(torch.nonzero(examples.y == source)[:, 0], self.config.fraction, generator)
            y = put(y, index, torch.full_like(index, target))
        return replace(examples, y=y)

    def objective(self, test: Examples, ctx: Setup) -> Objective:
        """Test examples of the source classes as their targets."""
        index = torch.nonzero(torch.isin(test.y, torch.tensor([source for source, _ in self.config.pairs])))[:, 0]
        if not len(index):
            raise ConfigError(f"'{ctx.layer}' has pairs {self.config.pairs}, and no test example is of their source classes")
        wanted = test.y[index].clone()
        for source, target in self.config.pairs:
            wanted[test.y[index] == source] = target
        return Objective(test.x[index], wanted, index)
