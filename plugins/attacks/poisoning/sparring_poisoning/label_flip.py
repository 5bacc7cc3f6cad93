"""Label flipping: honest training on false labels."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import ClientData
from sparring_poisoning.data import drawn, put
from sparring_poisoning.plugin_data import LabelFlipConfig


@final
class LabelFlip(ActiveAttack[ClientData]):
    r"""Labels of a share ``fraction`` of each client's examples become false; inputs stay.

    ``mirror``: $c \to K - 1 - c$ (for odd K the middle class stays); ``next``: $c \to c + 1 \bmod K$; ``random``: each to one
    of the K - 1 other classes, uniformly. Dense labels change position by position. At least one example of a client that has
    any is relabelled.

    Source: Biggio, Nelson and Laskov, "Support vector machines under adversarial label noise", ACML 2011; in federated
    learning, Fang, Cao, Jia and Gong, "Local model poisoning attacks to Byzantine-robust federated learning", USENIX Security
    2020, 1911.11815 (the mirror, there as K - c - 1).
    """

    def __init__(self, config: LabelFlipConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' data with false labels."""
        held = {}
        for client, examples in signal.clients.items():
            generator = ctx.generator(client)
            index = drawn(torch.arange(len(examples)), self.config.fraction, generator)
            false = self.flipped(examples.y[index], signal.shape.classes, generator)
            held[client] = replace(examples, y=put(examples.y, index, false))
        return replace(signal, clients=held)

    def flipped(self, labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
        """The false labels of ``labels`` [m, ...] among ``classes``."""
        if self.config.kind == "mirror":
            return classes - 1 - labels
        if self.config.kind == "next" or classes < 3:
            return (labels + 1) % classes
        return (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
