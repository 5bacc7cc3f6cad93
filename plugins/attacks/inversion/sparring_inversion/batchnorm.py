"""BatchNorm statistics a server can read: the running ones that it broadcast, and the batch's, from how a row changes them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sparring.views import LocalSettings
from sparring_inversion.matching import Moments, Stack, local_steps

Source = Literal["running", "update", "none"]


def statistics(stack: Stack, source: Source, settings: LocalSettings | None) -> Moments:
    r"""Means and unbiased variances [S, C] by the name of each BatchNorm layer that gives them away.

    ``running``: those of the broadcast, r, unless they are still the initial ones. ``update``: one step of momentum m makes
    $r' = (1 - m) r + m s$ of the batch's statistics s, and a row holds r' - r, so that $s = r + (r' - r) / m$. After T steps
    $1 - (1 - m)^T$ takes the place of m, and what is found is $\sum_t w_t s_t / \sum_t w_t$, $w_t = (1 - m)^{T - t}$: later
    batches weigh more. Of an aggregate it is the mean over clients. A layer without a momentum (None: a mean over all batches
    ever, whose number is not sent), or with 0, gives nothing away by an update. A layer that is called more than once in a
    forward pass is not told apart from one of several steps, and only its last call is held to what is found.
    """
    if source == "none":
        return {}
    first = stack.captures[0]
    before = first.layout.split(first.parameters, "buffer")
    change = first.layout.split(torch.stack([capture.row for capture in stack.captures]), "buffer")
    steps = [local_steps(capture, settings) for capture in stack.captures]
    found = {}
    for name, momentum in _layers(stack).items():
        at = [f"{name}.{leaf}".lstrip(".") for leaf in ("running_mean", "running_var")]
        if source == "update" and momentum:
            share = before[at[0]].new_tensor([1 - (1 - momentum) ** T for T in steps])[:, None]
            mean, var = (before[n] + change[n] / share for n in at)
        elif source == "running" and not _fresh(*(before[n] for n in at)):
            mean, var = (before[n].expand_as(change[n]) for n in at)
        else:
            continue
        found[name] = mean, var
    return found


def told(stack: Stack, source: Source, settings: LocalSettings | None) -> tuple[str, ...]:
    """What is to be noted about a source's assumptions."""
    if source == "none":
        return ()
    layers, held = _layers(stack), statistics(stack, source, settings)
    if not layers:
        return ("no running statistics of BatchNorm layers are sent, so that their term is absent",)
    notes = []
    if len(held) < len(layers):
        lacking = f"{len(layers) - len(held)} of {len(layers)} BatchNorm layers"
        why = "the running statistics are still the initial ones" if source == "running" else "there is no momentum"
        notes.append(f"{lacking} say nothing about the data, for {why}: their term is absent")
    if source == "update":
        if max(local_steps(capture, settings) for capture in stack.captures) > 1:
            notes.append("statistics of several local steps are a mean over their batches, not those of the reconstructed one")
        if max(capture.count for capture in stack.captures) > 1:
            notes.append("statistics of an aggregate are the mean of its clients', not those of the reconstructed batch")
        if any(bool((var < 0).any()) for _, var in held.values()):
            notes.append("a variance that an update gives away is negative: running statistics were changed after training")
    return tuple(notes)


def _fresh(mean: Tensor, var: Tensor) -> bool:
    return bool((mean == 0).all() and (var == 1).all())


def _layers(stack: Stack) -> dict[str, float]:
    """Momentum (0 for none) by the name of each BatchNorm layer whose running statistics travel."""
    first = stack.captures[0]
    sent = first.layout.split(first.parameters, "buffer")
    layers = {name: m for name, m in first.module().named_modules() if isinstance(m, _BatchNorm)}
    return {name: m.momentum or 0.0 for name, m in layers.items() if f"{name}.running_mean".lstrip(".") in sent}
