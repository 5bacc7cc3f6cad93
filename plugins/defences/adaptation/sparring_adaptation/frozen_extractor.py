"""Every layer but the last few keeps its initial weights."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from torch import nn

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ModelPlan
from sparring_adaptation.configs import FrozenExtractorConfig
from sparring_adaptation.observing import Observed, observe


@final
class FrozenExtractor(Defence[ModelPlan]):
    r"""$\Delta_j = 0$ for parameters of modules that first run before the n-th last layer with weights.

    Layers with weights are convolutions and linear layers, in the order in which they run; norms belong to the layer before
    them. With n or fewer layers nothing is frozen. BatchNorm statistics in the frozen part still travel: put
    `normalisation` before it. Frozen parameters are whatever the model starts with: random features unless it is pretrained.

    Source: transfer learning as in Usynin et al., "Zen and the art of model adaptation", PoPETs 2022(1),
    10.2478/popets-2022-0014.
    """

    def __init__(self, config: FrozenExtractorConfig) -> None:
        self.trained = config.trained

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        del ctx
        names = _early(observe(signal), self.trained)
        if not names:
            return replace(
                signal, notes=(*signal.notes, f"frozen-extractor: froze nothing: no layer before the last {self.trained}")
            )

        def change(model: nn.Module) -> nn.Module:
            for name, parameter in model.named_parameters():
                if name in names:
                    parameter.requires_grad_(False)
            return model

        after = signal.adapted(change, *(f"frozen-extractor: {name}: trained -> frozen" for name in sorted(names)))
        return replace(after, frozen=after.frozen | names)


def _early(seen: Observed, trained: int) -> frozenset[str]:
    """The parameters of what first runs before the last ``trained`` layers with weights."""
    layers = seen.layers()
    if len(layers) <= trained:
        return frozenset()
    first = next(k for k, visit in enumerate(seen.visits) if visit.name == layers[-trained].name)
    held = {id(p) for visit in seen.visits[first:] for p in visit.module.parameters(recurse=False)}
    return frozenset(name for name, p in seen.model.named_parameters() if id(p) not in held)
