"""Gradient matching: captures stacked by what they share, and what the model makes of dummy inputs in their place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from sparring.errors import ConfigError
from sparring.local import Batch, Functional, LossFn
from sparring.views import AggregateView, Capture, LocalSettings, UpdateView
from sparring_inversion.labels import Source, head, recover
from sparring_inversion.records import box

BUDGET = 1 << 25
"""Numbers of dummy gradients that are held at once: bounds memory, whatever the number of captures and restarts."""

Where = tuple[int, int | None]
Gradient = dict[str, Tensor]
Objective = Callable[[Gradient, Tensor, Tensor], Tensor]
Moments = dict[str, tuple[Tensor, Tensor]]
"""Means and unbiased variances over the batch, each [S, C], of what enters BatchNorm layers, by the layer's name."""


@dataclass(frozen=True)
class Look:
    """What the model makes of dummies [S, B, ...]: gradients of the mean loss, each [S, ...], and that ``loss`` [S].

    ``moments``: of the layers that the stack watches.
    """

    gradient: Gradient
    loss: Tensor
    moments: Moments = field(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """Captures that answer one broadcast, with their ``labels`` [S, B]: dummies share every forward and backward pass.

    ``scales``: by what each row exceeds the gradient of the mean loss. ``notes``: what is to be said about the labels.
    ``watched``: names of the BatchNorm layers whose moments a look holds.
    """

    captures: tuple[Capture, ...]
    labels: Tensor
    scales: tuple[float, ...]
    loss: LossFn
    notes: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.captures)

    @property
    def keys(self) -> list[Where]:
        """The captures' keys in a `Reconstruction`."""
        return [(capture.round, capture.client) for capture in self.captures]

    @property
    def inputs(self) -> tuple[int, ...]:
        """The shape [B, ...] of one capture's reconstruction."""
        first = self.captures[0]
        return (first.examples, *first.plan.shape.inputs)

    @cached_property
    def box(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest value of every input, which broadcast to dummies [S, B, ...]."""
        return box(self.captures[0].plan.shape, self.captures[0].row)

    def placed(self, u: Tensor) -> Tensor:
        """The inputs [..., *inputs] at positions ``u`` in the box: u itself where that is [0, 1]."""
        return torch.lerp(*self.box, u)

    def positions(self, x: Tensor) -> Tensor:
        """Where inputs [..., *inputs] stand in the box, from 0 to 1; 0 where it has no width."""
        low, high = self.box
        return ((x.to(low) - low) / (high - low).where(high > low, 1)).clamp(0, 1)

    def inside(self, x: Tensor) -> Tensor:
        """Dummies [..., *inputs], clamped to the box."""
        return x.clamp(*self.box)

    @cached_property
    def targets(self) -> Gradient:
        """Captured gradients by parameter name, each [S, ...], brought to the scale of the mean loss's gradient."""
        rows = torch.stack([-capture.row / scale for capture, scale in zip(self.captures, self.scales, strict=True)])
        return dict(self.captures[0].layout.split(rows, "parameter"))

    @cached_property
    def norms(self) -> Tensor:
        """L2 norms of the captured gradients [S]."""
        return squared(self.targets).sqrt()

    @cached_property
    def problem(self) -> tuple[Gradient, Objective, Moments]:
        """The broadcast parameters by name, the mean loss of parameters, inputs [B, ...] and labels [B], and what it notes.

        That is what entered the ``watched`` layers. BatchNorm layers take the statistics of the dummies, as those of clients
        take the batch's: a module that trains does so.
        """
        first = self.captures[0]
        module = first.module().to(first.row.device).requires_grad_(False)
        theta = dict(first.layout.split(first.parameters, "parameter"))
        seen: Moments = {}
        for name, layer in module.named_modules():
            if isinstance(layer, _BatchNorm):
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
            if name in self.watched:
                layer.register_forward_pre_hook(_note(name, seen))

        def objective(theta: Gradient, x: Tensor, y: Tensor) -> Tensor:
            return self.loss(Functional(module, theta), Batch(x, y)).mean()

        return theta, objective, seen

    @cached_property
    def look(self) -> Callable[[Tensor], Look]:
        """Of dummies [S, B, ...], what the model makes of them, with a graph to those.

        A stack of one is differentiated by autograd itself, which is faster than through vmap.
        """
        if len(self) > 1:
            return self.functional
        theta, objective, seen = self.problem
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}

        def look(x: Tensor) -> Look:
            if not x.requires_grad:
                return self.functional(x)
            loss = objective(leaves, x[0], self.labels[0])
            slopes = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, materialize_grads=True)
            found = _alone(dict(zip(leaves, slopes, strict=True)), loss, seen)
            seen.clear()
            return found

        return look

    @cached_property
    def functional(self) -> Callable[[Tensor], Look]:
        """`look` without a call of autograd, so that it can be differentiated by torch.func, and compiled."""
        theta, objective, seen = self.problem

        def both(theta: Gradient, x: Tensor, y: Tensor) -> tuple[Tensor, Moments]:
            loss = objective(theta, x, y)
            return loss, dict(seen)

        one = grad_and_value(both, has_aux=True)
        several = vmap(one, in_dims=(None, 0, 0))

        def look(x: Tensor) -> Look:
            if len(self) > 1:
                gradient, (loss, moments) = several(theta, x, self.labels)
                found = Look(gradient, loss, moments)
            else:
                gradient, (loss, moments) = one(theta, x[0], self.labels[0])
                found = _alone(gradient, loss, moments)
            seen.clear()
            return found

        return look

    def gradient(self, x: Tensor) -> Gradient:
        """Of dummies [S, B, ...], the gradients of the mean loss by parameter name, each [S, ...], with a graph to those."""
        return self.look(x).gradient

    def take(self, index: Sequence[int]) -> Stack:
        """The captures at ``index``, in that order; an index may recur."""
        captures, scales = tuple(self.captures[i] for i in index), tuple(self.scales[i] for i in index)
        return replace(self, captures=captures, scales=scales, labels=self.labels[list(index)])

    def repeated(self, times: int) -> Stack:
        """Every capture ``times`` times in a row."""
        return self.take([i for i in range(len(self)) for _ in range(times)])

    def chunks(self, copies: int = 1) -> Iterator[Stack]:
        """Parts whose dummy gradients, ``copies`` of each capture, fit into `BUDGET`."""
        size = max(1, BUDGET // (copies * max(1, self.captures[0].layout.parameters)))
        for at in range(0, len(self), size):
            yield self.take(range(at, min(at + size, len(self))))


def _note(name: str, seen: Moments) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that leaves the moments of a layer's input [B, C, ...] in ``seen``."""

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(args[0].dim()) if axis != 1]
        seen[name] = args[0].mean(axes), args[0].var(axes)

    return note


