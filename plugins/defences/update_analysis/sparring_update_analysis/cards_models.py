"""What the reference cards of `plugin_models` measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sparring.context import Round
from sparring.keys import Key
from sparring.lab import Lab
from sparring.layout import Layout
from sparring.roles import Defence
from sparring.signals import Cohort, DataShape, Examples, ModelPlan, Release
from sparring.testing.experiments import CLASSES, FEATURES, Blobs, linear, outcome
from sparring.testing.fixtures import make_layout, make_round, make_setup
from sparring.verdicts import auc
from sparring.views import LocalSettings
from sparring_update_analysis.certificate import certify, radius, smoothed_votes
from sparring_update_analysis.configs_models import (
    CRFLConfig,
    DeepSightConfig,
    FlameConfig,
    FLDetectorConfig,
    RFLBATConfig,
)
from sparring_update_analysis.crfl import CRFL
from sparring_update_analysis.deepsight import DeepSight
from sparring_update_analysis.flame import Flame, FlameNoise
from sparring_update_analysis.fldetector import FLDetector, hessian_product
from sparring_update_analysis.rflbat import RFLBAT

GOOD, BAD, SIZE = 14, 6, 400
COHORTS = 20
"""Cohorts over which detection is averaged."""


def rows(seed: int, bad: int = BAD) -> Tensor:
    """Updates [20, 400]: a common direction of norm 1 and noise of norm 1; the last ``bad`` toward another one, ten times."""
    generator = Key(seed, ("rows",)).generator()
    common, wanted = torch.nn.functional.normalize(torch.randn(2, SIZE, generator=generator), dim=1)
    noise = torch.randn(GOOD + BAD, SIZE, generator=generator) / SIZE**0.5
    wrong = torch.arange(GOOD + BAD) >= GOOD + BAD - bad
    return torch.where(wrong[:, None], 10 * (wanted + 0.3 * noise), common + noise)


def cohort_of(updates: Tensor, layout: Layout | None = None) -> Cohort:
    """A cohort of clients 0, 1, ..., each with weight 1."""
    ids = tuple(range(len(updates)))
    return Cohort(updates, layout or make_layout(updates.shape[1]), ids, torch.ones(len(ids)), sources=ids)


def _judge(layer: Defence[Cohort], cohort: Cohort, ctx: Round, bad: range) -> tuple[Cohort, float | None, float, float]:
    """What comes out, the AUC, and the shares flagged of attackers and of honest clients."""
    out = layer.defence_transform(cohort, ctx)
    verdict = out.verdicts[-1]
    good = [client for client in verdict.suspicion if client not in bad]
    area = auc((verdict.suspicion[i] for i in bad), (verdict.suspicion[i] for i in good))
    flagged = len(verdict.flagged & set(bad)) / max(len(bad), 1)
    return out, area, flagged, len(verdict.flagged & set(good)) / len(good)


def _detection(make: Callable[[], Defence[Cohort]]) -> dict[str, float]:
    """Means over `COHORTS` cohorts of `rows`, and the displacement of one mean."""
    attacked, honest, moved = [], [], []
    for seed in range(COHORTS):
        updates = rows(seed)
        out, *found = _judge(make(), cohort_of(updates), make_round("layer", seed=seed), range(GOOD, GOOD + BAD))
        attacked.append(found)
        honest.append(_judge(make(), cohort_of(rows(seed, 0)), make_round("layer", seed=seed), range(0))[3])
        aim = updates[:GOOD].mean(0)
        moved.append([float((out.rows.mean(0) - aim).norm()), float((updates.mean(0) - aim).norm())])
    area, hits, alarms = (sum(column) / COHORTS for column in zip(*attacked, strict=True))
    displaced, plain = (sum(column) / COHORTS for column in zip(*moved, strict=True))
    return {
        "AUC": area,
        "share of attackers left out": hits,
        "share of honest clients left out beside them": alarms,
        "share of honest clients left out without an attack": sum(honest) / COHORTS,
        "displacement of the mean": displaced,
        "the same without the technique": plain,
    }


def _cost(name: str, **options: float) -> dict[str, float]:
    """Accuracy on the small task, without an attack."""
    return {
        "accuracy on the small task": outcome(defences=[{name: options}]).accuracy or 0.0,
        f"accuracy on the small task without {name}": outcome().accuracy or 0.0,
    }


def flame() -> dict[str, float]:
    """Detection, norms after clipping, and the noise on the release over lambda times the median norm."""
    p, noise = 20_000, 0.5
    ctx = make_round("flame/cohort")
    updates = torch.cat([rows(0), torch.zeros(GOOD + BAD, p - SIZE)], dim=1)
    out = Flame().defence_transform(cohort_of(updates), ctx)
    release = Release(torch.zeros(p), make_layout(p))
    added = FlameNoise(FlameConfig(noise=noise)).defence_transform(release, ctx.at("flame/release")).vector.double()
    S = updates.double().norm(dim=1).quantile(0.5)
    return {
        **_detection(Flame),
        "largest norm over the median norm": float(out.rows.double().norm(dim=1).max() / S),
        "variance of the noise over (lambda S)^2": float(added.square().mean() / (noise * S) ** 2),
        **_cost("flame"),
    }


def rflbat() -> dict[str, float]:
    """Detection and cost."""
    return {**_detection(lambda: RFLBAT(RFLBATConfig())), **_cost("rflbat")}


def lab_of(seed: int = 0) -> tuple[Lab, Tensor]:
    """A lab that trains `linear` on `Blobs`, and the model's row at zero."""
    plan = ModelPlan(linear, DataShape((FEATURES,), CLASSES))
    layout = Layout.of(linear())
    settings = LocalSettings("fedavg", 0.5, 0.0, 0.0, 10, 1, None)
    return Lab(plan, layout, settings, Key(seed), torch.device("cpu"), torch.float32), torch.zeros(layout.size)


