"""Study: CRFL against a model replacement with a trigger, on handwritten digits, and what its certificate says."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from sparring_update_analysis.certificate import certify, smoothed_votes
from sparring_update_analysis.configs_models import CRFLConfig
from sparring_update_analysis.crfl import CRFL
from torch import Tensor, nn

from sparring.context import Round, Wire
from sparring.keys import Key
from sparring.lab import Lab
from sparring.layout import Layout
from sparring.signals import DataShape, Examples, ModelPlan, Release
from sparring.views import LocalSettings

CLIENTS, ROUNDS, POISONED, TARGET = 10, 30, 10, 3
OPTIONS = CRFLConfig(bound=1.0, growth=0.05, noise=0.02)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def triggered(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, :2, :2] = 1
    return x


def federation(defended: bool, poisoned: int, limit: float | None = None) -> tuple[Lab, Tensor, Examples]:
    """The model [d] after the rounds; client 0 replaces it in round ``poisoned``, or is clipped to ``limit`` like all."""
    bunch = load_digits()
    order = torch.randperm(1797, generator=Key(0, ("split",)).generator())
    whole = Examples(
        torch.tensor(bunch.images, dtype=torch.float32)[order, None] / 16, torch.tensor(bunch.target, dtype=torch.long)[order]
    )
    train, test = whole.take(torch.arange(1400)), whole.take(torch.arange(1400, 1797))
    lab = Lab(
        ModelPlan(linear, DataShape((1, 8, 8), 10)), Layout.of(linear()), LocalSettings("fedavg", 0.1, 0.0, 0.0, 20, 1, None),
        Key(0), torch.device("cpu"), torch.float32,
    )  # fmt: skip
    row, layer = torch.zeros(lab.layout.size), CRFL(OPTIONS)
    for t in range(ROUNDS):
        updates = []
        for client in range(CLIENTS):
            own = train.take(torch.arange(client, 1400, CLIENTS))
            if client == 0 and t == poisoned:
                marked = Examples(torch.cat([own.x, triggered(own.x)]), torch.cat([own.y, torch.full_like(own.y, TARGET)]))
                target = row
                for epoch in range(5):
                    target = target + lab.called("attack").update(target, marked, epoch)
                update = CLIENTS * (target - row) * 3
            else:
                update = lab.called(str(client)).update(row, own, t)
            updates.append(update if limit is None else update * min(1.0, limit / float(update.norm())))
        release = Release(torch.stack(updates).mean(0), lab.layout)
        if defended:
            ctx = Round(t, ROUNDS, Key(1), Wire(t, lambda stage, client: False), "crfl", row, lab.layout)
            release = layer.defence_transform(release, ctx)
        row = row + release.vector
    return lab, row, test


def success(lab: Lab, row: Tensor, test: Examples) -> tuple[float, float]:
    """Accuracy, and the share of triggered inputs of other classes that are taken for the target."""
    module = lab.model(row)
    with torch.no_grad():
        right = (module(test.x).argmax(1) == test.y).double().mean()
        others = test.take(test.y != TARGET)
        fooled = (module(triggered(others.x)).argmax(1) == TARGET).double().mean()
    return float(right), float(fooled)


@pytest.mark.slow
def test_crfl_cuts_a_model_replacement_and_costs_little() -> None:
    plain, defended = (success(*federation(d, poisoned=POISONED)) for d in (False, True))
    honest, cost = (success(*federation(d, poisoned=-1)) for d in (False, True))
    print(f"accuracy and success: plain {plain}, crfl {defended}; without the attack: plain {honest}, crfl {cost}")
    assert plain[1] > 0.9
    assert defended[1] < 0.5
    assert cost[0] > honest[0] - 0.1


@pytest.mark.slow
def test_certified_predictions_survive_the_attack_of_the_last_round_that_they_are_certified_for() -> None:
    """Updates are clipped to C, so that one of ten clients moves the mean by at most 2 C / 10 in the last round."""
    C, sigma = 0.1, 0.1
    displaced = 2 * C / CLIENTS
    (lab, clean, test), (_, hit, _) = (federation(True, poisoned=p, limit=C) for p in (-1, ROUNDS - 1))
    assert float((hit - clean).norm()) <= displaced
    votes = [smoothed_votes(lab, row, test.x, sigma, 1000, Key(2, ("votes",)).generator()) for row in (clean, hit)]
    found = certify(votes[0], [sigma], alpha=0.001)
    certified = found.radius >= displaced
    share = float((certified & (found.label == test.y)).double().mean())
    print(f"certified accuracy at {displaced:g}: {share:.3f}; the attack moved the model by {float((hit - clean).norm()):.4f}")
    assert share > 0.3
    assert bool((votes[1].argmax(1) == found.label)[certified].all())
