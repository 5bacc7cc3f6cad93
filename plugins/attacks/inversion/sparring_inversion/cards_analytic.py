"""What the reference cards of the attacks in closed form measure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from sparring.layout import Layout
from sparring.likeness import assigned, psnr
from sparring.local import Batch, cross_entropy
from sparring.signals import DataShape, ModelPlan
from sparring.testing.fixtures import SHAPE, Victim, make_setup, tiny_victim
from sparring.views import Capture, Reconstruction, UpdateView
from sparring_inversion.analytic import Analytic
from sparring_inversion.cards import measured
from sparring_inversion.plugin_analytic import AnalyticConfig, RGapConfig
from sparring_inversion.r_gap import RGap, chain, deficits
from sparring_inversion.structure import probe
from sparring_inversion.systems import Counts, System

FEW, ENOUGH = 2, 12


def chained(filters: int) -> nn.Sequential:
    """Three convolutions with LeakyReLU and a linear layer, no biases, on 8x8 images; the second one has ``filters``."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(
        *(
            nn.Conv2d(1, 8, 4, 2, 2, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, filters, 3, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
        ),
        *(
            nn.Conv2d(filters, 16, 3, 1, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(144, SHAPE.classes, bias=False),
        ),
    )
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
    return net


def victim(filters: int, images: int = 6) -> Victim:
    """Clients with one smooth image each, whose gradients of `chained` the server reads."""
    other = tiny_victim(images, labels=False)
    plan = ModelPlan(partial(chained, filters), SHAPE)
    module = plan.factory()
    layout, captures = Layout.of(module), []
    for k, capture in enumerate(other.view.captures):
        loss = cross_entropy(module, Batch(other.images[k : k + 1], torch.tensor([k % SHAPE.classes]))).mean()
        row = -torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
        captures.append(replace(capture, parameters=layout.row(module), row=row, layout=layout, plan=plan))
    return replace(other, view=UpdateView(SHAPE, cross_entropy, captures))


def _reached(found: Reconstruction, victim: Victim) -> list[float]:
    return [psnr(found.inputs[c.round, c.client][0], x) for c, x in zip(victim.view.captures, victim.images, strict=True)]


def _baseline(victim: Victim) -> list[float]:
    return [max(psnr(torch.full_like(x, 0.5), x), psnr(victim.mean, x)) for x in victim.images]


def _batch(view: UpdateView, x: Tensor) -> Capture:
    """A capture of a batch ``x`` [3, ...] in which each example has two rows of the first layer alone, the others mix."""
    first = view.captures[0]
    rows = 2 * len(x)
    delta = torch.rand(32, len(x), generator=torch.Generator().manual_seed(1)) + 0.1
    delta[:rows] *= torch.eye(len(x)).repeat(2, 1)
    row, parts = torch.zeros_like(first.row), {s.name: s for s in first.layout.segments}
    for name, g in (("1.weight", delta @ x.flatten(1)), ("1.bias", delta.sum(1))):
        row[parts[name].start : parts[name].stop] = -g.flatten()
    return replace(first, row=row, examples=len(x))


def analytic() -> dict[str, float]:
    """Errors of what is recovered from single examples and from a batch, and what noise gives."""
    attack, clients = Analytic(AnalyticConfig()), tiny_victim(6, labels=False)
    found = attack.attack_observe(clients.view, make_setup("attack"))
    single = [
        (found.inputs[c.round, c.client][0] - x).norm() / x.norm()
        for c, x in zip(clients.view.captures, clients.images, strict=True)
    ]
    batch, images = _batch(clients.view, clients.images[:3]), clients.images[:3]
    several = attack.attack_observe(replace(clients.view, captures=[batch]), make_setup("attack"))
    x = several.inputs[batch.round, batch.client]
    return {
        **measured(attack),
        "relative error of one example, largest": float(torch.stack(single).max()),
        "relative error of three examples with rows of their own, largest": max(
            float((x[i] - images[j]).norm() / images[j].norm()) for i, j in assigned(x, images)
        ),
    }


def r_gap() -> dict[str, float]:
    """PSNR from a chain that can be solved and from one that cannot, the deficits of both, and what noise gives."""
    attack = RGap(RGapConfig())
    enough, few = victim(ENOUGH), victim(FEW)
    found, guessed = (attack.attack_observe(v.view, make_setup("attack")) for v in (enough, few))
    noise = enough.drowned()
    drowned = _reached(attack.attack_observe(noise.view, make_setup("attack")), noise)
    baseline = _baseline(enough)
    return {
        "share of labels recovered": sum(
            int(found.labels[c.round, c.client]) == k % SHAPE.classes for k, c in enumerate(enough.view.captures)
        )
        / len(enough.view.captures),
        "PSNR, median": median(_reached(found, enough)),
        "PSNR of the better of grey and mean image, median": median(baseline),
        "gain where the second convolution has too few filters, median": median(
            a - b for a, b in zip(_reached(guessed, few), baseline, strict=True)
        ),
        "notes on a chain that can be solved": float(len(found.notes)),
        "equations that its second layer is short of, counted": float(sum(_counted(FEW).values())),
        "equations that its second layer is short of, by singular values": _measured_short(FEW),
        "equations that the second layer of CNN6-d is short of on 32x32": _second(20),
        "equations that the second layer of CNN6 is short of on 32x32": _second(36),
        "gain where gradients are noise of equal norm, mean": sum(a - b for a, b in zip(drowned, baseline, strict=True)) / 6,
    }


def _counted(filters: int) -> dict[str, int]:
    module = chained(filters)
    return deficits(chain(probe(module, SHAPE), {name: p.detach() for name, p in module.named_parameters()}, 4096))


def _second(filters: int) -> float:
    """The count for the second convolution of CNN6 and CNN6-d, on its 12x17x17 inputs."""
    conv = nn.Conv2d(12, filters, 3, 2, 1, bias=False)
    return float(Counts.of(probe(conv, DataShape((12, 17, 17), 2)).links[0]).short)


def _measured_short(filters: int) -> float:
    """The unknowns less the rank of the second convolution's two systems on top of each other, for a random error k."""
    module = chained(filters)
    link = probe(module, SHAPE).links[2]
    k = torch.randn(link.y[0].numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    system = System.of(link, k, torch.zeros(filters, 8, 3, 3, dtype=torch.float64))
    equations = torch.cat([system.W, torch.kron(torch.eye(8, dtype=torch.float64), system.K)])
    return float(equations.shape[1] - torch.linalg.matrix_rank(equations, rtol=1e-9))
