"""What the reference cards of what clients do for robust rules measure."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.keys import Key
from sparring.signals import Updates
from sparring.testing.fixtures import make_layout, make_round
from sparring_aggregation.client_momentum import ClientMomentum
from sparring_aggregation.plugin_clients import ClientMomentumConfig

CLIENTS, NUMBERS = 40, 5_000


def client_momentum() -> dict[str, float]:
    """What is left of a constant update, and of the variance of noise."""
    constant = torch.ones(CLIENTS, NUMBERS, dtype=torch.float64)
    noise = [_noise(t) for t in range(60)]
    return {
        "share of a constant update after 10 rounds, beta .9": float(_sent(0.9, [constant] * 10).mean()),
        "variance after 60 rounds, beta .9": float(_sent(0.9, noise).square().mean()),
        "variance after 60 rounds, beta 0": float(_sent(0.0, noise[-2:]).square().mean()),
    }


def _noise(t: int) -> Tensor:
    return torch.randn(CLIENTS, NUMBERS, generator=Key(0, ("card", "momentum", t)).generator(), dtype=torch.float64)


def _sent(beta: float, rounds: list[Tensor]) -> Tensor:
    """What the clients send in the last of these rounds."""
    layer, layout = ClientMomentum(ClientMomentumConfig(beta=beta)), make_layout(NUMBERS)
    sent = rounds[0]
    for t, rows in enumerate(rounds):
        sent = layer.defence_transform(Updates(rows, layout, tuple(range(CLIENTS))), make_round(index=t)).rows
    return sent