def trained(seed: int, bad: int) -> tuple[Cohort, Round]:
    """Updates of 14 clients of 40 `Blobs`, the last ``bad`` with labels 0 for all and updates five times; and the context."""
    lab, row = lab_of(seed)
    data = Blobs(14 * 40, 1).load(make_setup(seed=seed)).train
    mixed = torch.randperm(len(data), generator=Key(seed, ("split",)).generator()).view(14, 40)
    made = []
    for k, index in enumerate(mixed):
        own = data.take(index)
        wrong = k >= 14 - bad
        update = lab.called(str(k)).update(row, Examples(own.x, torch.zeros_like(own.y)) if wrong else own)
        made.append(5 * update if wrong else update)
    ctx = replace(make_round("deepsight", seed=seed), parameters=row, layout=lab.layout, lab=lab)
    return cohort_of(torch.stack(made), lab.layout), ctx


def deepsight() -> dict[str, float]:
    """Detection of clients that know one label, norms after clipping, and cost."""
    found, honest, largest = [], [], []
    for seed in range(5):
        cohort, ctx = trained(seed, 4)
        out, *rest = _judge(DeepSight(DeepSightConfig()), cohort, ctx, range(10, 14))
        found.append(rest)
        largest.append(float(out.rows.double().norm(dim=1).max() / cohort.rows.double().norm(dim=1).quantile(0.5)))
        cohort, ctx = trained(seed, 0)
        honest.append(_judge(DeepSight(DeepSightConfig()), cohort, ctx, range(0))[3])
    area, hits, alarms = (sum(column) / len(found) for column in zip(*found, strict=True))
    return {
        "AUC": area,
        "share of attackers left out": hits,
        "share of honest clients left out beside them": alarms,
        "share of honest clients left out without an attack": sum(honest) / len(honest),
        "largest norm over the median norm": max(largest),
        **_cost("deepsight"),
    }


