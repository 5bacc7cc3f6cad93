"""Layout: what the columns of a row are, and how a module and a row become each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

Role = Literal["parameter", "frozen", "buffer", "extra"]
ORDER: tuple[Role, ...] = ("parameter", "frozen", "buffer", "extra")


@dataclass(frozen=True)
class Space:
    """What a row's numbers are: ``real``, integers of ``ring`` modulo ``modulus``, ``sealed`` ones, or ``logits``."""

    kind: Literal["real", "ring", "sealed", "logits"] = "real"
    modulus: int | None = None


@dataclass(frozen=True)
class Segment:
    """A named run of columns ``[start, stop)`` that holds a tensor of ``shape``."""

    name: str
    shape: tuple[int, ...]
    role: Role
    start: int

    @property
    def stop(self) -> int:
        return self.start + prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Segments of a row, parameters first and contiguous, and the space of its numbers."""

    segments: tuple[Segment, ...]
    space: Space = Space()

    @property
    def size(self) -> int:
        """Number of columns, d."""
        return self.segments[-1].stop if self.segments else 0

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, the first columns."""
        return max((s.stop for s in self.segments if s.role == "parameter"), default=0)

    @classmethod
    def build(cls, parts: Iterable[tuple[str, tuple[int, ...], Role]], space: Space | None = None) -> Layout:
        """Segments in the order of their roles; within a role, in the order given."""
        segments: list[Segment] = []
        at = 0
        for name, shape, role in sorted(parts, key=lambda part: ORDER.index(part[2])):
            segments.append(Segment(name, tuple(shape), role, at))
            at = segments[-1].stop
        return cls(tuple(segments), space or Space())

    @classmethod
    def of(cls, module: nn.Module, frozen: Iterable[str] = (), buffers: bool = True) -> Layout:
        """Layout of a module: parameters, frozen parameters, floating buffers. Integer buffers never travel."""
        held = set(frozen)
        parts: list[tuple[str, tuple[int, ...], Role]] = []
        for name, p in module.named_parameters():
            parts.append((name, tuple(p.shape), "frozen" if name in held or not p.requires_grad else "parameter"))
        if buffers:
            parts += [(n, tuple(b.shape), "buffer") for n, b in module.named_buffers() if b.is_floating_point()]
        return cls.build(parts)

    def row(self, module: nn.Module) -> Tensor:
        """The module's tensors as one row ``[d]``."""
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        parts = [tensors[s.name].detach().reshape(-1) for s in self.segments if s.role != "extra"]
        return torch.cat(parts) if parts else torch.zeros(0)

    @torch.no_grad()
    def load(self, module: nn.Module, row: Tensor) -> None:
        """Copy a row into the module; extras are skipped."""
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for s in self.segments:
            if s.role != "extra":
                tensors[s.name].copy_(row[s.start : s.stop].view(s.shape))

    def split(self, row: Tensor, role: Role | None = None) -> Mapping[str, Tensor]:
        """Views of ``row`` [..., d] by segment name, with the segments' shapes."""
        lead = row.shape[:-1]
        chosen = (s for s in self.segments if role is None or s.role == role)
        return {s.name: row[..., s.start : s.stop].reshape(*lead, *s.shape) for s in chosen}

    def extended(self, extras: Iterable[tuple[str, tuple[int, ...]]], space: Space | None = None) -> Layout:
        """This layout with extra segments at the end, and perhaps another space."""
        segments = list(self.segments)
        at = self.size
        for name, shape in extras:
            segments.append(Segment(name, tuple(shape), "extra", at))
            at = segments[-1].stop
        return replace(self, segments=tuple(segments), space=space or self.space)


def float_buffers(module: nn.Module) -> list[Tensor]:
    """The floating-point buffers of a module, in its order."""
    return [b for b in module.buffers() if b.is_floating_point()]


@torch.no_grad()
def load_buffers(module: nn.Module, row: Tensor) -> None:
    """Copy a row [b] into the floating-point buffers."""
    buffers = float_buffers(module)
    for buffer, part in zip(buffers, row.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
