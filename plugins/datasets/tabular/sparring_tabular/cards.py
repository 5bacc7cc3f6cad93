"""What the reference cards of records measure."""

from __future__ import annotations

import numpy as np
import torch
from sparring_arrays.measures import loaded, whole
from torch import Tensor

from sparring.roles import Data
from sparring.signals import Examples
from sparring_tabular.plugin import ACTG175, BREAST_CANCER

PLANE = (23, 24, 1)
"""Worst area, worst smoothness, mean texture."""
ARMS = ("zidovudine", "zidovudine and didanosine", "zidovudine and zalcitabine", "didanosine")


def _moments(data: Data) -> dict[str, float]:
    x = data.train.x.double()
    return {
        "largest mean of a training feature": float(x.mean(dim=0).abs().max()),
        "least deviation of a training feature": float(x.std(dim=0, correction=0).min()),
        "largest deviation of a training feature": float(x.std(dim=0, correction=0).max()),
    }


def actg175() -> dict[str, float]:
    """Who took part and how many had an event in each arm, against the trial's report; and what the features say of it."""
    from sklearn.linear_model import LogisticRegression

    data = loaded(ACTG175)
    read = whole(data)
    event, arm = read.y.double(), read.groups["arms"]
    model = LogisticRegression().fit(data.train.x.numpy(), data.train.y.numpy())
    values = torch.from_numpy(model.decision_function(data.test.x.numpy()))
    with_event, without = values[data.test.y == 1], values[data.test.y == 0]
    shares = {f"events with {name}": float(event[arm == k].mean()) for k, name in enumerate(ARMS)}
    return {
        "patients": float(len(read)),
        "patients with zidovudine alone": float((arm == 0).sum()),
        "men": float(read.groups["gender"].double().mean()),
        "white patients": float((read.groups["race"] == 0).double().mean()),
        "homosexual men": float(read.groups["homo"].double().mean()),
        **shares,
        **_moments(data),
        "area under the curve of logistic regression": float((with_event[:, None] > without).double().mean()),
    }


def breast_cancer() -> dict[str, float]:
    """Numbers of records, and what planes tell apart, against the description of the data; and standardised moments."""
    data = loaded(BREAST_CANCER)
    read = whole(data)
    right = []
    for seed in range(10):
        tenth = loaded(BREAST_CANCER, seed, test_fraction=0.1)
        train, test = (Examples(part.x[:, PLANE], part.y) for part in (tenth.train, tenth.test))
        w = _plane(train)[0]
        right.append(((test.x.double() @ w[:-1] + w[-1] > 0) == (test.y == 1)).double())
    return {
        "records": float(len(read)),
        "malignant": float((read.y == 0).sum()),
        "benign": float((read.y == 1).sum()),
        "loss of the best plane in all 30 features": _plane(read)[1],
        "accuracy of one plane in three features": float(torch.cat(right).mean()),
        **_moments(data),
    }


def _plane(part: Examples) -> tuple[Tensor, float]:
    """The plane w x + b = 0, as (w, b) [F + 1], of least mean of max(0, 1 - s (w x + b)) over each class, summed; s = +-1.

    The loss is 0 where the plane has the two classes on its two sides. Source: K. P. Bennett and O. L. Mangasarian, Robust
    linear programming discrimination of two linearly inseparable sets, Optimization Methods and Software 1, 1992.
    """
    from scipy.optimize import linprog

    y, x = part.y.numpy(), part.x.double().numpy()
    sign, (n, features) = (2.0 * y - 1)[:, None], x.shape
    sides = np.hstack([-sign * x, -sign, -np.eye(n)])
    costs = np.concatenate([np.zeros(features + 1), 1 / np.bincount(y)[y]])
    bounds = [(None, None)] * (features + 1) + [(0, None)] * n
    found = linprog(costs, sides, -np.ones(n), bounds=bounds)
    return torch.from_numpy(found.x[: features + 1]), float(found.fun)
