"""Layers that run once, before training or after it: MODEL, DATA and RESPONSE."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import nn

from sparring.context import Context, Setup
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ClientData, Examples, ModelPlan, Responses
from sparring_frozen_api1.plugin import LabelsConfig, SmoothingConfig, TemperedConfig


def _bounded(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU | nn.Sigmoid):
            setattr(module, name, nn.Tanh())
        else:
            _bounded(child)
    return module


@final
class Tempered(Defence[ModelPlan]):
    """Tanh in place of ReLU and Sigmoid (Papernot et al., AAAI 2021, 2007.14191); ``hold_biases``: no client trains a bias."""

    def __init__(self, config: TemperedConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        """The plan of a model with bounded activations."""
        del ctx
        plan = signal.adapted(_bounded, "ReLU and Sigmoid became Tanh")
        if not self.config.hold_biases:
            return plan
        with torch.random.fork_rng(devices=[]):
            biases = {name for name, _ in plan.factory().named_parameters() if name.endswith("bias")}
        return replace(plan, frozen=plan.frozen | biases)


@final
class RandomisedLabels(Defence[ClientData]):
    """Each label is drawn anew from all classes with probability p (Warner, JASA 60, 1965)."""

    def __init__(self, config: LabelsConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """The collection with some labels drawn anew; each client draws from its own stream."""
        assert isinstance(ctx, Setup)
        p, classes = self.config.p, signal.shape.classes
        held = {}
        for client in signal:
            e, g = signal.clients[client], ctx.generator(client)
            coins = torch.rand(e.y.shape, generator=g) < p
            others = torch.randint(classes, e.y.shape, generator=g)
            held[client] = Examples(e.x, torch.where(coins, others, e.y), e.groups)
        return replace(signal, clients=held)


@final
class Smoothing(Defence[Responses]):
    """The mean output on noisy copies of the inputs (Cohen, Rosenfeld and Kolter, ICML 2019, 1902.02918)."""

    def __init__(self, config: SmoothingConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Responses, ctx: Context) -> Responses:
        """The responses with averaged outputs [m, K]."""
        g, total = ctx.generator(), torch.zeros_like(signal.outputs)
        for _ in range(self.config.draws):
            noise = torch.randn(signal.inputs.shape, generator=g, dtype=signal.inputs.dtype).to(signal.inputs.device)
            total = total + signal.predict(signal.inputs + self.config.sigma * noise)
        return replace(signal, outputs=total / self.config.draws)
