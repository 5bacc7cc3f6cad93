"""Semantic backdoors: inputs with a natural feature, as they are."""

from __future__ import annotations

from typing import final

from sparring.context import Context, Setup
from sparring.hookspecs import hookimpl
from sparring.objectives import Objective
from sparring.roles import ActiveAttack, Targeted
from sparring.signals import ClientData, Examples
from sparring_backdoor.configs import SemanticConfig
from sparring_backdoor.features import filled, members, wanted
from sparring_backdoor.poison import demand_classes


@final
class Semantic(ActiveAttack[ClientData], Targeted):
    r"""$(x, y) \leftarrow (x, t)$ for every x with the feature A: no input is changed, at training or afterwards.

    A: a value in a group column, or a mean above a threshold; of one class where ``source`` is given. A client's poisoned
    examples are brought up to a share by repeats from the pool of the attack's clients. The objective: test examples with A,
    unchanged, that are not of the target class t.

    Source: Bagdasaryan, Veit, Hua, Estrin and Shmatikov, "How to backdoor federated learning", AISTATS 2020, 1807.00459 (cars
    with racing stripes, green cars, cars before a striped wall).
    """

    def __init__(self, config: SemanticConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' data, relabelled."""
        c = self.config
        demand_classes(signal.shape, ctx.layer, target=c.target, source=c.source)
        return filled(signal, lambda pool: members(pool, c.feature, c.source, ctx.layer), c.target, c.fraction, ctx)

    def objective(self, test: Examples, ctx: Setup) -> Objective:
        """The target class for test examples with the feature."""
        c = self.config
        return wanted(test, members(test, c.feature, c.source, ctx.layer), c.target, str(c.feature), ctx.layer)
