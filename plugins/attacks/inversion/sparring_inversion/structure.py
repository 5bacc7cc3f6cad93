"""What a model is made of: its layers in the order of the forward pass, and how the first one's input comes of the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.errors import ConfigError
from sparring.local import cross_entropy
from sparring.signals import DataShape
from sparring.views import Capture
from sparring_inversion.labels import head, recover
from sparring_inversion.records import box

Grads = dict[str, Tensor]


class UnmetError(Exception):
    """An assumption of the attack that does not hold; the text says which."""


@dataclass(frozen=True)
class Link:
    """One call of a leaf module with probes: its input ``x`` and output ``y`` [probes, ...]."""

    name: str
    module: nn.Module
    x: Tensor
    y: Tensor

    @property
    def kind(self) -> str:
        return type(self.module).__name__

    @property
    def holds(self) -> bool:
        """Whether it has parameters."""
        return any(True for _ in self.module.parameters(recurse=False))

    def parameter(self, which: str) -> str:
        """The full name of its parameter ``which``."""
        return f"{self.name}.{which}" if self.name else which

    def __str__(self) -> str:
        return f"layer '{self.name}' ({self.kind})"


@dataclass(frozen=True)
class Forward:
    """A forward pass of probes ``x`` through every leaf, to ``y``."""

    links: tuple[Link, ...]
    x: Tensor
    y: Tensor

    @property
    def first(self) -> int:
        """Position of the first layer with parameters. Raises `UnmetError` where no layer has any."""
        for position, link in enumerate(self.links):
            if link.holds:
                return position
        raise UnmetError("no layer of the model has parameters")

    def undo(self, v: Tensor) -> Tensor:
        """Inputs [m, ...] of which the first layer's inputs are ``v`` [m, n].

        Raises `UnmetError` unless what stands before it is affine, number by number.
        """
        seen, x = self.links[self.first].x.flatten(1), self.x.flatten(1)
        if seen.shape != x.shape:
            raise UnmetError(f"the input of {self.links[self.first]} is not the whole input of the model")
        shift = seen[0]
        scale = seen[1] - shift
        if not torch.allclose(shift + scale * x, seen, rtol=1e-9, atol=1e-9) or bool((scale == 0).any()):
            raise UnmetError(f"what stands before {self.links[self.first]} is not affine in each number of the input")
        return ((v - shift) / scale).view(-1, *self.x.shape[1:])


def probe(module: nn.Module, shape: DataShape) -> Forward:
    """The forward pass of five probes, the first of zeros and the second of ones, in float64; ``module`` becomes float64."""
    module = module.double()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    at = torch.arange(1, 1 + 3 * torch.Size(shape.inputs).numel(), dtype=torch.float64, device=device)
    spread = (at * 0.6180339887498949 % 1).view(3, *shape.inputs)
    x = torch.cat([torch.zeros_like(spread[:1]), torch.ones_like(spread[:1]), spread])
    links: list[Link] = []
    given: list[Tensor] = []

    def before(leaf: nn.Module, args: tuple[object, ...]) -> None:
        if len(args) != 1 or not isinstance(args[0], Tensor):
            raise UnmetError(f"module '{names[leaf]}' ({type(leaf).__name__}) takes something else than one tensor")
        given.append(args[0].clone())

    def after(leaf: nn.Module, args: tuple[object, ...], y: object) -> None:
        del args
        if not isinstance(y, Tensor):
            raise UnmetError(f"module '{names[leaf]}' ({type(leaf).__name__}) gives something else than one tensor")
        links.append(Link(names[leaf], leaf, given.pop(), y.clone()))

    names = {leaf: name for name, leaf in module.named_modules() if not list(leaf.children())}
    handles = [leaf.register_forward_pre_hook(before) for leaf in names]
    handles += [leaf.register_forward_hook(after) for leaf in names]
    try:
        with torch.no_grad():
            y = module(x)
    finally:
        for handle in handles:
            handle.remove()
    return Forward(tuple(links), x, y)


def gradients(capture: Capture) -> Grads:
    """The captured gradient by parameter name, in float64. Raises `UnmetError` where it is zero, or no number."""
    g = capture.gradient.double()
    if not bool(g.isfinite().all()):
        raise UnmetError("the update holds NaN or infinity")
    if not bool(g.any()):
        raise UnmetError("the update is zero")
    return dict(capture.layout.split(g, "parameter"))


def grey(capture: Capture) -> Tensor:
    """What is returned where nothing was found: [B, ...] of the middle of the box, which is 1/2 for images."""
    low, high = box(capture.plan.shape, capture.row)
    return ((low + high) / 2).expand(capture.examples, *capture.plan.shape.inputs).clone()


def labelled(capture: Capture, scale: float) -> Tensor:
    """Labels [B] from the last layer's gradient, in ascending order; class 0 where that is no linear layer."""
    try:
        found, _ = recover("idlg", head([capture], [scale], cross_entropy))
        return found[0]
    except ConfigError:
        return torch.zeros(capture.examples, dtype=torch.long, device=capture.row.device)


def noted(reasons: Sequence[str], captures: int) -> tuple[str, ...]:
    """Each reason once, with how many of the captures it is about."""
    return tuple(f"{reason} ({count} of {captures} captures)" for reason, count in Counter(reasons).items())


Say = Callable[[str], None]
