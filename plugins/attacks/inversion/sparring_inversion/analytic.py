"""Analytic inversion of a first linear layer: its weight gradient over its bias gradient is its input."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, Capture, Reconstruction, UpdateView
from sparring_inversion.matching import scale_of
from sparring_inversion.plugin_analytic import AnalyticConfig
from sparring_inversion.records import box
from sparring_inversion.structure import Forward, Grads, Say, UnmetError, gradients, grey, labelled, noted, probe

LIVE = 1e-5
"""Share of the largest bias gradient below which a row counts as inactive: the rest of a sum in float32."""
AGREED = 1e-5
"""Difference up to which two rows' candidates agree: examples of one class give mixtures that are close."""
ALIKE = 1e-3
"""Difference up to which two candidates are not both returned."""
EXPLAINED = 1e-4
"""Relative squared residual above which the update is no gradient of that many inputs."""
ROWS = 2048
"""Rows of largest bias gradient that are compared with each other."""


@final
class Analytic(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the inputs behind an update from a first layer $y = W x + b$ on the whole input.

    Over examples, $\partial L / \partial W_i = \sum_n \delta_{ni} x_n^\top$, $\partial L / \partial b_i = \sum_n \delta_{ni}$.
    For one example $x = \sum_i \partial_{b_i} L \, \partial_{W_i} L / \sum_i (\partial_{b_i} L)^2$, by least squares over rows,
    exact for any loss, any layers behind, any scale of the update, and any number of local steps without weight decay.

    For B examples each row with $\partial_{b_i} L \ne 0$ has the candidate $\partial_{W_i} L / \partial_{b_i} L$: exact for
    rows that are active for one example alone, else a mixture. Candidates in the box of inputs on which most rows agree
    come first, then others in the box, then those that leave it least; no two alike. Labels stand in ascending order, not in
    that of the inputs.

    What stands before the layer, such as a normalisation, must be affine in each number, and is undone. Where the first layer
    with parameters is no such layer, has or sends no bias, or the update is zero, the result is grey, the middle of the
    box. ``notes`` say which assumption failed. ``loss`` is the share of the gradient's squared norm that the inputs do not
    explain; ``cost`` counts forward passes of probes: no gradient is evaluated.

    Source: Phong, Aono, Hayashi, Wang, Moriai, IEEE TIFS 13(5), 2018, section III; 10.1109/TIFS.2017.2787987.
    """

    def __init__(self, config: AnalyticConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        found = Reconstruction(0.0, {}, {}, {}, {})
        captures = [capture for capture in view.captures if capture.examples]
        reasons: list[str] = []
        for done, capture in enumerate(captures):
            key = capture.round, capture.client
            ctx.progress(f"solving for the inputs of {len(captures)} updates", done / len(captures))
            found.inputs[key], found.loss[key], found.progress[key] = grey(capture), 1.0, []
            found.labels[key] = labelled(capture, scale_of(capture, view))
            try:
                x, found.loss[key] = _solve(capture, reasons.append)
                found.inputs[key] = x.to(capture.row).clamp(*box(capture.plan.shape, capture.row))
            except UnmetError as reason:
                reasons.append(str(reason))
        notes = noted(reasons, len(captures))
        return Reconstruction(float(len(captures)), found.inputs, found.labels, found.loss, found.progress, notes=notes)


def _solve(capture: Capture, say: Say) -> tuple[Tensor, float]:
    """The inputs [B, ...], unclamped, and the loss."""
    gradient = gradients(capture)
    forward = probe(capture.module(), capture.plan.shape)
    W, b = _first(forward, gradient)
    if capture.examples == 1:
        found = (b @ W / b.square().sum())[None]
        x = forward.undo(found)
        loss = _unexplained(W, found)
        if loss > EXPLAINED:
            say("the first layer's rows disagree: the update is no gradient of one example (noise, decay, compression)")
        return x, loss
    order = b.abs().argsort(descending=True, stable=True)[:ROWS]
    order = order[b[order].abs() > LIVE * b.abs().max()]
    candidates = W[order] / b[order, None]
    x = forward.undo(candidates)
    outside = (x - x.clamp(*box(capture.plan.shape, x))).flatten(1).abs().amax(1)
    chosen, agreed = _choose(x.flatten(1), outside, capture.examples)
    missing = capture.examples - len(chosen)
    if agreed < capture.examples:
        say(
            f"{capture.examples} examples are mixed: not every one has rows of its own on which these agree, and what stands "
            "for the others is single rows, which may be mixtures, or grey"
        )
    return torch.cat([x[chosen], grey(capture)[:missing].to(x)]), _unexplained(W, candidates[chosen])


def _first(forward: Forward, gradient: Grads) -> tuple[Tensor, Tensor]:
    """The gradients [m, n] of weights and [m] of biases of the first layer with parameters. Raises `UnmetError`."""
    link = forward.links[forward.first]
    if not isinstance(link.module, nn.Linear):
        raise UnmetError(
            f"the first layer with parameters, {link}, is no linear layer: a later one would give its own input, not the image"
        )
    if link.x.dim() != 2:
        raise UnmetError(f"the first, {link}, takes several vectors an input, not the whole input as one")
    if sum(other.name == link.name for other in forward.links) > 1:
        raise UnmetError(f"the first, {link}, is used more than once")
    W, b = (gradient.get(link.parameter(which)) for which in ("weight", "bias"))
    if W is None or b is None:
        raise UnmetError(f"the first, {link}, has no bias, or does not send the gradients of both its weights and its bias")
    if not bool(b.any()):
        raise UnmetError(f"the gradient of the bias of the first, {link}, is zero")
    peak = b.abs().max()
    return W / peak, b / peak


def _choose(x: Tensor, outside: Tensor, wanted: int) -> tuple[Tensor, int]:
    """The rows of at most ``wanted`` candidates ``x`` [L, n], no two alike, and how many of them other rows agree on.

    ``outside`` [L]: how far they leave the box of inputs.
    """
    apart = torch.cdist(x, x, p=torch.inf).fill_diagonal_(0)
    score = torch.where(outside <= AGREED, (apart <= AGREED).sum(1).to(x), -outside)
    chosen = []
    left = torch.ones_like(outside, dtype=torch.bool)
    for _ in range(wanted):
        best = score.where(left, -torch.inf).max(0).indices
        chosen.append(torch.where(left[best], best, -1))
        left = left & (apart[best] > ALIKE)
    index = torch.stack(chosen)
    index = index[index >= 0]
    return index, int((score[index] >= 2).sum())


def _unexplained(W: Tensor, found: Tensor) -> float:
    """The share of the squared norm of the rows ``W`` [m, n] that lies outside the span of the inputs ``found`` [B, n]."""
    _, s, basis = torch.linalg.svd(found, full_matrices=False)
    basis = basis[s > 1e-9 * s.max()]
    rest = W - W @ basis.mT @ basis
    return float(rest.square().sum() / W.square().sum().clamp_min(torch.finfo(W.dtype).tiny))