def _alone(gradient: Gradient, loss: Tensor, moments: Moments) -> Look:
    """The look of a stack of one."""
    noted = {name: (mean[None], var[None]) for name, (mean, var) in moments.items()}
    return Look({name: slope[None] for name, slope in gradient.items()}, loss[None], noted)


def squared(gradient: Gradient) -> Tensor:
    """Squared L2 norms [S] over the concatenated gradient."""
    return torch.stack([g.flatten(1).square().sum(1) for g in gradient.values()]).sum(0)


def inner(gradient: Gradient, other: Gradient) -> Tensor:
    """Inner products [S] over the concatenated gradient."""
    return torch.stack([(g * other[name]).flatten(1).sum(1) for name, g in gradient.items()]).sum(0)


def cosine(gradient: Gradient, stack: Stack) -> Tensor:
    r"""Cosine similarities [S] $\langle g, g^* \rangle / (\|g\|_2 \|g^*\|_2)$ over the concatenated gradient.

    0 where either norm is 0, with a zero gradient.
    """
    tiny = torch.finfo(stack.norms.dtype).tiny
    return inner(gradient, stack.targets) / (squared(gradient).clamp_min(tiny).sqrt() * stack.norms.clamp_min(tiny**0.5))


def distance(gradient: Gradient, stack: Stack) -> Tensor:
    r"""Squared L2 distances [S] $\sum_l \|g_l - g^*_l\|_2^2$ to the captured gradients."""
    return squared({name: g - stack.targets[name] for name, g in gradient.items()})


