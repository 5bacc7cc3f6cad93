"""On a CUDA device, stacked training gives the numbers of the CPU; without one these tests skip."""

from __future__ import annotations

import pytest
import torch

from sparring.build import build
from sparring.experiment import silent
from sparring.measure import Books
from sparring.round import plan_rounds, play
from sparring.signals import State
from tests.core.federation import experiment, mlp

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def _parameters(device: str) -> torch.Tensor:
    made = experiment(model=mlp, engine="stacked", performance={"device": device}, federation={"precision": "float64"})
    (resolved,) = made.resolve().values()
    built = build(resolved, silent)
    state, books = State(built.plan, built.initial, built.layout), Books()
    for index in range(3):
        state = play(built, plan_rounds(built), state, index, books, lambda *_: None)
    return state.row


def test_stacked_training_agrees_with_the_cpu() -> None:
    on_cpu, on_gpu = _parameters("cpu"), _parameters("cuda")
    assert on_gpu.device.type == "cuda"
    assert torch.allclose(on_cpu, on_gpu.cpu(), rtol=1e-9, atol=1e-11)
