"""What the reference cards of the attacks on data measure: one function a technique, each returns its quantities."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sparring.context import Setup
from sparring.keys import Key
from sparring.lab import Lab
from sparring.layout import Layout
from sparring.signals import ClientData, DataShape, Examples, ModelPlan
from sparring.testing.experiments import CLASSES, outcome
from sparring.testing.fixtures import tiny_data
from sparring.views import LocalSettings
from sparring_poisoning.feature_collision import FeatureCollision
from sparring_poisoning.gradient_matching import GradientMatching
from sparring_poisoning.input_perturbation import InputPerturbation, ascended
from sparring_poisoning.label_flip import LabelFlip
from sparring_poisoning.plugin_data import (
    FeatureCollisionConfig,
    GradientMatchingConfig,
    InputPerturbationConfig,
    LabelFlipConfig,
)

SHAPE = DataShape((1, 8, 8), 4)
TARGETS = 5
"""Runs of a clean-label attack, each on another input."""


def _accuracy(**sections: Any) -> float:
    found = outcome(**sections).accuracy
    return 0.0 if found is None else found


def _held(fraction: float, *knows: str) -> dict[str, Any]:
    return {"compromised": {"fraction": fraction, "control": "data"}, "knows": list(knows)}


def label_flip() -> dict[str, float]:
    """Shares of false labels, and accuracy with 6 of 10 clients mirrored, beside none."""
    data, ctx = tiny_data(1, 200), Setup(Key(0), "label-flip")
    (client,) = data
    before = data.clients[client].y
    shares = {}
    for kind in ("mirror", "next", "random"):
        config = LabelFlipConfig(kind=kind, fraction=0.35)
        after = LabelFlip(config).attack_transform(data, ctx).clients[client].y
        shares[f"share of false labels, {kind}, fraction .35"] = float((after != before).double().mean())
    attack = {"attacks": [{"label-flip": {"kind": "mirror"}}], "threat_model": _held(0.6)}
    return {
        **shares,
        "accuracy with 6 of 10 clients mirrored": fmean(_accuracy(seed=k, **attack) for k in range(2)),
        "accuracy without attack": fmean(_accuracy(seed=k) for k in range(2)),
    }


def targeted_label_flip() -> dict[str, float]:
    """Success and the other classes' accuracy with 6 of 10 clients, beside a flip of nothing to speak of."""
    runs = {}
    for name, fraction in (("all", 1.0), ("a hundredth", 0.01)):
        flip = {"targeted-label-flip": {"pairs": [[0, 2]], "fraction": fraction}}
        runs[name] = outcome(attacks=[flip], threat_model=_held(0.6))
    measures = runs["all"].scores["targeted-label-flip"].measures
    return {
        "success of 0 as 2": measures["attack_success"].value,
        "success of 0 as 2 with a hundredth of the labels": runs["a hundredth"].success["targeted-label-flip"][-1][1],
        "accuracy lost, in shares of the source class": (_accuracy() - measures["clean_accuracy"].value) * CLASSES,
    }


def input_perturbation() -> dict[str, float]:
    """The ascent on a linear model in closed form, and accuracy with 8 of 10 clients, beside noise of the same bound."""
    module = nn.Linear(3, 2).requires_grad_(False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]))
        module.bias.zero_()
    x, y = torch.full((1, 3), 0.5), torch.zeros(1, dtype=torch.long)
    config = InputPerturbationConfig(eps=0.1, alpha=0.02, steps=20)
    moved = ascended(module, x, y, torch.zeros_like(x), config)
    data = tiny_data(2, 40)
    ctx = Setup(Key(0), "input-perturbation", lab=_lab(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), 0))
    after = InputPerturbation(InputPerturbationConfig()).attack_transform(data, ctx)
    changes = [float((after.clients[c].x - data.clients[c].x).abs().max()) for c in data]
    accuracy = {}
    for labels, eps in (("predicted", 8 / 255), ("predicted", 0.3), ("true", 8 / 255), ("true", 0.3)):
        attack = {"input-perturbation": {"eps": eps, "alpha": eps / 4, "labels": labels}}
        accuracy[f"{labels} labels, eps {eps:.2g}"] = _accuracy(attacks=[attack], threat_model=_held(0.8, "recipe"))
    noise = {"input-perturbation": {"eps": 1e-6, "alpha": 1e-6, "steps": 1, "labels": "true"}}
    return {
        "logit of the true class lost on a linear model": float((module(x) - module(moved))[0, 0]),
        "largest change, over eps": max(changes) / InputPerturbationConfig().eps,
        **{f"accuracy, 8 of 10 clients, {how}": value for how, value in accuracy.items()},
        "accuracy, 8 of 10 clients, next to no perturbation": _accuracy(attacks=[noise], threat_model=_held(0.8, "recipe")),
    }


