"""Feature collision, Poison Frogs: an input that looks like its base, and is represented like the target."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from sparring.context import Context, Setup
from sparring.hookspecs import hookimpl
from sparring.local import embed
from sparring.objectives import Objective
from sparring.roles import ActiveAttack, Targeted
from sparring.signals import ClientData, Examples
from sparring_poisoning.data import Aim, aim, limits, surrogate, wants
from sparring_poisoning.plugin_data import FeatureCollisionConfig


@final
class FeatureCollision(ActiveAttack[ClientData], Targeted):
    r"""Own examples of the class ``target`` become $\arg\min_x \|f(x) - f(t)\|^2 + \beta \|x - b\|^2$, under true labels.

    b: such an example, the base. t: one of ``targets`` inputs of the class ``source``, drawn from its own examples and
    withheld; bases take turns. f: the input of the last linear layer of a surrogate trained in the lab on what is left for
    ``epochs``. Forward-backward splitting: $\hat x = x - \lambda \nabla_x \|f(x) - f(t)\|^2$, then $x \leftarrow (\hat x +
    \lambda \beta b) / (1 + \lambda \beta)$, in [0, 1] (or the data's range, where it is wider). A step that would raise an
    input's objective is not taken and halves its $\lambda$, so that objectives fall. ``opacity`` $\gamma$: the watermark,
    bases are $\gamma t + (1 - \gamma) b$ from the start.

    The objective of the attack: the released model takes the withheld inputs for ``target``. Raises `ConfigError` without a
    lab, for a model without a linear layer, for dense labels, and where its clients hold no example of one of the two
    classes.

    Source: Shafahi, Huang, Najibi, Suciu, Studer, Dumitras and Goldstein, "Poison frogs! Targeted clean-label poisoning attacks
    on neural networks", NeurIPS 2018, 1804.00792.
    """

    def __init__(self, config: FeatureCollisionConfig) -> None:
        self.config = config
        self.attacked: Tensor | None = None

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' data with perturbed inputs of the target class and without the attacked ones."""
        if not any(len(examples) for examples in signal.clients.values()):
            return signal
        found = aim(signal, self.config, ctx)
        self.attacked = found.attacked
        return found.perturbed(self.craft(surrogate(found.pool, self.config.epochs, ctx), found))

    def craft(self, module: nn.Module, found: Aim) -> Tensor:
        """The poisoned inputs [m, ...] of the bases."""
        config, (low, high) = self.config, limits(found.pool.x)
        device = next((p.device for p in module.parameters()), found.pool.x.device)
        turns = torch.arange(len(found.bases)) % len(found.attacked)
        aims = found.attacked[turns].to(device)
        base = (1 - config.opacity) * found.pool.x[found.bases].to(device) + config.opacity * aims
        with torch.no_grad():
            wanted = embed(module, aims)[0]
        wide = (-1, *[1] * (base.dim() - 1))

        def collision(x: Tensor) -> Tensor:
            return (embed(module, x)[0] - wanted).square().sum(1)

        def whole(x: Tensor, apart: Tensor) -> Tensor:
            return apart + config.beta * (x - base).square().flatten(1).sum(1)

        x, rate = base, torch.full((len(base),), config.lr).to(base)
        for _ in range(config.steps):
            with torch.enable_grad():
                at = x.detach().requires_grad_(True)
                apart = collision(at)
                (slope,) = torch.autograd.grad(apart.sum(), at)
            step = rate.view(wide)
            moved = ((x - step * slope + step * config.beta * base) / (1 + step * config.beta)).clamp(low, high)
            with torch.no_grad():
                falls = whole(moved, collision(moved)) <= whole(x, apart)
            x, rate = torch.where(falls.view(wide), moved, x), torch.where(falls, rate, rate / 2)
        return x.to(found.pool.x)

    def objective(self, test: Examples, ctx: Setup) -> Objective:
        """The withheld inputs as the target class."""
        return wants(self.attacked, self.config, test, ctx)
