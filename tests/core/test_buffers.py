"""BatchNorm statistics are federated, kept by the clients, or refused; and each choice does what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparring.build import build
from sparring.errors import ConfigError
from sparring.experiment import silent
from sparring.measure import Books
from sparring.round import plan_rounds, play
from sparring.signals import State
from tests.core.federation import batchnorm, experiment


def _cumulative() -> nn.Module:
    """Statistics as the mean over all batches seen, by a counter that is no part of a row."""
    module = batchnorm()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    return module


def _played(buffers: str, engine: str, rounds: int = 2, model: Any = batchnorm) -> tuple[State, object]:
    made = experiment(model=model, engine=engine, federation={"buffers": buffers, "precision": "float64"})
    (resolved,) = made.resolve().values()
    built = build(resolved, silent)
    state, books = State(built.plan, built.initial, built.layout), Books()
    for index in range(rounds):
        state = play(built, plan_rounds(built), state, index, books, lambda *_: None)
    built.strategy.close()
    return state, built


def test_federated_statistics_travel_behind_the_parameters() -> None:
    state, built = _played("federated", "sequential")
    names = [s.name for s in state.layout.segments if s.role == "buffer"]
    assert names == ["1.running_mean", "1.running_var"]
    assert not torch.equal(state.row[state.layout.parameters :], built.initial[state.layout.parameters :])  # type: ignore[attr-defined]


def test_local_statistics_stay_with_their_client() -> None:
    state, built = _played("local", "sequential")
    assert state.layout.size == state.layout.parameters
    own = built.work.buffers  # type: ignore[attr-defined]
    assert len({tuple(row.tolist()) for row in own.values()}) == len(own)
    model = built.trainer.model(state, 1)  # type: ignore[attr-defined]
    assert torch.equal(torch.cat([model[1].running_mean, model[1].running_var]), own[1])


@pytest.mark.parametrize("buffers", ["federated", "local"])
@pytest.mark.parametrize("model", [batchnorm, _cumulative])
def test_workers_keep_the_same_statistics(buffers: str, model: Any) -> None:
    """Statistics that are a mean over all batches too: their counter does not pass from one client to the next."""
    (one, a), (two, b) = _played(buffers, "sequential", model=model), _played(buffers, "workers", model=model)
    assert torch.allclose(one.row, two.row, rtol=1e-10, atol=1e-12)
    if buffers == "local":
        for client, row in a.work.buffers.items():  # type: ignore[attr-defined]
            assert torch.allclose(row, b.work.buffers[client], rtol=1e-10)  # type: ignore[attr-defined]


def test_refused_names_the_fix() -> None:
    with pytest.raises(ConfigError, match="GroupNorm"):
        _played("refused", "sequential")


def test_stacking_is_refused_with_the_layer() -> None:
    with pytest.raises(ConfigError, match="BatchNorm2d"):
        _played("federated", "stacked")