def _images(n: int, seed: int) -> Examples:
    """Images of 8x8 pixels in four classes: a smooth pattern of the class, and noise of deviation .2."""
    patterns = torch.rand(4, 1, 4, 4, generator=Key(7, ("patterns",)).generator())
    y = torch.arange(n) % 4
    clear = 0.5 + 0.6 * (F.interpolate(patterns, size=(8, 8), mode="bilinear")[y] - 0.5)
    return Examples((clear + 0.2 * torch.randn(n, 1, 8, 8, generator=Key(seed, ("images", n)).generator())).clamp(0, 1), y)


def _perceptron(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 4))


def _lab(factory: Callable[[], nn.Module], seed: int, frozen: frozenset[str] = frozenset()) -> Lab:
    plan = ModelPlan(factory, SHAPE, frozen=frozen)
    with torch.random.fork_rng(devices=[]):
        layout = Layout.of(factory(), frozen)
    settings = LocalSettings("fedavg", 0.2, 0.0, 0.0, 32, 1, None)
    return Lab(plan, layout, settings, Key(seed, ("card",)), torch.device("cpu"), torch.float32)


def _succeeds(
    attack: GradientMatching | FeatureCollision, lab: Lab, n: int, seed: int, epochs: int, norm: float
) -> dict[str, float]:
    """Whether a victim that trains on poisoned data takes the attacked input for the target, and with noise in its place.

    ``norm``: in which the noise is as large as the poison of each input.
    """
    data = ClientData({5: _images(n, seed)}, SHAPE)
    poisoned = attack.attack_transform(data, Setup(Key(seed), "attack", lab=lab.called("attack"))).clients[5]
    assert attack.attacked is not None
    victim, test = lab.called("victim"), _images(400, seed + 1000)
    # The poison stands in the order of the data, of which the attacked input alone is gone.
    clean = data.clients[5].take((data.clients[5].x != attack.attacked).flatten(1).any(1))
    change = poisoned.x - clean.x
    drawn = torch.randn(change.shape, generator=Key(seed, ("noise",)).generator())
    drawn = drawn.sign() if norm == torch.inf else drawn
    size = [torch.linalg.vector_norm(t.flatten(1), ord=norm, dim=1).view(-1, 1, 1, 1) for t in (change, drawn)]
    noisy = replace(clean, x=(clean.x + drawn * size[0] / size[1].clamp(min=1e-30)).clamp(0, 1))

    def hit(module: nn.Module) -> float:
        return float((module(attack.attacked).argmax(1) == attack.config.target).double().mean())

    trained, beside = victim.train(poisoned, epochs, seed=1), victim.train(noisy, epochs, seed=1)
    with torch.no_grad():
        return {
            "success": hit(trained),
            "success of noise": hit(beside),
            "accuracy": float((trained(test.x).argmax(1) == test.y).double().mean()),
            "change": float(size[0].max()),
            "labels": float((poisoned.y != clean.y).sum()),
        }


def _means(runs: list[dict[str, float]], bound: str) -> dict[str, float]:
    return {
        f"success over {TARGETS} targets": fmean(run["success"] for run in runs),
        f"success over {TARGETS} targets of noise of the same {bound}": fmean(run["success of noise"] for run in runs),
        "accuracy of the victim": fmean(run["accuracy"] for run in runs),
        "false labels": sum(run["labels"] for run in runs),
        f"largest {bound}": max(run["change"] for run in runs),
    }


def gradient_matching() -> dict[str, float]:
    """Victims trained from fresh weights on poison of a bound, and on noise of the same bound."""
    config = GradientMatchingConfig(eps=0.25, steps=60, epochs=20)
    lab = [_lab(lambda: _perceptron(16), seed) for seed in range(TARGETS)]
    runs = [_succeeds(GradientMatching(config), lab[k], 400, k, 20, torch.inf) for k in range(TARGETS)]
    return _means(runs, "bound")


def feature_collision() -> dict[str, float]:
    """Victims that train a fresh head on given features, from 80 examples of which 5 are poison, or noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        body = _lab(lambda: _perceptron(256), 9).train(_images(800, 999), 10).requires_grad_(False)

    def headed() -> nn.Module:
        module = copy.deepcopy(body)
        assert isinstance(module, nn.Sequential)
        module[3] = nn.Linear(256, 4)
        return module

    config = FeatureCollisionConfig(beta=0.5, lr=0.02, fraction=0.25, epochs=60)
    frozen = frozenset({"1.weight", "1.bias"})
    runs = [_succeeds(FeatureCollision(config), _lab(headed, k, frozen), 80, k, 60, 2.0) for k in range(TARGETS)]
    return _means(runs, "norm")
