"""Label recovery from the gradient of the last linear layer: iDLG for one example, and four counts for batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.errors import ConfigError
from sparring.local import Batch, LossFn
from sparring.views import Capture

Source = Literal["idlg", "yin", "wainakh", "geng", "bias"]


@dataclass(frozen=True)
class Head:
    """Of S captures of one model, the mean loss's gradient at its last linear layer z = W h + b, and what it makes of grey.

    ``weight`` [S, K, m] and ``bias`` [S, K] are gradients over B ``examples``, None where there is none or none is sent; ``p``
    [K] and ``h`` [m]: probabilities and features of the input that is .5 everywhere. ``notes``: assumptions that do not hold.
    """

    weight: Tensor | None
    bias: Tensor | None
    examples: int
    p: Tensor
    h: Tensor | None
    notes: tuple[str, ...] = ()

    @property
    def sums(self) -> Tensor:
        """Row sums S_c [S, K] of the weight's gradient; raises `ConfigError` where it is not sent."""
        return self.rows.sum(2)

    @property
    def rows(self) -> Tensor:
        """The weight's gradient; raises `ConfigError` where it is not sent."""
        if self.weight is None:
            raise ConfigError("labels: yin, wainakh and geng read the last layer's weight, which is not sent; set labels: bias")
        return self.weight


def head(captures: Sequence[Capture], scales: Sequence[float], loss: LossFn) -> Head:
    """The head of captures that share model, parameters and number of examples; ``scales``: by what rows exceed gradients.

    Raises `ConfigError` where the logits are not W h + b with the last parameters that are sent.
    """
    first = captures[0]
    classes, module = first.plan.shape.classes, first.module()
    rows = torch.stack([capture.gradient / scale for capture, scale in zip(captures, scales, strict=True)])
    sent, own = first.layout.split(rows, "parameter"), dict(module.named_parameters())
    owner, _, leaf = next(reversed(list(sent)), "").rpartition(".")
    at = {name: f"{owner}.{name}".lstrip(".") for name in ("weight", "bias")}
    W, b = (own[at[name]] if at[name] in sent else None for name in at)
    parts = [t for t in (W, b) if t is not None]
    fits = leaf in at and (W is None or (W.dim() == 2 and len(W) == classes)) and (b is None or b.shape == (classes,))
    grey = first.row.new_full((1, *first.plan.shape.inputs), 0.5)
    z = module(grey) if fits else grey
    # Any v with distinct entries will do: the logits are linear in b with slope 1, and in W with one h for all rows.
    v = torch.linspace(1, 2, classes, dtype=grey.dtype, device=grey.device)
    slopes = (
        torch.autograd.grad(z[0] @ v, parts, retain_graph=True, allow_unused=True) if fits and z.shape == (1, classes) else ()
    )
    found = dict(zip([t.dim() for t in parts], slopes, strict=False))
    db, dW = found.get(1), found.get(2)
    h = None if dW is None else dW[0]
    linear = bool(slopes) and all(s is not None for s in slopes)
    linear = linear and (db is None or torch.allclose(db, v, atol=1e-4))
    linear = linear and (dW is None or h is None or torch.allclose(dW, v[:, None] * h, rtol=1e-3, atol=1e-5))
    if not linear:
        raise ConfigError(
            f"labels are read from the gradient of a last linear layer with {classes} outputs, and this model's updates end in "
            "none; grant the labels (labels: granted)"
        )
    p = z.detach()[0].softmax(0)
    notes = _notes(module, grey, loss, parts, p, h)
    return Head(sent.get(at["weight"]), sent.get(at["bias"]), first.examples, p, h, notes)


def _notes(
    module: nn.Module, grey: Tensor, loss: LossFn, parts: Sequence[Tensor], p: Tensor, h: Tensor | None
) -> tuple[str, ...]:
    """Of what all rules assume, that which does not hold for a grey input."""
    notes = []
    y = torch.zeros(1, dtype=torch.long, device=grey.device)
    slope = torch.autograd.grad(loss(module, Batch(grey, y)).mean(), parts[-1])[0]
    r = p - torch.eye(len(p), dtype=p.dtype, device=p.device)[0]
    if not torch.allclose(slope, r if slope.dim() == 1 or h is None else r[:, None] * h, rtol=1e-3, atol=1e-5):
        notes.append("labels were recovered as if the loss were cross-entropy, which it is not")
    if h is not None and bool((h < 0).any()):
        notes.append("labels: row sums tell classes apart where features are not negative, and here some are; bias needs none")
    return tuple(notes)


