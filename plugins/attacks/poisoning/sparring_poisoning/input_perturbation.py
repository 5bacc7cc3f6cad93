"""Input perturbation: adversarial examples as training data."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import ClientData
from sparring_poisoning.data import drawn, limits, put, surrogate, together
from sparring_poisoning.plugin_data import InputPerturbationConfig

AT_ONCE = 4096
SLACK = 1e-6


def ascended(module: nn.Module, x: Tensor, y: Tensor, start: Tensor, config: InputPerturbationConfig) -> Tensor:
    r"""$x^{t+1} = \Pi_{\|x' - x\|_\infty \le \varepsilon}(x^t + \alpha\,\mathrm{sign}\,\nabla \ell(f(x^t), y))$, all at once.

    ``start`` [m, ...] in [-1, 1]: where in the ball they begin, in units of $\varepsilon$.
    """
    low, high = limits(x)
    device = next((p.device for p in module.parameters()), x.device)
    found = []
    for part, labels, first in zip(x.split(AT_ONCE), y.split(AT_ONCE), start.split(AT_ONCE), strict=True):
        own, labels = part.to(device), labels.to(device)
        moved = (own + config.eps * first.to(own)).clamp(low, high)
        for _ in range(config.steps):
            with torch.enable_grad():
                moved.requires_grad_(True)
                loss = F.cross_entropy(module(moved), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, moved)
            step = moved.detach() + config.alpha * gradient.sign() - own
            moved = (own + step.clamp(-config.eps, config.eps)).clamp(low, high)
        found.append(moved.to(x))
    out = torch.cat(found)
    assert float((out - x).abs().max()) <= config.eps + SLACK * (high - low), "a perturbation left its bound"
    return out


@final
class InputPerturbation(ActiveAttack[ClientData]):
    r"""Moves inputs within $\|\delta\|_\infty \le \varepsilon$ to maximise a surrogate's loss: a ``fraction`` of each client's.

    The surrogate is trained in the lab on the attack's own examples for ``epochs``; `ascended` moves the inputs from a random
    start in the ball, within [0, 1] (or the data's own range, where it is wider). ``labels: predicted``: they are labelled with
    the surrogate's likeliest class that is not the true one; ``true``: as before, error-maximising noise under true labels.
    Raises `ConfigError` without a lab, and for dense labels.

    Source: Usynin, Klause, Paetzold, Rueckert and Kaissis, "Can collaborative learning be private, robust and scalable?",
    DeCaF@MICCAI 2022, 2205.02652; the ascent: Madry, Makelov, Schmidt, Tsipras and Vladu, ICLR 2018, 1706.06083.
    """

    def __init__(self, config: InputPerturbationConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' data with perturbed inputs."""
        if not any(len(examples) for examples in signal.clients.values()):
            return signal
        pool = together(signal)
        module = surrogate(pool, self.config.epochs, ctx)
        clients = sorted(signal)
        streams = {client: ctx.generator(client) for client in clients}
        chosen = {c: drawn(torch.arange(len(signal.clients[c])), self.config.fraction, streams[c]) for c in clients}
        own = [signal.clients[c].take(chosen[c]) for c in clients]
        x, y = torch.cat([e.x for e in own]), torch.cat([e.y for e in own])
        start = torch.cat([2 * torch.rand(e.x.shape, generator=streams[c]) - 1 for c, e in zip(clients, own, strict=True)])
        moved = ascended(module, x, y, start, self.config)
        labels = y if self.config.labels == "true" else wrong(module, moved, y)
        sizes = [len(e) for e in own]
        held = {
            c: replace(signal.clients[c], x=put(signal.clients[c].x, chosen[c], a), y=put(signal.clients[c].y, chosen[c], b))
            for c, a, b in zip(clients, moved.split(sizes), labels.split(sizes), strict=True)
        }
        return replace(signal, clients={c: held[c] for c in signal})


@torch.no_grad()
def wrong(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The likeliest class [m] of each input that is not its true one."""
    device = next((p.device for p in module.parameters()), x.device)
    outputs = torch.cat([module(part.to(device)).to(x.device) for part in x.split(AT_ONCE)])
    return outputs.scatter(1, y[:, None], -torch.inf).argmax(1)
