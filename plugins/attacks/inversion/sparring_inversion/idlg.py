"""Label recovery from the gradient of the last layer (iDLG, and its bias-corrected form for batches)."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.errors import ConfigError
from sparring.layout import Segment
from sparring.views import Capture


def _last(capture: Capture) -> Segment:
    """The bias [K] of the last linear layer or, where it has none or sends none, its weight [K, h]."""
    classes = capture.plan.shape.classes
    last = [s for s in capture.layout.segments if s.role == "parameter"][-1:]
    for s in last:
        if s.shape[:1] == (classes,) and (len(s.shape) == 2 or (len(s.shape) == 1 and s.name.endswith("bias"))):
            return s
    raise ConfigError(
        f"labels: idlg reads the gradient of a last linear layer with {classes} outputs, and this model's updates end in none; "
        "grant the labels (labels: granted)"
    )


def recover(capture: Capture, scale: float = 1.0) -> Tensor:
    r"""Labels [B] of the examples behind a capture, in ascending order.

    With logits z, $\partial L / \partial b_c = \partial L / \partial z_c = \frac{1}{B} \sum_i (p_{i,c} - [c = y_i])$; a row of
    the weight gradient sums to the same times $H = \sum_j h_j$, of the same sign for features h >= 0. For one example the label
    is the only negative entry: exact. For B examples, $k_c = B (\bar p_c - \partial L / \partial z_c)$ counts class c; p and H
    are taken from a grey input, and ``scale`` is what the capture is a multiple of the gradient by.

    Sources: Zhao, Mopuri, Bilen 2020 (2001.02610); for batches, the count that follows from the first equation.
    Raises `ConfigError` where the model does not end in a linear layer whose gradient is sent.
    """
    last = _last(capture)
    row = capture.gradient[last.start : last.stop].view(last.shape)
    s = row if row.dim() == 1 else row.sum(1)
    if capture.examples == 1:
        return s.argmin().view(1)
    p, H = _grey(capture, last)
    k = capture.examples * (p - s / (scale * H))
    labels = []
    for _ in range(capture.examples):
        labels.append(int(k.argmax()))
        k[labels[-1]] -= 1
    return torch.tensor(sorted(labels), device=s.device)


def _grey(capture: Capture, last: Segment) -> tuple[Tensor, Tensor]:
    """The probabilities [K] of a grey input, and the sum H of its last features (1 where ``last`` is a bias)."""
    module = capture.module().to(capture.row.device)
    logits = module(capture.row.new_full((1, *capture.plan.shape.inputs), 0.5))
    (slope,) = torch.autograd.grad(logits[0, 0], dict(module.named_parameters())[last.name])
    H = slope[0] if slope.dim() == 1 else slope[0].sum()
    return logits.detach()[0].softmax(0), H
