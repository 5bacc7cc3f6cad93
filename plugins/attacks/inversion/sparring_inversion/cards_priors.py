"""What the reference card of adversarial-priors measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from sparring.likeness import psnr
from sparring.local import cross_entropy
from sparring.signals import Examples
from sparring.testing.fixtures import SHAPE, Victim, make_setup, smooth, tiny_victim
from sparring.views import Reconstruction
from sparring_inversion.adversarial_priors import AdversarialPriors
from sparring_inversion.matching import stacks
from sparring_inversion.plugin_priors import AdversarialPriorsConfig

IMAGES = 6
OWN = 40
SEED = 0
NOISE = 2.0
"""Norm of the noise on an update, in norms of the update."""
FIRM = {"features": 0.3, "style": 0.3}


def adversarial_priors() -> dict[str, float]:
    """What own images add to gradients under noise, what gradients add to own images, and what noise alone adds: nothing."""
    (clear, own), (noisy, _) = _victim(0), _victim(NOISE)
    means = {(0, c.client): own.x[own.y == k % SHAPE.classes].mean(0)[None] for k, c in enumerate(clear.view.captures)}
    found, drowned = _found(clear, own), _found(clear.drowned(), own)
    firm, loose = _found(noisy, own, **FIRM), _found(noisy, own, features=0, style=0)
    start = _found(clear, own, iterations=1, lr=1e-9)
    reached = _psnr(found.inputs, clear)
    return {
        "PSNR, mean": fmean(reached),
        "PSNR without the gradient, mean": fmean(_psnr(found.prior, clear)),
        "PSNR of the class means, mean": fmean(_psnr(means, clear)),
        "gain over what is found without the gradient, mean": _gain(reached, _psnr(found.prior, clear)),
        "gain over the class means, mean": _gain(reached, _psnr(means, clear)),
        "gain by features and style under noise, mean": _gain(_psnr(firm.inputs, noisy), _psnr(loose.inputs, noisy)),
        "gain over the class means where gradients are noise of equal norm, mean": _gain(
            _psnr(drowned.inputs, clear), _psnr(means, clear)
        ),
        "largest distance of a start from the class's mean": max(
            float((start.inputs[key] - mean).abs().max()) for key, mean in means.items()
        ),
    }


def _classes(n: int) -> Tensor:
    return torch.arange(n) % SHAPE.classes


def _victim(noise: float) -> tuple[Victim, Examples]:
    """Clients whose images are of classes that look alike, gradients under noise of so many norms, and more such images."""
    draw = torch.Generator().manual_seed(SEED)
    n = OWN * SHAPE.classes
    x = 0.6 * smooth(SHAPE.classes, draw)[_classes(n + IMAGES)] + 0.4 * smooth(n + IMAGES, draw)
    own, images, y = Examples(x[:n], _classes(n)), x[n:], _classes(IMAGES)
    victim = tiny_victim(IMAGES)
    captures = [replace(c, labels=y[k : k + 1]) for k, c in enumerate(victim.view.captures)]
    (stack,) = stacks(replace(victim.view, captures=captures, loss=cross_entropy), "granted")
    rows = -torch.cat([g.detach().flatten(1) for g in stack.gradient(images[:, None]).values()], 1)
    drawn = torch.randn(rows.shape, generator=draw)
    rows += noise * drawn * rows.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
    captures = [replace(c, row=row) for c, row in zip(captures, rows, strict=True)]
    return Victim(replace(victim.view, captures=captures), images, own.x.mean(0)), own


def _found(victim: Victim, own: Examples, **options: object) -> Reconstruction:
    config = AdversarialPriorsConfig(**{"iterations": 80, "snapshots": 0, **options})
    return AdversarialPriors(config).attack_observe(victim.view, replace(make_setup("attack"), public=own))


def _psnr(found: Mapping[tuple[int, int | None], Tensor], victim: Victim) -> list[float]:
    return [psnr(found[c.round, c.client][0], x) for c, x in zip(victim.view.captures, victim.images, strict=True)]


def _gain(values: list[float], baseline: list[float]) -> float:
    return fmean(a - b for a, b in zip(values, baseline, strict=True))
