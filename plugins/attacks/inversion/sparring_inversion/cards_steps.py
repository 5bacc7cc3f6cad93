"""What the reference card of fedavg-inversion measures."""

from __future__ import annotations

from statistics import median

import torch
from torch import nn

from sparring.keys import Key
from sparring.lab import Lab
from sparring.layout import Layout
from sparring.local import cross_entropy
from sparring.signals import Examples, ModelPlan
from sparring.testing.fixtures import SHAPE, Victim, smooth
from sparring.views import Capture, LocalSettings, UpdateView
from sparring_inversion.cards import measured, psnrs, reconstructed
from sparring_inversion.fedavg_inversion import FedavgInversion
from sparring_inversion.inverting_gradients import InvertingGradients
from sparring_inversion.matching import cosine, stacks
from sparring_inversion.plugin import InvertingGradientsConfig
from sparring_inversion.plugin_steps import FedavgInversionConfig
from sparring_inversion.unroll import unrolled

CLIENTS = 3
SETTINGS = LocalSettings("fedavg", 0.1, 0.0, 0.0, None, 1, 3)
QUICK = {"iterations": 100, "restarts": 1, "lr": 0.1, "momentum": 0.9, "snapshots": 0, "labels": "idlg"}


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(192, SHAPE.classes))


def trained(settings: LocalSettings, seed: int = 0) -> Victim:
    """Clients with one smooth image each that train an untrained ConvNet on it, by the core's own client, for one round."""
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _net()
    plan, layout = ModelPlan(_net, SHAPE), Layout.of(module)
    lab = Lab(plan, layout, settings, Key(seed), torch.device("cpu"), torch.float32)
    row, x, captures = layout.row(module), smooth(CLIENTS, draw), []
    for k in range(CLIENTS):
        own = Examples(x[k : k + 1], torch.tensor([k % SHAPE.classes]))
        captures.append(Capture(0, k, row, lab.update(row, own), layout, plan))
    return Victim(UpdateView(SHAPE, cross_entropy, captures, settings), x, smooth(64, draw).mean(0))


def fedavg_inversion() -> dict[str, float]:
    """PSNR from updates of three local steps and from noise, and that of inverting-gradients, which simulates none."""
    victim = trained(SETTINGS)
    found = measured(FedavgInversion(FedavgInversionConfig.model_validate(QUICK)), victim)
    plain = psnrs(reconstructed(InvertingGradients(InvertingGradientsConfig.model_validate(QUICK)), victim), victim)
    (stack,) = stacks(victim.view, "idlg")
    true = victim.images[:, None]
    return {
        **found,
        "PSNR of inverting-gradients, median": median(plain),
        "gain over inverting-gradients, median": found["PSNR, median"] - median(plain),
        "1 - cosine of the true images' simulated update, largest": float(
            (1 - cosine(unrolled(stack, SETTINGS)(true).gradient, stack)).max()
        ),
        "1 - cosine of the true images' gradient, least": float((1 - cosine(stack.gradient(true), stack)).min()),
    }