def total_variation(x: Tensor) -> Tensor:
    """Anisotropic total variation [S] of ``x`` [S, B, C, H, W]: the mean absolute vertical plus horizontal difference.

    0 for inputs that are no images: they have no neighbours.
    """
    total = x.new_zeros(x.shape[0])
    for axis in (-2, -1) if x.dim() == 5 else ():
        if x.shape[axis] > 1:
            total = total + x.diff(dim=axis).abs().flatten(1).mean(1)
    return total


def stacks(view: UpdateView | AggregateView, labels: Literal["granted"] | Source) -> list[Stack]:
    """The captures of ``view``, stacked where they share model, layout, parameters and number of examples.

    Captures of empty lots are left out: nothing is behind them.
    """
    groups: list[list[Capture]] = []
    for capture in (capture for capture in view.captures if capture.examples):
        for group in groups:
            first = group[0]
            alike = (first.plan, first.layout, first.examples) == (capture.plan, capture.layout, capture.examples)
            if alike and torch.equal(first.parameters, capture.parameters):
                group.append(capture)
                break
        else:
            groups.append([capture])
    made = []
    for group in groups:
        scales = tuple(scale_of(capture, view) for capture in group)
        known, notes = (_granted(group), ()) if labels == "granted" else recover(labels, head(group, scales, view.loss))
        made.append(Stack(tuple(group), known, scales, view.loss, notes))
    return made


def said(every: Sequence[Stack]) -> tuple[str, ...]:
    """What is to be noted about stacks, each sentence once."""
    return tuple(dict.fromkeys(note for stack in every for note in stack.notes))


def _granted(captures: Sequence[Capture]) -> Tensor:
    known = []
    for capture in captures:
        if capture.labels is None:
            raise ConfigError(f"labels: granted, but the capture of round {capture.round} holds none; set labels: idlg")
        known.append(capture.labels.to(capture.row.device))
    return torch.stack(known)


def scale_of(capture: Capture, view: UpdateView | AggregateView) -> float:
    """By what a row exceeds the gradient of the mean loss over its examples; an aggregate is a mean already.

    1 where the clients' settings are not granted. Several local steps count as that many gradients at the broadcast parameters.
    """
    settings = view.settings
    return 1.0 if settings is None or settings.algorithm == "fedsgd" else settings.lr * local_steps(capture, settings)


def local_steps(capture: Capture, settings: LocalSettings | None) -> int:
    """The steps behind a row; one where the clients' settings are not granted."""
    if settings is None or settings.algorithm == "fedsgd":
        return 1
    size = math.ceil(capture.examples / capture.count)
    return settings.steps or settings.epochs * math.ceil(size / (settings.batch_size or size))


class Snapshots:
    """Keeps ``wanted`` intermediate inputs at equal distances over ``iterations``: memory does not grow with these."""

    def __init__(self, wanted: int, iterations: int) -> None:
        self.at = {round(k * iterations / wanted) for k in range(1, wanted + 1)} if wanted else set()
        self.kept: list[tuple[int, Tensor]] = []

    def see(self, done: int, x: Tensor) -> None:
        """Keep ``x`` if a snapshot is due after ``done`` iterations."""
        if done in self.at:
            self.kept.append((done, x.detach().clone()))

    def of(self, row: int) -> list[tuple[int, Tensor]]:
        """The snapshots of one row of the stack."""
        return [(done, x[row]) for done, x in self.kept]
