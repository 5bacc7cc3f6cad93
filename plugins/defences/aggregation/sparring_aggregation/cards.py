"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.aggregate import WeightedMean, fold
from sparring.keys import Key
from sparring.signals import Updates
from sparring.testing.experiments import CLASSES, Blobs
from sparring.testing.fixtures import make_layout, make_round, make_setup
from sparring_aggregation.cards_common import FAR
from sparring_aggregation.cards_common import disagreement as _disagreement
from sparring_aggregation.cards_common import moved as _moved
from sparring_aggregation.cards_common import release as _release
from sparring_aggregation.cards_common import rows as _rows
from sparring_aggregation.krum import Krum
from sparring_aggregation.median import Median
from sparring_aggregation.plugin import KrumConfig, MedianConfig, TrimmedMeanConfig
from sparring_aggregation.trimmed_mean import TrimmedMean


def mean() -> dict[str, float]:
    """The weighted mean of clients' gradients against the gradient of all their examples, streamed and whole; breakdown."""
    examples = Blobs(150 * 5, 1).load(make_setup()).train
    order = torch.randperm(len(examples), generator=Key(0, ("card", "mean")).generator())
    sizes = [1 + k % 9 for k in range(150)]
    parts = [examples.take(part) for part in order[: sum(sizes)].split(sizes)]
    rows = torch.stack([_gradient(part.x, part.y) for part in parts])
    weights = torch.tensor(sizes, dtype=torch.float64)
    whole = _gradient(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
    layout = make_layout(rows.shape[1])
    blocks = [Updates(rows[a : a + 7], layout, tuple(range(150))[a : a + 7], weights[a : a + 7]) for a in range(0, 150, 7)]
    found = _release(WeightedMean(), rows, weights)
    return {
        "distance from the gradient of all examples": float((found - whole).norm() / whole.norm()),
        "distance between streamed and whole": float((fold(WeightedMean(), blocks, make_round()).vector - found).abs().max()),
        "displacement by 1 of 11 rows at 1e6": _moved(WeightedMean(), _rows(11, 100, "breakdown"), 1),
    }


def _gradient(x: Tensor, y: Tensor) -> Tensor:
    """The gradient of multinomial logistic regression at 0, float64: the mean of (1 / K - onehot(y)) x^T."""
    residual = 1 / CLASSES - torch.nn.functional.one_hot(y, CLASSES).double()
    return (residual.T @ x.double() / len(y)).reshape(-1)


def median() -> dict[str, float]:
    """Agreement with the definition, variance against the mean's, and displacement below and at the breakdown point."""
    rows = _rows(11, 100, "breakdown")
    noise = _rows(11, 200_000, "efficiency")
    return {
        "largest distance from the middle of sorted values": _disagreement(Median(MedianConfig()), _middle, "median"),
        "variance of 11 normal values over the mean's": float(_release(Median(MedianConfig()), noise).var()) * 11,
        "displacement by 5 of 11 rows at 1e6": _moved(Median(MedianConfig()), rows, 5),
        "displacement by 6 of 11 rows at 1e6": _moved(Median(MedianConfig()), rows, 6),
        "displacement of the mean by 1 of 11 rows": _moved(WeightedMean(), rows, 1),
    }


def _middle(rows: Tensor) -> Tensor:
    ranked, n = rows.sort(dim=0).values, len(rows)
    return (ranked[(n - 1) // 2] + ranked[n // 2]) / 2


def trimmed_mean() -> dict[str, float]:
    """Agreement with the definition, variance against the mean's, and displacement at f and f + 1 outliers."""
    rows = _rows(11, 100, "breakdown")
    noise = _rows(11, 200_000, "efficiency")
    rule = TrimmedMean(TrimmedMeanConfig(f=3))

    def plain(rows: Tensor) -> Tensor:
        f = len(rows) // 4
        return rows.sort(dim=0).values[f : len(rows) - f].mean(0)

    return {
        "largest distance from the mean of sorted values": _disagreement(
            TrimmedMean(TrimmedMeanConfig(beta=0.25)), plain, "trimmed-mean"
        ),
        "variance of 11 normal values, f = 3, over the mean's": float(_release(rule, noise).var()) * 11,
        "displacement by 3 of 11 rows at 1e6": _moved(rule, rows, 3),
        "displacement by 4 of 11 rows at 1e6": _moved(rule, rows, 4),
        "displacement of the mean by 1 of 11 rows": _moved(WeightedMean(), rows, 1),
    }


def krum() -> dict[str, float]:
    """Share of cohorts in which the row by definition is chosen, and the error under the collusion of the paper."""
    n, f, d, trials = 11, 3, 20, 40
    rule = Krum(KrumConfig(f=f))
    alike, fooled, error, mean_error = 0, 0, 0.0, 0.0
    for trial in range(trials):
        rows = _rows(n, d, f"krum {trial}")
        alike += int(torch.equal(_release(rule, rows), _nearest(rows, f)))
        lying = _colluding(rows, f)
        chosen = _release(rule, lying)
        fooled += int((lying[:f] == chosen).all(dim=1).any())
        error += float(chosen.square().sum()) / d
        mean_error += float(_release(WeightedMean(), lying).square().sum()) / d
    return {
        "squared error under collusion over d sigma^2": error / trials,
        "squared error of the mean under collusion over d sigma^2": mean_error / trials,
        "share of cohorts in which a colluding row is chosen": fooled / trials,
        "share of cohorts in which the row by definition is chosen": alike / trials,
    }


def _colluding(rows: Tensor, f: int) -> Tensor:
    """f - 1 rows far away, and one at the barycentre of the others, which lies nearest to all rows together."""
    lying = rows.clone()
    lying[1:f] = FAR
    lying[0] = lying[1:].mean(0)
    return lying


def _nearest(rows: Tensor, f: int) -> Tensor:
    """Krum by its definition, for distinct rows: each row is its own nearest, at distance 0."""
    distances = (rows[:, None] - rows[None]).square().sum(2).sort(dim=1).values
    return rows[int(distances[:, 1 : len(rows) - f - 1].sum(1).argmin())]