def recover(source: Source, head: Head) -> tuple[Tensor, tuple[str, ...]]:
    r"""Labels [S, B] of the examples behind S captures, each in ascending order, and what is to be noted about them.

    With logits z, $\partial L / \partial b_c = \frac{1}{B} \sum_i (p_{i,c} - [c = y_i])$, and row c of the weight's gradient is
    the same mean with each term times $h_i$. For one example the label is the only negative entry, so that `idlg` answers
    whatever the ``source``: exact with a bias, and for features h >= 0 without one. What a batch's probabilities and features
    are is not known: where a rule needs them, they are those of a grey input, which takes the architecture alone and fits
    untrained models; on trained ones the counts fail.

    Raises `ConfigError` where the rule does not apply, naming one that does.
    """
    single = head.examples == 1
    notes = list(head.notes if not single or head.bias is None else ())
    if source == "idlg" and not single:
        source = "geng" if head.bias is None else "bias"
        notes.append(f"iDLG recovers the label of one example; labels of batches were counted as with labels: {source}")
    found = (idlg if single else RULES[source])(head)
    return found.sort(1).values, tuple(notes)


def idlg(head: Head) -> Tensor:
    """Zhao, Mopuri, Bilen 2020, 2001.02610: the class of least gradient, by the bias where there is one; B = 1."""
    return (head.sums if head.bias is None else head.bias).argmin(1, keepdim=True)


def yin(head: Head) -> Tensor:
    """Yin et al., CVPR 2021, 2104.07586: the B classes of least min_j dW[c, j]; no label recurs, and h >= 0.

    Raises `ConfigError` for more examples than classes.
    """
    K = len(head.p)
    if head.examples > K:
        raise ConfigError(
            f"labels: yin finds each of {K} classes once, and a capture has {head.examples} examples; set wainakh"
        )
    return head.rows.amin(2).topk(head.examples, dim=1, largest=False).indices


def wainakh(head: Head) -> Tensor:
    r"""LLG (Wainakh et al., PoPETs 2022, 2105.09369), from the gradient alone; h >= 0.

    $m = \frac{1}{B} (1 + \frac{1}{K}) \sum_{S_c < 0} S_c$ is what one example adds to its class's row sum. Each class with
    S_c < 0 is taken once, and m subtracted from its sum; then the class of least sum, until there are B. Scale does not matter.
    Where most classes are in the batch, positive and negative parts of a row sum cancel, m is too short, and counts are poor.
    """
    S, B = head.sums, head.examples
    m = S.clamp(max=0).sum(1, keepdim=True) * (1 + 1 / S.shape[1]) / B
    return _greedy(-S, -m, B, S < 0)


def geng(head: Head) -> Tensor:
    r"""Geng et al. 2021, 2110.09074: $k_c = B (\bar p_c - S_c / \sum_j \bar h_j)$ of class c, rounded to B; h >= 0."""
    B, S = head.examples, head.sums
    assert head.h is not None
    k = B * (head.p - S / head.h.sum())
    return _greedy(k, torch.ones_like(k[:, :1]), B)


def bias(head: Head) -> Tensor:
    r"""$k_c = B (\bar p_c - \partial L / \partial b_c)$, the mean of the bias's gradient solved for the count; any features.

    Raises `ConfigError` where the last layer has no bias, or sends none.
    """
    B, db = head.examples, head.bias
    if db is None:
        raise ConfigError("labels: bias reads the bias of the last layer, and none is sent; set labels: geng or wainakh")
    k = B * (head.p - db)
    return _greedy(k, torch.ones_like(k[:, :1]), B)


def _greedy(k: Tensor, step: Tensor, B: int, first: Tensor | None = None) -> Tensor:
    """The classes [S, B] of B draws from scores k [S, K]: always the greatest, which then falls by ``step`` [S, 1].

    ``first`` [S, K]: classes that are drawn once before all others. One sort of the scores that a class has after 0, 1, ...
    draws is the same as drawing.
    """
    later = k[:, :, None] - step[:, :, None] * torch.arange(B, dtype=k.dtype, device=k.device)
    if first is not None:
        later[:, :, 0] += first * 2 * later.abs().amax((1, 2))[:, None]
    return later.flatten(1).topk(B, dim=1).indices // B


RULES: Mapping[Source, Callable[[Head], Tensor]] = {"yin": yin, "wainakh": wainakh, "geng": geng, "bias": bias}
"""The rules for batches; labels that are granted need none."""
