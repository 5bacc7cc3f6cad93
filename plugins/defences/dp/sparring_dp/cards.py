"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import grad
from torch.nn.functional import cross_entropy

from sparring.claims import Event, GaussianEvent
from sparring.facts import Clipped
from sparring.keys import Key
from sparring.local import Batch, Client
from sparring.roles import Accountant
from sparring.signals import Examples, Updates
from sparring.testing.experiments import CLASSES, FEATURES, Blobs, outcome
from sparring.testing.fixtures import make_layout, make_round, make_setup
from sparring_dp.dp_sgd import PoissonSampler, PrivateGradient
from sparring_dp.gauss_noise import GaussNoise
from sparring_dp.norm_clip import NormClip
from sparring_dp.plugin import GaussNoiseConfig, NormClipConfig, PRVConfig, RDPConfig
from sparring_dp.prv import PRV
from sparring_dp.rdp import RDP
from sparring_dp.rdp_opacus import OpacusRDP

DELTA = 1e-5
SETTINGS: Mapping[str, tuple[float, float, int]] = {
    "Abadi et al., E = 100": (0.01, 4.0, 10_000),
    "Abadi et al., E = 400": (0.01, 4.0, 40_000),
    "TF-Privacy, 15 epochs": (256 / 60_000, 1.3, 3_510),
    "TF-Privacy, 60 epochs": (256 / 60_000, 1.1, 14_040),
    "TF-Privacy, 45 epochs": (256 / 60_000, 0.7, 10_530),
    "Opacus, 15 epochs": (0.004, 1.3, 3_750),
    "Opacus, 60 epochs": (0.004, 1.1, 15_000),
    "Opacus, 45 epochs": (0.004, 0.7, 11_250),
    "De et al., WRN-16-4": (4096 / 50_000, 10.0, 875),
}
"""Published runs of DP-SGD: sampling rate, noise multiplier, steps."""


def _updates(rows: Tensor) -> Updates:
    return Updates(rows, make_layout(rows.shape[1]), tuple(range(len(rows))), torch.ones(len(rows)))


def _spent(accountant: Accountant, *names: str) -> dict[str, float]:
    found = {}
    for name in names:
        q, sigma, steps = SETTINGS[name]
        event = GaussianEvent(sigma, unit="example", rate=q, steps=steps)
        found[f"epsilon, {name}"] = accountant.epsilon([(event, 1)], DELTA)
    return found


def norm_clip() -> dict[str, float]:
    """Norms, directions and untouched rows after clipping, and what one row of norm 1e6 does to a mean of ten rows."""
    C, generator = 1.5, Key(0, ("norm-clip",)).generator()
    clip = NormClip(NormClipConfig(bound=C))
    rows = torch.randn(200, 1000, generator=generator)
    rows = rows / rows.norm(dim=1, keepdim=True) * torch.logspace(-3, 3, 200)[:, None]
    out = clip.defence_transform(_updates(rows), make_round()).rows
    inside = rows.double().norm(dim=1) <= C
    honest = torch.zeros(10, 1000)
    honest[0] = 1e6 / math.sqrt(1000)
    clipped = clip.defence_transform(_updates(honest), make_round()).rows
    return {
        "largest norm over C": float(out.double().norm(dim=1).max()) / C,
        "least cosine of a row with itself before": float(torch.cosine_similarity(out.double(), rows.double()).min()),
        "rows within C that changed": float((out != rows).any(dim=1)[inside].sum()),
        "displacement of a mean of 10 by a row of norm 1e6": float(clipped.double().mean(0).norm()),
        "the same, unclipped": float(honest.double().mean(0).norm()),
    }


def gauss_noise() -> dict[str, float]:
    """Moments of the noise against N(0, (zC)^2), the best test for a client's presence, and the epsilon of the event."""
    C, z, n = 2.0, 1.0, 20
    emitted: list[Event] = []

    def noised(rows: Tensor, multiplier: float, seed: int) -> Tensor:
        mechanism = GaussNoise(GaussNoiseConfig(noise_multiplier=multiplier))
        ctx = make_round("gauss-noise", (Clipped("l2", "client", bound=C),), seed=seed)
        ctx = replace(ctx, emit=lambda event, ids: emitted.append(event))
        return mechanism.defence_transform(_updates(rows), ctx).rows

    rows = torch.randn(n, 50_000, generator=Key(0, ("gauss-noise",)).generator())
    rows *= C / rows.norm(dim=1, keepdim=True)
    noise = (noised(rows, z, 0) - rows).double()
    there = torch.tensor([[C, 0.0]]).expand(20_000, 2)
    found = (noised(there, z, 1)[:, 0] > C / 2).double().mean() + (noised(0 * there, z, 2)[:, 0] <= C / 2).double().mean()
    theorem = math.sqrt(2 * math.log(1.25 / DELTA)) / 0.5
    noised(rows[:2, :4], theorem, 3)
    accountant = PRV(PRVConfig())
    return {
        "epsilon at sigma = sqrt(2 ln(1.25/delta)) / 0.5": accountant.epsilon([(emitted[-1], 1)], DELTA),
        "epsilon at z = 1": accountant.epsilon([(emitted[0], 1)], DELTA),
        "standard deviation of the noise over zC": float(noise.std()) / (z * C),
        "excess kurtosis of the noise": float((noise / noise.std()).pow(4).mean()) - 3,
        "correlation of the noise of neighbouring clients": float((noise[0::2] * noise[1::2]).mean() / noise.var()),
        "accuracy of the best test for one client": float(found) / 2,
    }