def quadratic(layer: FLDetector, bad: int, rounds: int = 14, seed: int = 0) -> tuple[list[float], float, float]:
    """AUC in each round, and shares flagged in the last of attackers and of others, of 12 clients with quadratic losses.

    Client i sends -(A_i (w - c_i)) / 10 [30] with noise of a hundredth; attackers, the last, send the common step reversed
    and noise as large as it.
    """
    generator = Key(seed, ("quadratic",)).generator()
    n, d = 12, 30
    A = 0.5 + torch.rand(n, d, generator=generator)
    centres = 1 + 0.3 * torch.randn(n, d, generator=generator)
    w, areas, hits, alarms = torch.zeros(d), [], 0.0, 0.0
    for t in range(rounds):
        updates = -A * (w - centres) / 10
        updates = updates + 0.01 * updates.norm(dim=1).mean() / d**0.5 * torch.randn(n, d, generator=generator)
        if bad:
            step = updates[:-bad].mean(0)
            updates[-bad:] = -step + step.norm() / d**0.5 * torch.randn(bad, d, generator=generator)
        ctx = replace(make_round("fldetector", index=t, seed=seed), parameters=w)
        out, area, hits, alarms = _judge(layer, cohort_of(updates), ctx, range(n - bad, n))
        areas.append(0.5 if area is None else area)
        w = w + out.rows.mean(0)
    return areas, hits, alarms


def fldetector() -> dict[str, float]:
    """Detection on quadratic losses, what the Hessian adds to the prediction, and cost."""
    made = [quadratic(FLDetector(FLDetectorConfig()), 4, seed=seed) for seed in range(5)]
    honest = [quadratic(FLDetector(FLDetectorConfig()), 0, seed=seed)[2] for seed in range(5)]
    S = torch.randn(4, 30, generator=Key(0, ("pairs",)).generator(), dtype=torch.float64)
    Y = S * torch.linspace(1, 3, 30, dtype=torch.float64)
    return {
        "error of the product with the last step, over its length": float(
            (hessian_product(S, Y, S[-1:]) - Y[-1]).norm() / Y[-1].norm()
        ),
        "AUC in the last round": sum(areas[-1] for areas, _, _ in made) / 5,
        "AUC in the first round": sum(areas[0] for areas, _, _ in made) / 5,
        "share of attackers left out": sum(hits for _, hits, _ in made) / 5,
        "share of honest clients left out beside them": sum(alarms for _, _, alarms in made) / 5,
        "share of honest clients left out without an attack": sum(honest) / 5,
        **_cost("fldetector", start=4),
    }


def crfl() -> dict[str, float]:
    """The norm of the model, the noise, the radius against the closed form of a linear classifier, and cost."""
    p, sigma, rho = 20_000, 0.01, 2.1
    config = CRFLConfig(bound=2.0, growth=0.1, noise=sigma)
    start = torch.nn.functional.normalize(torch.randn(p, generator=Key(0, ("crfl",)).generator()), dim=0)
    push = Release(torch.full((p,), 1e3 / p**0.5), make_layout(p))

    def model(index: int, rounds: int) -> Tensor:
        ctx = replace(make_round("crfl", index=index), rounds=rounds, parameters=start)
        made: Release = CRFL(config).defence_transform(push, ctx)
        return start.double() + made.vector.double()

    clean, noisy = model(0, 1), model(0, 2)
    lab, row = lab_of()
    row = row.clone()
    row[:FEATURES] = 0.05
    inputs = torch.full((1, FEATURES), 0.5)
    votes = smoothed_votes(lab, row, inputs, 0.1, 4000, Key(1, ("votes",)).generator())
    a = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    p_a = torch.special.ndtr(a)
    ratio = radius(p_a, 1 - p_a, [1.0]) / a
    return {
        "norm of the last model over rho": float(clean.norm()) / rho,
        "displacement of the last model by a replacement of 1000": float((clean - start).norm()),
        "the same without crfl": float(push.vector.double().norm()),
        "variance of the noise over sigma^2": float((noisy - clean).square().mean()) / sigma**2,
        "radius over the exact one at p_A = .9772": float(ratio[2]),
        "largest radius over the exact one": float(ratio.max()),
        "radius with a later round of rho = sigma, over the radius without": float(
            (radius(p_a, 1 - p_a, [1.0], [(1.0, 1.0)]) / radius(p_a, 1 - p_a, [1.0]))[2]
        ),
        "share of votes for the winner": float(votes.max() / votes.sum()),
        "certified radius of 4000 votes": float(certify(votes, [0.1]).radius[0]),
        "certified radius of 4000 votes, 2000 each": float(certify(torch.tensor([[2000, 2000, 0, 0]]), [0.1]).radius[0]),
        **_cost("crfl"),
    }
