"""GroupNorm, LayerNorm, InstanceNorm or nothing in place of BatchNorm."""

from __future__ import annotations

from math import gcd, prod
from typing import Any, final

import torch
from torch import nn

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ModelPlan
from sparring_adaptation.configs import Norm, NormalisationConfig
from sparring_adaptation.observing import Make, built, observe, replaced

BATCH = nn.modules.batchnorm._BatchNorm


def groups_of(to: Norm, groups: int, channels: int, positions: int) -> int:
    """How many groups of ``channels`` are normalised apart: gcd(groups, channels), 1 (layer) or ``channels`` (instance).

    Where a group would hold fewer than four numbers, the largest divisor that leaves four, or else two, of which a moment makes
    signs; 0 where an example has one number.
    """
    most = {"group": gcd(groups, channels), "layer": 1, "instance": channels}.get(to, 1)
    divisors = [g for g in range(1, most + 1) if most % g == 0]
    fitting = [g for g in divisors if channels // g * positions >= 4] or [g for g in divisors if channels // g * positions > 1]
    if to == "instance" and positions == 1:
        fitting = fitting[:1]
    return max(fitting, default=0)


@final
class OtherNormalisation(Defence[ModelPlan]):
    r"""BatchNorm $\gamma (x - \mu_B) / \sqrt{\sigma_B^2 + \epsilon} + \beta$ gets the moments of each example alone.

    The moments are of gcd(groups, C) groups of channels (group), of all channels (layer), or of each (instance); all three are
    written as GroupNorm. gamma, beta and epsilon are copied, running statistics dropped: no batch statistic is in an update. Of
    inputs without positions an instance is a single number: those get layer's moments. ``none``: nothing in its place.
    Gives PerExample, having tried: `ConfigError` where an output still depends on other examples, or a module has one channel
    and no positions.

    Sources: Wu and He, "Group normalization", ECCV 2018, 1803.08494; a knob of Usynin et al., PoPETs 2022(1),
    10.2478/popets-2022-0014.
    """

    def __init__(self, config: NormalisationConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        del ctx
        seen = observe(signal)
        positions = {v.name: prod(v.inputs[1:]) for v in seen.visits}
        batch = [(name, m) for name, m in seen.model.named_modules() if isinstance(m, BATCH)]
        after = replaced(signal, "normalisation", {n: self._make(n, m, positions.get(n, 1)) for n, m in batch})
        _apart(after)
        return after

    def _make(self, name: str, old: Any, positions: int) -> Make:
        if self.config.to == "none":
            return lambda old: nn.Identity()
        groups = groups_of(self.config.to, self.config.groups, old.num_features, positions)
        if not groups:
            raise ConfigError(f"'normalisation' cannot replace {name}, {old}: it has one number an example; use to: none")

        def make(old: Any) -> nn.Module:
            new = nn.GroupNorm(groups, old.num_features, old.eps, old.affine)
            if old.affine:
                new.load_state_dict({"weight": old.weight, "bias": old.bias})
            return new

        return make


def _apart(plan: ModelPlan) -> None:
    """Raise `ConfigError` where an example's output in training depends on the others of its batch."""
    model, generator = built(plan).double().train(), torch.Generator().manual_seed(0)
    x = torch.rand(4, *plan.shape.inputs, generator=generator, dtype=torch.float64)
    outputs = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for batch in (x, torch.cat([x[:1], 3 * x[1:]])):
            torch.manual_seed(0)
            outputs.append(model(batch)[0])
    if not torch.allclose(outputs[0], outputs[1], rtol=1e-9, atol=1e-12):
        raise ConfigError(
            "'normalisation' replaced every BatchNorm, and an example's output still depends on others of its batch; "
            "use a model whose other layers keep examples apart"
        )
