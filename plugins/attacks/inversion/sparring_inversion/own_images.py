"""What an attacker makes of images of its own: their means by class, and how like them a dummy is to the shared model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sparring.errors import ConfigError
from sparring.signals import Examples
from sparring.views import Capture
from sparring_inversion.matching import Stack

Kind = Literal["all", "convolutions", "linear"]
KINDS: dict[Kind, tuple[type[nn.Module], ...]] = {
    "all": (_ConvNd, nn.Linear),
    "convolutions": (_ConvNd,),
    "linear": (nn.Linear,),
}
NAMES: dict[Kind, tuple[str, str]] = {
    "all": ("convolution or linear layer", "set features and style to 0"),
    "convolutions": ("convolution", "set layers: linear"),
    "linear": ("linear layer", "set layers: convolutions"),
}
TOGETHER = 256
"""Own images whose features are held at once."""


class Own:
    """The attacker's images by class: those of a class that has none are all, and masks have no class but one for all.

    Raises `ConfigError` where there is no image at all.
    """

    def __init__(self, examples: Examples | None) -> None:
        if examples is None or not len(examples):
            raise ConfigError("own images: there are 0 public examples, and 1 at least is needed; choose a data set with some")
        self.x, self.y = examples.x, classes(examples.y, 1)

    def of(self, label: int) -> Tensor:
        """The images [n, ...] of a class, or all."""
        mine = self.x[self.y == label]
        return mine if len(mine) else self.x

    def notes(self, stacks: Sequence[Stack]) -> tuple[str, ...]:
        """Which classes of captures have no image."""
        wanted = {int(label) for stack in stacks for label in classes(stack.labels, 2).unique()}
        missing = sorted(wanted - {int(label) for label in self.y.unique()})
        what = ", ".join(map(str, missing))
        return (f"own images: none of class {what}, for which the mean of all stands in",) if missing else ()


def classes(labels: Tensor, lead: int) -> Tensor:
    """Labels whose ``lead`` axes are of examples: as they are, or 0 for each mask [..., H, W]."""
    return labels if labels.dim() == lead else labels.new_zeros(labels.shape[:lead])


class Features:
    """Outputs phi_l [n, C, P] of the layers of a broadcast model, in evaluation mode, for inputs [n, ...].

    C: channels of a convolution or features of a linear layer; P: positions. Raises `ConfigError` where there is no such layer.
    """

    def __init__(self, capture: Capture, kind: Kind) -> None:
        self.module = capture.module().to(capture.row.device).requires_grad_(False)
        self.layers = [layer for layer in self.module.modules() if isinstance(layer, KINDS[kind])]
        self.like = capture.row
        if not self.layers:
            what, fix = NAMES[kind]
            raise ConfigError(f"layers: {kind}, but this model has no {what}; {fix}")

    def __call__(self, x: Tensor) -> list[Tensor]:
        seen: list[Tensor] = []

        def see(layer: nn.Module, _: object, out: Tensor) -> None:
            channels = out.flatten(2) if isinstance(layer, _ConvNd) else out.reshape(len(x), -1, out.shape[-1]).mT
            seen.append(channels.reshape(len(x), channels.shape[1], -1))

        handles = [layer.register_forward_hook(see) for layer in self.layers]
        try:
            self.module(x)
        finally:
            for handle in handles:
                handle.remove()
        return seen


def gram(phi: Tensor) -> Tensor:
    r"""Gram matrices [n, C, C] of features [n, C, P]: $\phi \phi^T / P$, the same wherever in the image something is."""
    return phi @ phi.mT / phi.shape[2]


def relative(a: Tensor, m: Tensor) -> Tensor:
    r"""Relative squared distances [n] $\|a - m\|_2^2 / \|m\|_2^2$ of a, m [n, ...]; the squared norm of a where m is 0."""
    size = m.flatten(1).square().sum(1)
    return (a - m).flatten(1).square().sum(1) / torch.where(size > 0, size, torch.ones_like(size))


@dataclass(frozen=True)
class Likeness:
    """Mean ``features`` and ``grams`` of own images by layer, [k, C, P] and [k, C, C] for k classes, and whose they are.

    ``at`` [S, B]: of which of the classes each dummy is.
    """

    phi: Features
    at: Tensor
    features: tuple[Tensor, ...]
    grams: tuple[Tensor, ...]

    @classmethod
    def of(cls, own: Own, stack: Stack, kind: Kind) -> Likeness:
        """How like own images of their classes the dummies of ``stack`` are to its model."""
        phi = Features(stack.captures[0], kind)
        labels, at = classes(stack.labels, 2).unique(return_inverse=True)
        means = [_means(phi, own.of(int(label)).to(phi.like)) for label in labels]
        features, grams = (tuple(torch.stack(layer) for layer in zip(*part, strict=True)) for part in zip(*means, strict=True))
        return cls(phi, at, features, grams)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of dummies [S, B, ...], relative squared distances [S] of features and of Gram matrices: means over layers and B."""
        at = self.at.flatten()
        seen = self.phi(x.flatten(0, 1))
        apart = [relative(a, m[at]) for a, m in zip(seen, self.features, strict=True)]
        styles = [relative(gram(a), m[at]) for a, m in zip(seen, self.grams, strict=True)]
        content, style = (torch.stack(d).mean(0).view(self.at.shape).mean(1) for d in (apart, styles))
        return content, style


@torch.no_grad()
def _means(phi: Features, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Means over images [n, ...] of features [C, P] and of Gram matrices [C, C], by layer."""
    sums = [torch.zeros((), dtype=x.dtype, device=x.device)] * 2 * len(phi.layers)
    for part in x.split(TOGETHER):
        seen = phi(part)
        sums = [total + a.sum(0) for total, a in zip(sums, [*seen, *map(gram, seen)], strict=True)]
    means = [total / len(x) for total in sums]
    return means[: len(means) // 2], means[len(means) // 2 :]
