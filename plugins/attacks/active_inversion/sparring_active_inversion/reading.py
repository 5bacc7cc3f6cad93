"""Reading: from candidates for the inputs behind a capture to as many reconstructions as there are inputs, with labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sparring_inversion.matching import scale_of
from torch import Tensor, nn

from sparring.local import embed
from sparring.views import AggregateView, Capture, Reconstruction, UpdateView

UNKNOWN = -1
"""The label of an input that was not found."""
GREY = 0.5
ROUNDING = 1e-6
"""Gradients below this share of the largest are rounding."""
MARGIN = 0.02
"""How far a candidate may leave [0, 1] before it is no input, but rounding, noise, or a sum of opposite gradients."""

Read = Callable[[Capture], Tensor | None]


def read_all(view: UpdateView | AggregateView, read: Read) -> Reconstruction:
    """What ``read`` finds in each capture: candidates [m, D], the surest first, or None where the model was not planted.

    Of B inputs the first B candidates are the reconstructions, grey stands for the others, with label -1. ``loss`` is the share
    of inputs without a candidate. ``cost`` counts one gradient a capture, the one that it is.
    """
    found = Reconstruction(0.0, {}, {}, {}, {})
    notes = []
    for capture in view.captures:
        key, shape, B = (capture.round, capture.client), capture.plan.shape.inputs, capture.examples
        candidates = read(capture)
        if candidates is None:
            candidates = capture.row.new_zeros(0, *shape)
            notes.append(foreign(capture))
        kept = candidates[:B].reshape(-1, *shape).to(capture.row).clamp(0, 1)
        missing = B - len(kept)
        found.inputs[key] = torch.cat([kept, kept.new_full((missing, *shape), GREY)])
        known = labels(capture, kept, scale_of(capture, view))
        found.labels[key] = torch.cat([known, known.new_full((missing,), UNKNOWN)])
        found.loss[key] = missing / max(B, 1)
    cost = float(max(1, len(view.captures)))
    return Reconstruction(cost, found.inputs, found.labels, found.loss, {}, notes=tuple(dict.fromkeys(notes)))


def foreign(capture: Capture) -> str:
    """What there is to say of a capture that answers another model."""
    return f"round {capture.round}: the model that was sent is not this attack's: there is nothing to read"


def plausible(candidates: Tensor) -> Tensor:
    """Which candidates [m, D] may be inputs: finite, and in [0, 1] up to `MARGIN`."""
    return candidates.isfinite().all(1) & (candidates >= -MARGIN).all(1) & (candidates <= 1 + MARGIN).all(1)


def labels(capture: Capture, inputs: Tensor, size: float = 1.0) -> Tensor:
    r"""Labels [m] of reconstructed inputs, from the last linear layer's gradient; -1 where the model does not end in one.

    With features $H$ [m, h], probabilities P and one-hot labels Y [m, K], $B\, \partial L / \partial W = (P - Y)^T H$ if all B
    inputs were found: $Y = P - B\, (\partial L / \partial W\, H^+)^T$, and the largest entry of a row is the label. Exact for
    m = B linearly independent features, a guess where inputs are missing. ``size``: by what the row exceeds the gradient.
    """
    module = capture.module().to(capture.row.device)
    linear = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    slopes = capture.layout.split(capture.row, "parameter")
    name = f"{linear[-1][0]}.weight".lstrip(".") if linear else ""
    unknown = torch.full((len(inputs),), UNKNOWN, device=inputs.device)
    if not len(inputs) or name not in slopes or len(slopes[name]) != capture.plan.shape.classes:
        return unknown
    with torch.no_grad():
        H, outputs = embed(module, inputs)
    if not bool(H.isfinite().all() & slopes[name].isfinite().all()):
        return unknown
    slope = -slopes[name].double() * capture.examples / size
    Y: Tensor = outputs.softmax(1).double() - (slope @ torch.linalg.pinv(H.double(), rtol=1e-6)).T
    return Y.argmax(1)


__all__ = ["GREY", "ROUNDING", "UNKNOWN", "foreign", "labels", "plausible", "read_all"]
