"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn

from sparring.games import ModelInversionGame
from sparring.layout import Layout
from sparring.local import cross_entropy
from sparring.record import budgeted
from sparring.roles import PassiveAttack
from sparring.scoring import Truth
from sparring.signals import DataShape, Examples, ModelPlan
from sparring.testing.fixtures import make_setup, smooth
from sparring.testing.released import taught
from sparring.views import ModelView, QueryView
from sparring_model_inversion.mi_face import MIFace
from sparring_model_inversion.model_inversion import ModelInversion
from sparring_model_inversion.plugin import MIFaceConfig, ModelInversionConfig

CLASSES, EACH = 10, 40
SHAPE = DataShape((1, 8, 8), CLASSES)
Attack = PassiveAttack[ModelView | QueryView]


def drawn(seed: int) -> Examples:
    """Ten smooth pictures of 8x8 pixels, 80 copies of each in class order, under noise of deviation .15."""
    generator = torch.Generator().manual_seed(seed)
    pictures = smooth(CLASSES, generator)
    y = torch.arange(CLASSES).repeat(2 * EACH)
    return Examples((pictures[y] + 0.15 * torch.randn(len(y), *SHAPE.inputs, generator=generator)).clamp(0, 1), y)


def softmax_regression() -> nn.Sequential:
    """Multinomial logistic regression that starts at 0."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def normal_convnet() -> nn.Sequential:
    """A convolution, BatchNorm and a linear layer, always with the same initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(1024, CLASSES)
        )


@dataclass(frozen=True)
class Victim:
    """A ``module`` that tells the pictures of ``private`` apart, and others like these."""

    plan: ModelPlan
    module: nn.Sequential
    private: Examples
    tests: Examples

    @property
    def white(self) -> ModelView:
        """The released parameters."""
        layout = Layout.of(self.module)
        return ModelView(SHAPE, cross_entropy, (0,), (layout.row(self.module),), layout, self.plan, self.module)

    def black(self, budget: int) -> QueryView:
        """Answers alone."""
        return QueryView(SHAPE, cross_entropy, budgeted(self.module, budget), budget)

    def recognised(self, attack: Attack, view: ModelView | QueryView) -> float:
        """The share of classes of which an evaluator knows what is found."""
        finding = attack.attack_observe(view, make_setup("attack"))
        truth = Truth(mean=self.private.x.mean(0), private=self.private, tests=self.tests)
        return ModelInversionGame().score(finding, truth).measures["recognised"].value


def victim(factory: Callable[[], nn.Sequential], steps: int, seed: int, shift: int = 0) -> Victim:
    """A victim after ``steps`` of Adam on 40 noisy copies of each picture, told that y is of class y + ``shift``, modulo 10."""
    known = drawn(seed)
    half = torch.arange(len(known)) < EACH * CLASSES
    private, tests = known.take(half), known.take(~half)
    module = factory()
    taught(module, private.x, (private.y + shift) % CLASSES, steps, 0.02, 1e-3)
    return Victim(ModelPlan(factory, SHAPE), module, private, tests)


def mi_face() -> dict[str, float]:
    """What an evaluator knows of the findings, by parameters and by queries, and the first step against its closed form."""
    own, other = ([victim(softmax_regression, 200, seed, shift) for seed in range(2)] for shift in (0, 1))
    attack = MIFace(MIFaceConfig(lr=1.0, iterations=300, snapshots=0))
    return {
        "relative distance of the first step to its closed form": max(_first_step(v) for v in own),
        "share of 20 classes recognised": fmean(v.recognised(attack, v.white) for v in own),
        "the same by 10,000 queries": fmean(v.recognised(attack, v.black(10_000)) for v in own),
        "the same by 1,000 queries": fmean(v.recognised(attack, v.black(1000)) for v in own),
        "share of the classes of models that were taught other names": fmean(v.recognised(attack, v.white) for v in other),
    }


def _first_step(victim: Victim) -> float:
    lr = 0.01
    W, b = victim.module.get_parameter("1.weight"), victim.module.get_parameter("1.bias")
    f = b.softmax(0)
    expected = (lr * f[:, None] * (W - f @ W)).clamp(0, 1)
    finding = MIFace(MIFaceConfig(lr=lr, iterations=2)).attack_observe(victim.white, make_setup("attack"))
    found = torch.cat([finding.inputs[k] for k in range(CLASSES)]).flatten(1)
    return float((found - expected).norm() / expected.norm())


def model_inversion() -> dict[str, float]:
    """What an evaluator knows of the findings, and how near their features are to the running statistics of BatchNorm."""
    own, other = (victim(normal_convnet, 30, 0, shift) for shift in (0, 1))
    options = {"iterations": 60, "restarts": 2, "snapshots": 0}
    attack = ModelInversion(ModelInversionConfig.model_validate(options))
    bounded = {**options, "loss": "cross-entropy"}
    near, far = (_apart(own, ModelInversionConfig.model_validate({**bounded, "statistics": w})) for w in (10.0, 0.0))
    return {
        "share of 10 classes recognised": own.recognised(attack, own.white),
        "the same by 50,000 queries": own.recognised(attack, own.black(50_000)),
        "share of the classes of a model that was taught other names": other.recognised(attack, other.white),
        "distance to BatchNorm statistics under weight 10, relative to weight 0": near / far,
    }


def _apart(victim: Victim, config: ModelInversionConfig) -> float:
    finding = ModelInversion(config).attack_observe(victim.white, make_setup("attack"))
    convolution, norm = victim.module[0], victim.module[1]
    h = convolution(torch.cat([finding.inputs[k] for k in range(CLASSES)]))
    mean, variance = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
    return float((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())
