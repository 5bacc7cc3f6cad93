"""Attacks, active and passive."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Context, Round, Setup
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.local import Batch, Forward, LocalPlan, LossFn
from sparring.roles import ActiveAttack, PassiveAttack
from sparring.signals import Broadcast, ClientData, Cohort, Updates
from sparring.views import AggregateView, Capture, Finding, ModelView, QueryView, Reconstruction, Scores, UpdateView
from sparring_frozen_api1.plugin import PushConfig, TrapConfig


@final
class Push(ActiveAttack[Updates]):
    """All its clients send -c mu, mu the benign mean, c of those given what moves the rule most (after Fang et al., USENIX
    Security 2020, 1911.11815)."""

    def __init__(self, config: PushConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates."""
        assert isinstance(ctx, Round)
        if ctx.benign is None or ctx.aggregate is None:
            raise ConfigError(f"'{ctx.layer}' needs the benign updates and the rule: grant knows [benign-updates, aggregator]")
        if not len(ctx.benign):
            return signal
        mean = ctx.benign.mean(0)

        def moved(c: float) -> float:
            rows = torch.cat([ctx.benign, (-c * mean).expand(len(signal.ids), -1)]) if ctx.benign is not None else signal.rows
            others = tuple(-1 - k for k in range(len(rows) - len(signal.ids)))
            weights = torch.ones(len(rows), dtype=rows.dtype, device=rows.device)
            cohort = Cohort(rows, signal.layout, (*others, *signal.ids), weights, sources=(*others, *signal.ids))
            assert ctx.aggregate is not None
            return float((ctx.aggregate(cohort).vector - mean).norm())

        c = max(self.config.factors, key=moved)
        return signal.with_params((-c * mean[: signal.layout.parameters]).expand(len(signal.ids), -1).clone())


@final
class FlipLabels(ActiveAttack[ClientData]):
    """y becomes K - 1 - y (Tolpegin et al., ESORICS 2020, 2007.08432)."""

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' examples with other labels."""
        del ctx
        last = signal.shape.classes - 1
        return replace(signal, clients={i: replace(e, y=last - e.y) for i, e in signal.clients.items()})


@final
class Ascent(ActiveAttack[LocalPlan]):
    """Its clients climb a bounded loss: they train on -min(l, 5) (after Munoz-Gonzalez et al., AISec 2017, 1708.08689)."""

    @hookimpl
    def attack_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan of its clients."""
        del ctx

        def wrap(loss: LossFn) -> LossFn:
            def climbing(forward: Forward, batch: Batch) -> Tensor:
                return -loss(forward, batch).clamp(max=5)

            return climbing

        return signal.with_loss(wrap)


@final
class Trap(ActiveAttack[Broadcast]):
    """A few clients are sent first biases that are shifted, so that more ReLUs let gradients through (after Boenisch et al.,
    EuroS&P 2023, 2112.02918)."""

    def __init__(self, config: TrapConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Broadcast, ctx: Context) -> Broadcast:
        """The broadcast with overrides for its targets, which a permutation of the layer's stream picks."""
        assert isinstance(ctx, Round)
        bias = next((s for s in signal.layout.segments if len(s.shape) == 1 and s.role == "parameter"), None)
        if bias is None or not ctx.cohort:
            return signal
        row = signal.row.clone()
        row[bias.start : bias.stop] += self.config.shift
        order = torch.randperm(len(ctx.cohort), generator=ctx.generator())[: self.config.targets]
        return replace(signal, overrides={ctx.cohort[int(k)]: replace(signal, row=row) for k in order})


def _input(capture: Capture) -> tuple[Tensor, int]:
    """The input and the label of one example behind a capture: x = dW_k / db_k of the unit k with the largest |db_k|."""
    parts = capture.layout.split(capture.gradient, "parameter")
    names = [name for name, part in parts.items() if name.endswith("weight") and part.dim() == 2]
    first, last = names[0], names[-1]
    weight, bias = parts[first].double(), parts[first.removesuffix("weight") + "bias"].double()
    k = int(bias.abs().argmax())
    return weight[k] / bias[k] if float(bias[k]) else weight[k], int(parts[last.removesuffix("weight") + "bias"].argmin())


@final
class Analytic(PassiveAttack[UpdateView | AggregateView]):
    """The input of a first linear layer is the ratio of its gradients (Phong et al. 2018); the label is where the gradient of
    the last bias is negative (Zhao, Mopuri and Bilen 2020, 2001.02610)."""

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Finding | None:
        """One input for each capture."""
        inputs, labels = {}, {}
        loss: dict[tuple[int, int | None], float] = {}
        for k, capture in enumerate(view):
            key = capture.round, capture.client
            x, y = _input(capture)
            inputs[key] = x.nan_to_num().clamp(0, 1).float().view(1, *view.shape.inputs)
            labels[key] = torch.tensor([y]) if capture.labels is None or len(capture.labels) > 1 else capture.labels
            with torch.no_grad():
                batch = Batch(inputs[key].to(capture.row), labels[key].to(capture.row.device))
                loss[key] = float(batch.mean(view.loss(capture.module(), batch)))
            ctx.progress("inverting", (k + 1) / len(view.captures))
        return Reconstruction(float(max(1, len(view.captures))), inputs, labels, loss, {}) if inputs else None


def _white(view: ModelView, ctx: Setup) -> nn.Module:
    """The last released model, built from its parameters."""
    module = view.plan.factory().to(ctx.device, view.parameters[-1].dtype)
    view.layout.load(module, view.parameters[-1])
    return module.eval()


@final
class Confidence(PassiveAttack[ModelView | QueryView]):
    """The score of a candidate is minus its loss (Yeom et al., CSF 2018, 1709.01604)."""

    @hookimpl
    def attack_observe(self, view: ModelView | QueryView, ctx: Setup) -> Finding | None:
        """Scores of the candidates, or nothing where there are none."""
        if view.candidates is None or view.targets is None:
            return None
        with torch.no_grad():
            logits = view.query(view.candidates) if isinstance(view, QueryView) else _white(view, ctx)(view.candidates)
        return Scores(float(len(logits)), -F.cross_entropy(logits, view.targets, reduction="none"))
