"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from statistics import fmean, median

import torch

from sparring.likeness import psnr
from sparring.roles import PassiveAttack
from sparring.testing.fixtures import SHAPE, Victim, make_setup, tiny_victim
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.dlg import Dlg
from sparring_inversion.inverting_gradients import InvertingGradients
from sparring_inversion.plugin import DlgConfig, InvertingGradientsConfig

IMAGES = 6


def measured(attack: PassiveAttack[UpdateView | AggregateView], victim: Victim | None = None) -> dict[str, float]:
    """Labels and images that an attack makes of updates, by default six gradients, and of noise; and the null baseline."""
    victim = tiny_victim(IMAGES, labels=False) if victim is None else victim
    found = reconstructed(attack, victim)
    baseline = [max(psnr(torch.full_like(x, 0.5), x), psnr(victim.mean, x)) for x in victim.images]
    reached, drowned = psnrs(found, victim), psnrs(reconstructed(attack, victim.drowned()), victim)
    gains = [a - b for a, b in zip(reached, baseline, strict=True)]
    return {
        "share of labels recovered": fmean(
            int(found.labels[c.round, c.client]) == k % SHAPE.classes for k, c in enumerate(victim.view.captures)
        ),
        "PSNR, median": median(reached),
        "PSNR of the better of grey and mean image, median": median(baseline),
        "gain over the better of grey and mean image, median": median(gains),
        "share of images that gain 10 dB": fmean(gain >= 10 for gain in gains),
        "gain where gradients are noise of equal norm, mean": fmean(a - b for a, b in zip(drowned, baseline, strict=True)),
    }


def reconstructed(attack: PassiveAttack[UpdateView | AggregateView], victim: Victim) -> Reconstruction:
    """What an attack makes of a victim."""
    found = attack.attack_observe(victim.view, make_setup("attack"))
    assert isinstance(found, Reconstruction)
    return found


def psnrs(found: Reconstruction, victim: Victim) -> list[float]:
    """PSNR of each image."""
    return [psnr(found.inputs[c.round, c.client][0], x) for c, x in zip(victim.view.captures, victim.images, strict=True)]


def dlg() -> dict[str, float]:
    """Labels recovered by iDLG, and PSNR of reconstructions from gradients and from noise."""
    return measured(Dlg(DlgConfig(iterations=100, labels="idlg", snapshots=0)))


def inverting_gradients() -> dict[str, float]:
    """Labels recovered by iDLG, and PSNR of reconstructions from gradients and from noise."""
    config = InvertingGradientsConfig(iterations=300, restarts=1, labels="idlg", snapshots=0)
    return measured(InvertingGradients(config))
