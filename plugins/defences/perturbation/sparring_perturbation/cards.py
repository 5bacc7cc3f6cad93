"""What the cards of pruning, quantisation and Soteria measure: effect, cost, and what an attacker who knows of it reaches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.local import Batch, LocalPlan
from sparring.roles import Defence
from sparring.signals import Updates
from sparring.testing.experiments import CLASSES, FEATURES, outcome
from sparring.testing.fixtures import Tiny, make_round, make_setup
from sparring.train import pure_loss
from sparring_perturbation.gradient_pruning import GradientPruning
from sparring_perturbation.gradient_quantisation import GradientQuantisation
from sparring_perturbation.plugin import GradientPruningConfig, GradientQuantisationConfig, SoteriaConfig
from sparring_perturbation.probe import LAYOUT, gradients, grey, images, matched, reached
from sparring_perturbation.soteria import Soteria

IMAGES, REPEATED = 4, 64
INPUTS, HIDDEN = 64, 32
"""Of `Tiny`, whose first tensor holds these two, multiplied, numbers."""
CLASSIFIER = next(s for s in LAYOUT.segments if s.name == "3.weight")


def _sent(defence: Defence[Updates], rows: Tensor) -> Tensor:
    """What clients with these gradients send, as gradients."""
    updates = Updates(-rows, LAYOUT, tuple(range(len(rows))), torch.ones(len(rows)))
    return -defence.defence_transform(updates, make_round("defence")).rows


def _accuracy(**sections: object) -> float:
    return outcome(**sections).accuracy or 0.0


def gradient_pruning() -> dict[str, float]:
    """Share that is sent; PSNR of matching with and without the mask; accuracy with pruned updates."""
    x, y = images(IMAGES)
    g = gradients(x, y).detach()
    sent = _sent(GradientPruning(GradientPruningConfig(fraction=0.9)), g)
    everything = torch.ones_like(g)
    found = matched(torch.cat([g, sent, sent]), y.repeat(3), torch.cat([everything, everything, (sent != 0).to(g)]))
    plain, unaware, aware = (reached(part, x) for part in found.split(IMAGES))
    return {
        "share of coordinates that are not 0": float((sent != 0).double().mean()),
        "change of the coordinates that are sent": float((sent - g)[sent != 0].abs().max()),
        "least sent magnitude over largest unsent, of the worst row": _separation(g, sent),
        "PSNR of grey": grey(x),
        "PSNR, undefended": plain,
        "PSNR, attack that does not know": unaware,
        "PSNR, attack that matches on the mask": aware,
        "accuracy": _accuracy(defences=[{"gradient-pruning": {"fraction": 0.9}}]),
        "accuracy, undefended": _accuracy(),
    }


def _separation(g: Tensor, sent: Tensor) -> float:
    least = g.abs().masked_fill(sent == 0, torch.inf).amin(1)
    return float((least / g.abs().masked_fill(sent != 0, 0).amax(1)).min())


def gradient_quantisation() -> dict[str, float]:
    """Moments and levels of the rounding; PSNR from one row, and from the mean of several; accuracy with coarse updates."""
    x, y = images(IMAGES)
    g = gradients(x, y).detach()
    coarse = GradientQuantisation(GradientQuantisationConfig(bits=2))
    # 64 clients hold each image, so that each draws for itself.
    drawn = _sent(coarse, g.repeat(REPEATED, 1)).view(REPEATED, *g.shape)
    nearest = _sent(GradientQuantisation(GradientQuantisationConfig(bits=2, rounding="nearest")), g)
    found = matched(torch.cat([g, drawn[0], nearest, drawn.mean(0)]), y.repeat(4))
    plain, once, near, often = (reached(part, x) for part in found.split(IMAGES))
    first = g[:, : INPUTS * HIDDEN].double()
    m = first.abs().amax(1, keepdim=True)
    share = first.abs() / m
    error = drawn[..., : INPUTS * HIDDEN].double().mean(0) - first
    variance = m.square() * share * (1 - share) / REPEATED
    ramp = torch.zeros(1, LAYOUT.size)
    ramp[0, : INPUTS * HIDDEN] = torch.linspace(-1, 1, INPUTS * HIDDEN)
    fine = _sent(GradientQuantisation(GradientQuantisationConfig(bits=4)), ramp)[0, : INPUTS * HIDDEN]
    return {
        "squared error of the mean of 64 draws over its variance": float(error.square().sum() / variance.sum()),
        "levels of b = 4": float(len(fine.unique())),
        "largest error of nearest rounding over m / 2s": float((2 * (nearest[:, : INPUTS * HIDDEN] - first).abs() / m).max()),
        "PSNR of grey": grey(x),
        "PSNR, undefended": plain,
        "PSNR, b = 2": once,
        "PSNR, b = 2, nearest": near,
        "PSNR, b = 2, mean of 64 draws": often,
        "accuracy, b = 2": _accuracy(defences=[{"gradient-quantisation": {"bits": 2}}]),
        "accuracy, undefended": _accuracy(),
    }


def perceptron() -> nn.Module:
    """A model of the small task that has a representation."""
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.Sigmoid(), nn.Linear(16, CLASSES))


def soteria() -> dict[str, float]:
    """Which gradients change; PSNR with and without the classifier's weights; the first layer's own word; accuracy."""
    x, y = images(IMAGES)
    g, sent = gradients(x, y).detach(), _shown(x, y, 0.1)
    own = torch.zeros(LAYOUT.size, dtype=torch.bool)
    own[CLASSIFIER.start : CLASSIFIER.stop] = True
    everything, others = torch.ones_like(g), (~own).to(g).expand_as(g)
    found = matched(torch.cat([g, sent, sent]), y.repeat(3), torch.cat([everything, everything, others]))
    plain, unaware, aware = (reached(part, x) for part in found.split(IMAGES))
    hidden = (sent[:, own].view(IMAGES, *CLASSIFIER.shape) == 0).all(1)
    task = {"model": perceptron, "federation": {"clients": 10, "rounds": 10, "local_epochs": 4, "optimiser": {"lr": 1.0}}}
    return {
        "share of the representation that is hidden": float(hidden.double().mean()),
        "change of the other gradients": float((sent - g)[:, ~own].abs().max()),
        "PSNR of grey": grey(x),
        "PSNR, undefended": plain,
        "PSNR, attack that does not know": unaware,
        "PSNR, attack that leaves the classifier out": aware,
        "PSNR, first layer's gradient over that of its bias": reached(_read(sent).view_as(x), x),
        "accuracy": _accuracy(**task, defences=[{"soteria": {"fraction": 0.6}}]),
        "accuracy, undefended": _accuracy(**task),
    }


def _shown(x: Tensor, y: Tensor, p: float) -> Tensor:
    """Rows [n, d]: each image's gradient behind Soteria."""
    plan = Soteria(SoteriaConfig(fraction=p)).defence_transform(LocalPlan(), make_setup())
    module = Tiny()
    loss, theta = pure_loss(module, plan), {name: p.detach() for name, p in module.named_parameters()}
    rows = []
    for k in range(len(y)):
        found = plan.gradient.grads(loss, theta, Batch(x[k : k + 1], y[k : k + 1]), {})
        rows.append(torch.cat([found[s.name].reshape(-1) for s in LAYOUT.segments]))
    return torch.stack(rows)


def _read(rows: Tensor) -> Tensor:
    """Inputs [n, 64] by division: of a linear layer, dL/dW_i = dL/db_i x."""
    parts = LAYOUT.split(rows)
    bias, weight = parts["1.bias"], parts["1.weight"]
    largest = bias.abs().argmax(1)
    at = torch.arange(len(rows))
    return weight[at, largest] / bias[at, largest, None]
