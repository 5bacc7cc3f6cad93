"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from sparring.keys import Key
from sparring.signals import Updates
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import make_layout, make_round
from sparring_poisoning.alie import ALIE
from sparring_poisoning.plugin import ALIEConfig, SignFlipConfig
from sparring_poisoning.sign_flip import SignFlip


def _rows(n: int, d: int, name: str) -> Tensor:
    """Rows [n, d] of independent N(0, 1), float64."""
    return torch.randn(n, d, generator=Key(0, ("card", name)).generator(), dtype=torch.float64)


def _updates(rows: Tensor) -> Updates:
    return Updates(rows, make_layout(rows.shape[1]), tuple(range(len(rows))), torch.ones(len(rows), dtype=rows.dtype))


def sign_flip() -> dict[str, float]:
    """The factor on a mean of equal updates, and the accuracy of the mean on the small task with and without the attack."""
    row = _rows(1, 1000, "sign-flip")
    rows = row.repeat(10, 1)
    rows[:2] = SignFlip(SignFlipConfig(scale=6)).attack_transform(_updates(rows[:2]), make_round()).rows
    held = {"compromised": {"fraction": 0.2, "control": "update"}}
    attacked = [outcome(seed=k, threat_model=held, attacks=[{"sign-flip": {"scale": 4}}]).accuracy or 0.0 for k in range(4)]
    return {
        "factor on a mean of 10 equal updates, 2 flipped, c = 6": float(rows.mean(0) @ row[0] / row[0].square().sum()),
        "accuracy of the mean, 2 of 10 flipped, c = 4": fmean(attacked),
        "accuracy of the mean without attack": fmean(outcome(seed=k).accuracy or 0.0 for k in range(4)),
    }


def alie() -> dict[str, float]:
    """z read off from what is sent, and what it does to the mean, to the median and to distances from the mean."""
    found = {f"z of {m} clients among {n}": float(_sent(n, m)[1].mean()) for n, m in ((50, 10), (50, 24), (51, 24))}
    honest = _rows(27, 20_000, "alie 51 24")
    sent, _ = _sent(51, 24)
    everyone = torch.cat([sent, honest])
    mu, sigma = honest.mean(0), honest.std(0, correction=0)
    few, _ = _sent(50, 10)
    others = _rows(40, 20_000, "alie 50 10")
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
    honest = _rows(n - m, 20_000, f"alie {n} {m}")
    ctx = replace(make_round(cohort=range(n)), benign=honest)
    own = _updates(_rows(m, 20_000, "alie own"))
    rows = ALIE(ALIEConfig(knowledge="benign")).attack_transform(own, ctx).rows
    return rows, (honest.mean(0) - rows[0]) / honest.std(0, correction=0)
