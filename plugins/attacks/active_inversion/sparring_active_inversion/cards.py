"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, median

import torch
from torch import Tensor

from sparring.likeness import assigned, psnr
from sparring.local import cross_entropy
from sparring.roles import ActiveAttack, PassiveAttack
from sparring.signals import Broadcast
from sparring.testing.fixtures import IDS, SHAPE, make_round, make_setup, smooth, tiny_layout, tiny_plan
from sparring.views import AggregateView, Capture, Reconstruction, UpdateView
from sparring_active_inversion.curious_abandon_honesty import SetTraps, SpringTraps
from sparring_active_inversion.fishing import Cast, Haul
from sparring_active_inversion.plugin import CuriousAbandonHonestyConfig, FishingConfig, RobbingTheFedConfig
from sparring_active_inversion.robbing_the_fed import Imprint, ReadImprint

EXACT = 50.0
"""PSNR in dB from which a reconstruction counts as exact: a root mean squared error of .3 % of the range."""
Reader = PassiveAttack[UpdateView | AggregateView]


def answers(attack: ActiveAttack[Broadcast], x: Tensor, y: Tensor, seed: int = 0, clients: int = 1) -> Capture:
    """What answers the model that ``attack`` sends: the gradient of a batch ``x``, ``y``; of several ``clients``, the mean."""
    plan, layout = tiny_plan(), tiny_layout()
    honest = Broadcast(plan, layout.row(plan.factory()), layout)
    sent = attack.attack_transform(honest, make_round("attack", seed=seed))
    rows = [gradient(sent, *part) for part in zip(x.chunk(clients), y.chunk(clients), strict=True)]
    client = IDS[0] if clients == 1 else None
    return Capture(0, client, sent.row, torch.stack(rows).mean(0), sent.layout, sent.plan, clients, len(x))


def gradient(sent: Broadcast, x: Tensor, y: Tensor) -> Tensor:
    """What a client sends, minus the gradient, as float32 leaves it: parameters after a step less those before."""
    with torch.random.fork_rng(devices=[]):
        module = sent.plan.factory()
    sent.layout.load(module, sent.row)
    torch.nn.functional.cross_entropy(module(x), y).backward()
    slopes = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return (sent.row - torch.cat([slopes[s.name].reshape(-1) for s in sent.layout.segments])) - sent.row


def drowned(capture: Capture, seed: int = 0) -> Capture:
    """The capture with noise of equal norm in place of its row."""
    noise = torch.randn(capture.row.shape, generator=torch.Generator().manual_seed(seed))
    return replace(capture, row=noise * (capture.row.norm() / noise.norm()))


def found(reader: Reader, *captures: Capture) -> Reconstruction:
    """What ``reader`` makes of captures."""
    if captures[0].client is None:
        result = reader.attack_observe(AggregateView(SHAPE, cross_entropy, captures), make_setup("attack"))
    else:
        result = reader.attack_observe(UpdateView(SHAPE, cross_entropy, captures), make_setup("attack"))
    assert isinstance(result, Reconstruction)
    return result


def quality(reader: Reader, capture: Capture, x: Tensor) -> list[float]:
    """PSNR of each input of a batch, after assignment."""
    inputs = found(reader, capture).inputs[capture.round, capture.client]
    return [psnr(inputs[i], x[j]) for i, j in assigned(inputs, x)]


def normal(n: int, generator: torch.Generator, mean: float = 0.5, deviation: float = 0.05) -> Tensor:
    """Images [n, 1, 8, 8] whose brightness is N(mean, deviation^2)."""
    pattern = smooth(n, generator)
    pattern = pattern - pattern.mean((1, 2, 3), keepdim=True)
    brightness = mean + deviation * torch.randn(n, 1, 1, 1, generator=generator)
    return (brightness + 0.25 * pattern / pattern.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)


def exact(values: list[float]) -> float:
    """The share of PSNR values that count as exact."""
    return fmean(value >= EXACT for value in values)


def _batches(count: int, B: int, draw: Callable[[int, torch.Generator], Tensor]) -> list[tuple[int, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = [(draw(B, generator), torch.randint(SHAPE.classes, (B,), generator=generator)) for _ in range(count)]
    return [(seed, *batch) for seed, batch in enumerate(made)]


def _gain(values: list[float], x: Tensor) -> float:
    """The mean gain in dB over a grey image."""
    return fmean(values) - fmean(psnr(torch.full_like(image, 0.5), image) for image in x)


def robbing_the_fed() -> dict[str, float]:
    """Inputs that come out exactly, of one client's batch and of the mean of four clients, and of noise."""
    config = RobbingTheFedConfig(deviation=0.05)
    send, read = Imprint(config), ReadImprint(config)
    single, several, noise = [], [], []
    for seed, x, y in _batches(60, 32, normal):
        capture = answers(send, x, y, seed)
        single.append(exact(quality(read, capture, x)))
        several.append(exact(quality(read, answers(send, x, y, seed, clients=4), x)))
        if seed < 10:
            noise.append(_gain(quality(read, drowned(capture), x), x))
    return {
        "share of 32 inputs recovered exactly by 256 bins": fmean(single),
        "the same from the mean of four clients": fmean(several),
        "gain over grey where gradients are noise of equal norm": fmean(noise),
    }


def curious_abandon_honesty() -> dict[str, float]:
    """Inputs that come out exactly with traps and with symmetric weights, and of noise."""
    trap, plain = (CuriousAbandonHonestyConfig(neurons=256, factor=factor) for factor in (None, 1.0))
    shares: list[float] = []
    symmetric: list[float] = []
    noise = []
    for seed, x, y in _batches(16, 16, smooth):
        capture = answers(SetTraps(trap), x, y, seed)
        shares.append(exact(quality(SpringTraps(trap), capture, x)))
        symmetric.append(exact(quality(SpringTraps(plain), answers(SetTraps(plain), x, y, seed), x)))
        noise.append(_gain(quality(SpringTraps(trap), drowned(capture), x), x))
    return {
        "share of 16 inputs recovered exactly by 256 traps": fmean(shares),
        "the same with symmetric weights": fmean(symmetric),
        "gain over grey where gradients are noise of equal norm": fmean(noise),
    }


def fishing() -> dict[str, float]:
    """How near the isolated gradient is to that of the one example, and the image that is inverted from it."""
    config = FishingConfig(iterations=200, restarts=1)
    send, read = Cast(config), Haul(config)
    batches = _batches(4, 8, smooth)
    y = torch.tensor([0, 1, 2, 3, 1, 2, 3, 1])
    captures = [replace(answers(send, x, y, seed), client=IDS[seed]) for seed, x, _ in batches]
    away, noise = [], []
    for capture, (seed, x, _) in zip(captures, batches, strict=True):
        alone = answers(send, x[:1], y[:1], seed).row
        away.append(float((read.isolated(capture).row - alone).norm() / alone.norm()))
        noise.append(_gain(quality(read, drowned(capture, seed), x), x))
    inputs = found(read, *captures).inputs
    caught = [psnr(inputs[0, IDS[seed]][0], x[0]) for seed, x, _ in batches]
    grey = [psnr(torch.full_like(x[0], 0.5), x[0]) for _, x, _ in batches]
    return {
        "relative distance of the isolated gradient to that of the example alone": max(away),
        "PSNR of the fished image, median": median(caught),
        "gain of the fished image over grey, median": median(a - b for a, b in zip(caught, grey, strict=True)),
        "gain over grey where gradients are noise of equal norm": fmean(noise),
    }
