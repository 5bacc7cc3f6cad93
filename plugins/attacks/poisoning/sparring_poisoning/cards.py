"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sparring.keys import Key
from sparring.run import Outcome
from sparring.signals import Updates
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import make_layout, make_round
from sparring_poisoning.alie import ALIE
from sparring_poisoning.free_rider import FreeRider
from sparring_poisoning.gaussian import Gaussian
from sparring_poisoning.non_finite import NonFinite
from sparring_poisoning.plugin import ALIEConfig, SignFlipConfig
from sparring_poisoning.plugin_blind import FreeRiderConfig, GaussianConfig, NonFiniteConfig, ScaledConfig
from sparring_poisoning.scaled import Scaled
from sparring_poisoning.sign_flip import SignFlip


def normal_rows(n: int, d: int, name: str) -> Tensor:
    """Rows [n, d] of independent N(0, 1), float64."""
    return torch.randn(n, d, generator=Key(0, ("card", name)).generator(), dtype=torch.float64)


def updates_of(rows: Tensor, first: int = 0) -> Updates:
    """Rows [n, d] as updates of clients ``first``, ``first`` + 1, ... of equal weight."""
    ids = tuple(range(first, first + len(rows)))
    return Updates(rows, make_layout(rows.shape[1]), ids, torch.ones(len(rows), dtype=rows.dtype))


def small_outcome(attack: str = "", options: Mapping[str, Any] | None = None, seed: int = 0, share: float = 0.2) -> Outcome:
    """The small experiment under the mean, with a share of its 10 clients compromised, or without attack."""
    if not attack:
        return outcome(seed=seed)
    held = {"compromised": {"fraction": share, "control": "update"}}
    return outcome(seed=seed, threat_model=held, attacks=[{attack: dict(options or {})}])


def small_accuracy(attack: str = "", options: Mapping[str, Any] | None = None, share: float = 0.2) -> float:
    """Mean accuracy of the small experiment with seeds 0 and 1."""
    return fmean(small_outcome(attack, options, seed, share).accuracy or 0.0 for seed in (0, 1))


def sign_flip() -> dict[str, float]:
    """The factor on a mean of equal updates, and the accuracy of the mean on the small task with and without the attack."""
    row = normal_rows(1, 1000, "sign-flip")
    rows = row.repeat(10, 1)
    rows[:2] = SignFlip(SignFlipConfig(scale=6)).attack_transform(updates_of(rows[:2]), make_round()).rows
    return {
        "factor on a mean of 10 equal updates, 2 flipped, c = 6": float(rows.mean(0) @ row[0] / row[0].square().sum()),
        "accuracy of the mean, 2 of 10 flipped, c = 4": small_accuracy("sign-flip", {"scale": 4.0}),
        "accuracy of the mean without attack": small_accuracy(),
    }


def alie() -> dict[str, float]:
    """z read off from what is sent, and what it does to the mean, to the median and to distances from the mean."""
    found = {f"z of {m} clients among {n}": float(_sent(n, m)[1].mean()) for n, m in ((50, 10), (50, 24), (51, 24))}
    honest = normal_rows(27, 20_000, "alie 51 24")
    sent, _ = _sent(51, 24)
    everyone = torch.cat([sent, honest])
    mu, sigma = honest.mean(0), honest.std(0, correction=0)
    few, _ = _sent(50, 10)
    others = normal_rows(40, 20_000, "alie 50 10")
    centre = others.mean(0)
    return {
        **found,
        "displacement of the mean by 24 of 51, in sigma": float(((everyone.mean(0) - mu) / sigma).mean()),
        "displacement of the median by 24 of 51, in sigma": float(((everyone.median(0).values - mu) / sigma).mean()),
        "displacement of the median without attack, in sigma": float(((honest.median(0).values - mu) / sigma).mean()),
        "distance from the mean over the least honest one, 10 of 50": float(
            (few[0] - centre).norm() / (others - centre).norm(dim=1).min()
        ),
    }