def dp_sgd() -> dict[str, float]:
    """Published epsilons from the rule's own event, lots, sensitivity and noise, and what it costs on the small task."""
    C, sigma, N, L = 0.1, 1.3, 1000, 50
    client, rule = Client(0, N, L, 4000), PrivateGradient(C, sigma, 64)
    generator = Key(0, ("dp-sgd",)).generator()
    sizes = torch.tensor([float(len(lot)) for lot in PoissonSampler().batches(client, generator)])
    numbers = rule.numbers(client)
    noise = rule.noise(500_000, numbers, generator).double()
    examples = Blobs(40, 1).load(make_setup()).train
    whole = _gradient(rule, client, examples)
    without = [whole - _gradient(rule, client, examples.take(torch.arange(40) != i)) for i in range(40)]
    loose = _gradient(PrivateGradient(1e3, sigma, 7), Client(0, 40, 40, 1), examples)
    accountant = RDP(RDPConfig())
    published = {
        f"epsilon, Abadi et al., E = {steps // 100}": accountant.epsilon(
            [(PrivateGradient(C, 4.0, 64).event(Client(0, 60_000, 600, steps)), 1)], DELTA
        )
        for steps in (10_000, 40_000)
    }
    federation = {"clients": 1, "rounds": 3, "batch_size": 40, "optimiser": {"lr": 1.0}}
    private = outcome(federation=federation, defences=[{"dp-sgd": {"bound": 1.0, "noise_multiplier": 1.0}}])
    return {
        **published,
        "mean size of a lot over qN": float(sizes.mean()) / L,
        "variance of the size of a lot over Nq(1-q)": float(sizes.var()) / (L * (1 - L / N)),
        "largest effect of one example on the sum over C": max(float(change.norm()) for change in without) * L / C,
        "standard deviation of the noise over sigma C / L": float(noise.std()) * L / (sigma * C),
        "distance from the plain gradient under a loose bound": float((loose - _plain(examples)).abs().max()),
        "epsilon on the small task": private.epsilon["example"],
        "accuracy on the small task": private.accuracy or 0.0,
        "accuracy on the small task without dp-sgd": outcome(federation=federation).accuracy or 0.0,
    }


def _loss(params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(x @ params["weight"].T + params["bias"], y, reduction="none")


def _start() -> dict[str, Tensor]:
    return {"weight": torch.zeros(CLASSES, FEATURES), "bias": torch.zeros(CLASSES)}


def _flat(grads: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([g.reshape(-1) for g in grads.values()]).double()


def _gradient(rule: PrivateGradient, client: Client, examples: Examples) -> Tensor:
    numbers = {name: torch.tensor(value) for name, value in rule.numbers(client).items()}
    return _flat(rule.grads(_loss, _start(), Batch(examples.x, examples.y), numbers))


def _plain(examples: Examples) -> Tensor:
    return _flat(grad(lambda p: _loss(p, examples.x, examples.y).mean())(_start()))


def rdp() -> dict[str, float]:
    """Epsilons of published DP-SGD runs, by the classic conversion that they were published with."""
    return _spent(RDP(RDPConfig()), *(name for name in SETTINGS if not name.startswith("De")))


def rdp_opacus() -> dict[str, float]:
    """Epsilons of published DP-SGD runs by the improved conversion, and the largest difference from `rdp`'s."""
    found = _spent(OpacusRDP(), *SETTINGS)
    ours = _spent(RDP(RDPConfig(conversion="improved")), *SETTINGS)
    return {**found, "largest difference from rdp, improved": max(abs(found[name] - ours[name]) for name in found)}


def prv() -> dict[str, float]:
    """Epsilons of published DP-SGD runs against privacy loss distributions, and the closed form of plain Gaussians."""
    accountant = PRV(PRVConfig())
    unsampled = {
        f"epsilon of {steps} Gaussian releases, sigma {sigma:g}": accountant.epsilon(
            [(GaussianEvent(sigma, unit="example", rate=1.0, steps=steps), 1)], DELTA
        )
        for sigma, steps in ((1.0, 1), (4.0, 1), (10.0, 10), (10.0, 1000))
    }
    return {**_spent(accountant, *(name for name in SETTINGS if not name.startswith("Opacus"))), **unsampled}
