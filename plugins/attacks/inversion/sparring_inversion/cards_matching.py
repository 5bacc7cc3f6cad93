"""What the reference cards of cpl and gradinversion measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor, nn

from sparring.layout import Layout
from sparring.likeness import assigned, psnr, recovered
from sparring.local import cross_entropy
from sparring.signals import ModelPlan
from sparring.testing.fixtures import SHAPE, make_setup, smooth
from sparring.views import Capture, LocalSettings, Reconstruction, UpdateView
from sparring_inversion.batchnorm import Source, statistics
from sparring_inversion.cards import measured
from sparring_inversion.cpl import Cpl
from sparring_inversion.gradinversion import GradInversion, off
from sparring_inversion.matching import stacks
from sparring_inversion.plugin_matching import CplConfig, GradInversionConfig

BATCH, TEN = 4, replace(SHAPE, classes=10)


def cpl() -> dict[str, float]:
    """Labels recovered by iDLG, and PSNR of reconstructions from gradients and from noise."""
    return measured(Cpl(CplConfig(iterations=60, labels="idlg", snapshots=0, patch=2)))


def normalised(clients: int, seed: int = 0, width: int = 32) -> tuple[UpdateView, list[Tensor]]:
    """FedSGD updates of clients with a batch of smooth images of distinct labels, and these images.

    The model: two convolutions with BatchNorm and ReLU before a linear layer, untrained, whose running statistics are those of
    60 batches of 64 images like them.
    """

    def net() -> nn.Module:
        first, second = nn.Conv2d(1, width, 3, 2, 1), nn.Conv2d(width, width, 3, 1, 1)
        head = nn.Linear(16 * width, TEN.classes)
        norms = (nn.BatchNorm2d(width), nn.BatchNorm2d(width))
        return nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), nn.Flatten(), head)

    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = net()
    with torch.no_grad():
        for _ in range(60):
            module(smooth(64, draw))
    layout = Layout.of(module)
    start = layout.row(module)
    captures, images = [], [smooth(BATCH, draw) for _ in range(clients)]
    for client, x in enumerate(images):
        layout.load(module, start)
        y = torch.randperm(TEN.classes, generator=draw)[:BATCH]
        loss = nn.functional.cross_entropy(module(x), y)
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
        row = torch.cat([-gradient, (layout.row(module) - start)[layout.parameters :]])
        captures.append(Capture(0, client, start, row, layout, ModelPlan(net, TEN), 1, BATCH, y))
    settings = LocalSettings("fedsgd", 1.0, 0.0, 0.0, None, 1, None)
    return UpdateView(TEN, cross_entropy, captures, settings), images


def quality(found: Mapping[tuple[int, int | None], Tensor], images: Sequence[Tensor]) -> list[float]:
    """The mean PSNR of each client's batch after assignment."""
    return [fmean(psnr(found[0, k][i], x[j]) for i, j in assigned(found[0, k], x)) for k, x in enumerate(images)]


def gradinversion() -> dict[str, float]:
    """Labels, what an update says of its batch's statistics, and PSNR with these, without, and from noise."""
    view, images = normalised(clients=2)
    found = {source: inverted(view, source) for source in ("update", "none")}
    draw = torch.Generator().manual_seed(1)
    mean = smooth(64, draw).mean(0)
    guesses = [dict.fromkeys(found["none"].inputs, x.expand(BATCH, *x.shape)) for x in (torch.full_like(mean, 0.5), mean)]
    first = view.captures[0]
    noise = torch.randn(first.row.shape, generator=draw)
    drowned = replace(view, captures=[replace(first, row=noise * (first.row.norm() / noise.norm()))])
    with_it, without, grey, average = (
        quality(inputs, images) for inputs in (found["update"].inputs, found["none"].inputs, *guesses)
    )
    lost = quality(inverted(drowned, "update").inputs, images[:1])[0] - max(grey[0], average[0])
    guessed = max(fmean(grey), fmean(average))
    return {
        "share of labels recovered": fmean(
            recovered(found["update"].labels[0, c.client], c.labels) for c in view.captures if c.labels is not None
        ),
        "distance of statistics of the true batches to those that updates give away": given_away(view, images),
        "PSNR, statistics update, mean": fmean(with_it),
        "PSNR of the better of grey and mean image, mean": guessed,
        "gain of update over none": fmean(with_it) - fmean(without),
        "gain of none over the better of grey and mean image": fmean(without) - guessed,
        "gain where an update is noise of equal norm": lost,
    }


def given_away(view: UpdateView, images: Sequence[Tensor]) -> float:
    """The largest distance, over clients, of the moments that true batches make to what their rows say."""
    (stack,) = stacks(view, "granted")
    held = statistics(stack, "update", view.settings)
    return float(off(replace(stack, watched=tuple(held)).look(torch.stack(list(images))).moments, held).max())


def inverted(view: UpdateView, source: Source) -> Reconstruction:
    """What gradinversion makes of ``view`` from one seed."""
    config = GradInversionConfig(iterations=150, restarts=1, statistics=source, labels="yin", snapshots=0)
    return GradInversion(config).attack_observe(view, make_setup("attack"))
