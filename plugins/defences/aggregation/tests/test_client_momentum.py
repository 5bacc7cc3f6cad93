"""Momentum of clients: each client's own running mean, whatever the cohort, the order of rows, and rounds that it missed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from sparring_aggregation.client_momentum import ClientMomentum
from sparring_aggregation.plugin_clients import ClientMomentumConfig

from sparring.signals import Updates
from sparring.testing.fixtures import make_layout, make_round

LAYOUT = make_layout(7)


def sent(layer: ClientMomentum, rows: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    signal = Updates(torch.stack(list(rows.values())), LAYOUT, tuple(rows))
    return dict(zip(rows, layer.defence_transform(signal, make_round()).rows, strict=True))


@given(beta=st.floats(0, 0.99), present=st.lists(st.booleans(), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_a_client_sends_the_decayed_sum_of_the_updates_of_its_own_rounds(beta: float, present: list[bool], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer, seen = ClientMomentum(ClientMomentumConfig(beta=beta)), []
    for here in present:
        rows = {3: torch.randn(7, generator=generator, dtype=torch.float64)}
        if here:
            rows = {9: torch.randn(7, generator=generator, dtype=torch.float64), **rows}
            seen.append(rows[9])
        found = sent(layer, rows)
        if here:
            expected = sum((1 - beta) * beta ** (len(seen) - 1 - k) * row for k, row in enumerate(seen))
            assert torch.allclose(found[9], torch.as_tensor(expected), atol=1e-12)
