"""Dropout before the classifier, or after each activation."""

from __future__ import annotations

from typing import final

from torch import nn

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ModelPlan
from sparring_adaptation.activation import FUNCTIONS, KINDS, activations
from sparring_adaptation.configs import DropoutConfig
from sparring_adaptation.observing import Make, observe, refuse_functional, replaced


@final
class AddDropout(Defence[ModelPlan]):
    r"""$h \leftarrow m \odot h / (1 - p)$ with $m_j \sim \mathrm{Bernoulli}(1 - p)$ for each number, in training only.

    ``classifier``: of the input of the last linear layer that runs; ``activations``: of the output of each activation module.
    Masks come from torch's global generator, which core seeds for each client and round; strategies do not stack such models.
    Each application adds another dropout. Errors: `ConfigError` where ``activations`` meets a functional one.

    Sources: Srivastava et al., JMLR 15, 2014; a knob of Usynin et al., PoPETs 2022(1), 10.2478/popets-2022-0014. An attack that
    optimises the masks too takes the effect away: Scheliga, Maeder and Seeland, 2022, 2208.06163.
    """

    def __init__(self, config: DropoutConfig) -> None:
        self.p, self.where = config.p, config.where

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        del ctx
        seen, p = observe(signal), self.p
        found: dict[str, Make]
        if self.where == "classifier":
            found = {v.name: lambda old: nn.Sequential(nn.Dropout(p), old) for v in seen.of(nn.Linear)[-1:]}
        else:
            refuse_functional("dropout", seen.functional(FUNCTIONS, *KINDS), "activations as modules, or use where: classifier")
            found = {name: lambda old: nn.Sequential(old, nn.Dropout(p)) for name in activations(seen.model)}
        return replaced(signal, "dropout", found)
