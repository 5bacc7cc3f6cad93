"""Gradient matching, Witches' Brew: training on the poison does what training on the misclassified target would do."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sparring.context import Context, Setup
from sparring.hookspecs import hookimpl
from sparring.objectives import Objective
from sparring.roles import ActiveAttack, Targeted
from sparring.signals import ClientData, Examples
from sparring_poisoning.data import Aim, aim, limits, surrogate, wants
from sparring_poisoning.plugin_data import GradientMatchingConfig

BETAS, DECAYS, TINY = (0.9, 0.999), (3 / 8, 5 / 8, 7 / 8), 1e-12


def gradient(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient [p] of the mean cross-entropy of ``x`` [m, ...] as labels ``y`` [m]; differentiable in x."""
    parameters = {name: p.detach().requires_grad_(True) for name, p in module.named_parameters()}
    with torch.enable_grad():
        loss = F.cross_entropy(functional_call(module, parameters, (x,)), y)
        found = torch.autograd.grad(loss, list(parameters.values()), create_graph=x.requires_grad, materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in found])


def misalignment(module: nn.Module, x: Tensor, y: Tensor, wanted: Tensor) -> Tensor:
    r"""$B = 1 - \cos(\sum_i \nabla_\theta \ell(f(x_i), y_i), \nabla_\theta \ell(f(x_t), y_{adv}))$, in [0, 2]."""
    own = gradient(module, x, y)
    cosine: Tensor = own @ wanted / (own.norm() * wanted.norm()).clamp(min=TINY)
    return 1 - cosine


@final
class GradientMatching(ActiveAttack[ClientData], Targeted):
    r"""Perturbs own examples of the class $y_{adv}$ = ``target``, under true labels, so that they minimise `misalignment`.

    $x_t$: ``targets`` inputs of the class ``source``, drawn from its own examples and withheld from training; their gradient
    is the mean. $\theta$: a surrogate trained in the lab on what is left for ``epochs``. $\|\delta_i\|_\infty \le
    \varepsilon$ by clipping after each step, and inputs stay in [0, 1] (or the data's range, where it is wider). Signed Adam:
    Adam on the sign of the gradient, with step ``lr`` times $\varepsilon$ that falls to a tenth after 3/8, 5/8 and 7/8 of the
    steps. Of ``restarts`` random starts the one of least B is used. The paper's 250 steps, 8 restarts, ensembles and
    augmentation are for ImageNet networks; the first two are options here, the others are not there.

    The objective: the released model takes the withheld inputs for $y_{adv}$. Raises `ConfigError` without a lab, for dense
    labels, and where its clients hold no example of one of the two classes.

    Source: Geiping, Fowl, Huang, Czaja, Taylor, Moeller and Goldstein, "Witches' Brew: industrial scale data poisoning via
    gradient matching", ICLR 2021, 2009.02276.
    """

    def __init__(self, config: GradientMatchingConfig) -> None:
        self.config = config
        self.attacked: Tensor | None = None

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' data with perturbed inputs of the target class and without the attacked ones."""
        if not any(len(examples) for examples in signal.clients.values()):
            return signal
        found = aim(signal, self.config, ctx)
        self.attacked = found.attacked
        return found.perturbed(self.craft(surrogate(found.pool, self.config.epochs, ctx), found, ctx.generator()))

    def craft(self, module: nn.Module, found: Aim, generator: torch.Generator) -> Tensor:
        """The poisoned inputs [m, ...] of the bases."""
        config, (low, high) = self.config, limits(found.pool.x)
        device = next((p.device for p in module.parameters()), found.pool.x.device)
        x, y = found.pool.x[found.bases].to(device), found.pool.y[found.bases].to(device)
        attacked = found.attacked.to(device)
        wanted = gradient(module, attacked, torch.full((len(attacked),), config.target, device=device))
        tried = []
        for _ in range(config.restarts):
            start = (2 * torch.rand(x.shape, generator=generator) - 1).to(x)
            delta = (x + config.eps * start).clamp(low, high) - x
            tried.append(self._descended(module, x, y, wanted, delta, low, high))
        best = torch.stack([loss for loss, _ in tried]).argmin()
        return torch.stack([poison for _, poison in tried])[best].to(found.pool.x)

    def _descended(
        self, module: nn.Module, x: Tensor, y: Tensor, wanted: Tensor, delta: Tensor, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        """The least B on the way from ``delta``, and the inputs that have it."""
        config = self.config
        first, second = torch.zeros_like(delta), torch.zeros_like(delta)
        best, least = x + delta, x.new_tensor(torch.inf)
        for step in range(config.steps + 1):
            with torch.enable_grad():
                at = (x + delta).requires_grad_(True)
                loss = misalignment(module, at, y, wanted)
                (slope,) = torch.autograd.grad(loss, at)
            best, least = torch.where(loss < least, at, best).detach(), torch.minimum(loss, least).detach()
            first = BETAS[0] * first + (1 - BETAS[0]) * slope.sign()
            second = BETAS[1] * second + (1 - BETAS[1]) * slope.sign().square()
            mean, deviation = first / (1 - BETAS[0] ** (step + 1)), (second / (1 - BETAS[1] ** (step + 1))).sqrt()
            rate = config.lr * config.eps * 0.1 ** sum(step >= at_share * config.steps for at_share in DECAYS)
            delta = (delta - rate * mean / (deviation + 1e-8)).clamp(-config.eps, config.eps)
            delta = (x + delta).clamp(low, high) - x
        return least, best

    def objective(self, test: Examples, ctx: Setup) -> Objective:
        """The withheld inputs as the target class."""
        return wants(self.attacked, self.config, test, ctx)