def _sent(n: int, m: int) -> tuple[Tensor, Tensor]:
    """What m of n clients send that see the n - m honest rows, and its distance below their mean, in their deviations."""
    honest = normal_rows(n - m, 20_000, f"alie {n} {m}")
    ctx = replace(make_round(cohort=range(n)), benign=honest, honest=updates_of(honest, first=m))
    own = updates_of(normal_rows(m, 20_000, "alie own"))
    rows = ALIE(ALIEConfig(knowledge="benign")).attack_transform(own, ctx).rows
    return rows, (honest.mean(0) - rows[0]) / honest.std(0, correction=0)


def scaled() -> dict[str, float]:
    """The factor on a mean of equal updates, and the variance of a mean of different ones, with and without the attack."""
    row, rows = normal_rows(1, 1000, "scaled"), normal_rows(10, 20_000, "scaled rows")
    equal, spread = row.repeat(10, 1), rows.clone()
    attack = Scaled(ScaledConfig(scale=6))
    for held in (equal, spread):
        held[:2] = attack.attack_transform(updates_of(held[:2]), make_round()).rows
    return {
        "factor on a mean of 10 equal updates, 2 scaled, c = 6": float(equal.mean(0) @ row[0] / row[0].square().sum()),
        "variance of a mean of 10 independent updates, 2 scaled, c = 6": float(spread.mean(0).square().mean()),
        "variance of a mean of 10 independent updates without attack": float(rows.mean(0).square().mean()),
    }


def gaussian() -> dict[str, float]:
    """Deviation of what is sent, its correlations, and the accuracy of the mean on the small task with and without it."""
    rows = normal_rows(2, 20_000, "gaussian")
    attack = Gaussian(GaussianConfig(std=3))
    sent, later = (attack.attack_transform(updates_of(rows), make_round(index=k)).rows for k in (0, 1))

    def correlation(a: Tensor, b: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])

    return {
        "standard deviation of what is sent, s = 3": float(sent.std()),
        "correlation with the own update": correlation(sent, rows),
        "correlation of two clients": correlation(sent[0], sent[1]),
        "correlation of two rounds": correlation(sent, later),
        "accuracy of the mean, 2 of 10, s = 200": small_accuracy("gaussian"),
        "accuracy of the mean without attack": small_accuracy(),
    }


def non_finite() -> dict[str, float]:
    """What one row does to a bare mean, and that a run takes none of them in and is none the worse for it."""
    rows = normal_rows(10, 1000, "non-finite")
    rows[:1] = NonFinite(NonFiniteConfig()).attack_transform(updates_of(rows[:1]), make_round()).rows
    attacked, clean = small_outcome("non-finite"), small_outcome()
    return {
        "share of a bare mean that is NaN, 1 of 10": float(rows.mean(0).isnan().double().mean()),
        "updates rejected, 2 of 10 in 8 rounds": _rejected(attacked),
        "updates rejected without attack": _rejected(clean),
        "accuracy of the mean, 2 of 10": attacked.accuracy or 0.0,
        "accuracy of the mean without attack": clean.accuracy or 0.0,
    }


def _rejected(outcome: Outcome) -> float:
    """How many updates a run rejected, read off from its notes."""
    return float(sum(int(note.split()[0]) for note in outcome.notes if note.endswith("were rejected")))


def free_rider() -> dict[str, float]:
    """What is sent against the model's last change, and what riders cost a federation in part or in whole."""
    models = [torch.zeros(20_000, dtype=torch.float64)]
    models += [models[0] + k * normal_rows(1, 20_000, "free-rider")[0] for k in (1, 3, 4, 5)]
    own = updates_of(normal_rows(2, 20_000, "free-rider own"))

    def last(noise: float) -> Tensor:
        attack = FreeRider(FreeRiderConfig(noise=noise, decay=1))
        for k, model in enumerate(models):
            sent = attack.attack_transform(own, replace(make_round(index=k), parameters=model)).rows
        return sent

    change, unit = models[4] - models[3], (models[1] - models[0]).square().mean().sqrt()
    return {
        "distance from the model's last change, over it": float((last(0.0) - change).norm() / change.norm()),
        "noise in the round of index 4, noise 2, decay 1": float((last(2.0) - change).std() / unit),
        "accuracy of the mean, 5 of 10 ride": small_accuracy("free-rider", share=0.5),
        "accuracy of the mean, all ride": small_accuracy("free-rider", share=1.0),
        "accuracy of the mean, none rides": small_accuracy(),
    }
