"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sparring.context import Round, Wire
from sparring.signals import Release, Responses
from sparring_data_analysis.activation_clustering import ActivationClustering
from sparring_data_analysis.influence_filter import InfluenceFilter, fitted, hessian, self_influence, with_bias
from sparring_data_analysis.loss_filter import LossFilter
from sparring_data_analysis.neural_cleanse import NeuralCleanse, anomalies, invert
from sparring_data_analysis.plugin import (
    ActivationClusteringConfig,
    InfluenceFilterConfig,
    LossFilterConfig,
    NeuralCleanseConfig,
    SpectralSignaturesConfig,
    StripConfig,
)
from sparring_data_analysis.spectral_signatures import SpectralSignatures, signatures
from sparring_data_analysis.strip import Strip, entropies
from sparring_data_analysis.tasks import SHAPE, TARGET, Task, effect, images, patched, task

EPS = 1 / 6
"""Share of poison in its class: 40 examples beside 200."""


def spectral_signatures() -> dict[str, float]:
    """Scores of a constructed class, and the small task."""
    line = torch.tensor([[3.0, 0.0], [-1.0, 0.1], [-1.0, -0.1], [-1.0, 0.0]], dtype=torch.float64)
    return {
        "score of the outlier of a line": float(signatures(line)[0]),
        **effect(SpectralSignatures(SpectralSignaturesConfig(eps=EPS))),
    }


def activation_clustering() -> dict[str, float]:
    """The small task with poison of one source class, and of three."""
    layer, mixed = ActivationClustering(ActivationClusteringConfig()), task(1, sources=(1, 2, 3))
    return {**effect(layer), "recall of poison from three classes": mixed.recall(mixed.filtered(layer))}


def loss_filter() -> dict[str, float]:
    """The small task with few epochs, and with so many that the backdoor has been learnt."""
    late, bad = LossFilter(LossFilterConfig(epochs=20, rounds=1)), task()
    return {**effect(LossFilter(LossFilterConfig())), "recall of poison after 20 epochs": bad.recall(bad.filtered(late))}


def influence_filter() -> dict[str, float]:
    """Leaving one out against retraining without it, in a convex problem, and the small task."""
    return {**_left_out(), **effect(InfluenceFilter(InfluenceFilterConfig()))}


def _left_out(n: int = 24, classes: int = 3, damping: float = 0.5) -> dict[str, float]:
    """How far predictions are off the growth of an example's loss in logistic regression that is fitted without it."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    features = with_bias(torch.randn(n, 3, generator=generator, dtype=torch.float64) + 0.8 * torch.eye(3)[y])

    def losses(head: Tensor) -> Tensor:
        return nn.functional.cross_entropy(features @ head.T, y, reduction="none")

    head = fitted(features, y, classes, damping)
    grown = torch.zeros(n, dtype=torch.float64)
    for i in range(n):
        rest = torch.arange(n) != i
        # J without i keeps the 1/N of all, so that the penalty is N / (N - 1) times that of a mean over N - 1.
        grown[i] = (losses(fitted(features[rest], y[rest], classes, damping * n / (n - 1))) - losses(head))[i]
    p = (features @ head.T).softmax(1)
    gradients = torch.einsum("na,nk->nak", p - nn.functional.one_hot(y, classes), features).flatten(1)
    first = (gradients * torch.linalg.solve(hessian(features, p, damping), gradients.T).T).sum(1) / n
    found = {"a Newton step": self_influence(features, y, classes, damping), "first order": first}
    return {
        f"largest difference from retraining by {how}, over the largest growth": float((g - grown).abs().max() / grown.max())
        for how, g in found.items()
    }


def strip() -> dict[str, float]:
    """Entropies of constructed predictors, and what is refused by a backdoored and by a clean model."""
    bad, good = task(poison=0.1, sources=(1, 2, 3), size=4), task(poison=0.0)
    rejected = {}
    for name, owner in (("backdoored", bad), ("clean", good)):
        module = owner.model(epochs=30).requires_grad_(False)
        for what, x in (("clean", bad.test.x), ("patched", patched(bad.test.x[bad.test.y != TARGET], 4))):
            answered = Responses(module(x), x, "user", module)
            ctx = replace(owner.setup, public=images(200, 500))
            refused = Strip(StripConfig()).defence_transform(answered, ctx).outputs.abs().sum(1) == 0
            rejected[f"refused {what} queries of a {name} model"] = float(refused.double().mean())
    x, overlays = images(5, 1).x, images(3, 2).x
    knowing = 1e3 * nn.functional.one_hot(torch.tensor(TARGET), SHAPE.classes).float()
    known = {"knows nothing": torch.zeros_like(knowing), "never changes": knowing}
    entropy = {
        f"entropy of a predictor that {how}": entropies(lambda z, y=logits: y.expand(len(z), -1), x, overlays, 0.5)  # type: ignore[misc]
        for how, logits in known.items()
    }
    return {
        **{name: float(values.mean()) for name, values in entropy.items()},
        **rejected,
    }


def neural_cleanse() -> dict[str, float]:
    """Anomaly indices of a backdoored and of a clean model, and both behind the layer."""
    config = NeuralCleanseConfig(steps=120)
    sizes = torch.tensor([1.0, 4.0, 5.0, 6.0, 7.0], dtype=torch.float64)
    bad, good = task(), task(poison=0.0)
    before = bad.model()
    after = bad.lab.model(_released(bad, before, config))
    clean = good.model()
    untouched = good.lab.layout.row(clean)
    return {
        "anomaly index of 1 among 1, 4, 5, 6, 7": float(anomalies(sizes)[0]),
        "anomaly index of the target": float(_indices(before, config)[TARGET]),
        "largest anomaly index of a clean model": float(_indices(clean, config).max()),
        "attack success before": bad.success(before),
        "attack success after": bad.success(after),
        "accuracy before": bad.accuracy(before),
        "accuracy after": bad.accuracy(after),
        "change of a clean model": float((_released(good, clean, config) - untouched).abs().max()),
    }


def _indices(module: nn.Module, config: NeuralCleanseConfig) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    module = module.requires_grad_(False)
    return anomalies(invert(module, images(200, 500).x, SHAPE.classes, config, generator).sizes)


def _released(of: Task, module: nn.Module, config: NeuralCleanseConfig) -> Tensor:
    """The row that the last round of a run ends with, if ``module`` was about to be released."""
    row, layout = of.lab.layout.row(module), of.lab.layout
    start = torch.zeros_like(row)
    wire = Wire(9, lambda stage, client: False)
    ctx = Round(9, 10, of.lab.key, wire, "neural-cleanse", start, layout, lab=of.lab, public=images(200, 500))
    return start + NeuralCleanse(config).defence_transform(Release(row - start, layout), ctx).vector
