"""Records: the box that inputs lie in, and dummies whose categories are mixtures of codes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sparring.signals import Column, DataShape


def box(shape: DataShape, like: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of every input, each of a shape that broadcasts to [..., *inputs].

    Numbers of records lie between their column's ``low`` and ``high``, each feature of a category between the least and the
    greatest of its codes; inputs without columns in [0, 1].
    """
    ranges = [edge for column in shape.columns for edge in _edges(column)]
    low, high = like.new_tensor(ranges or [(0.0, 1.0)]).T
    return low, high


def _edges(column: Column) -> list[tuple[float, float]]:
    return [(min(f), max(f)) for f in zip(*column.codes, strict=True)] or [(column.low, column.high)]


@dataclass(frozen=True)
class Encoding:
    r"""Inputs of one ``shape`` as what they are mixtures of: shares u [..., U], and free dummies z [..., U] of these.

    A number takes one place, its position $u = \sigma(z)$ between ``low`` and ``high`` [N]; after all numbers come the
    categories, each with one place for each of its codes: their shares $p = softmax(z)$. ``sizes``: how many codes each has.
    ``codes`` [U - N, W]: a code in each row, at the features of its category. ``order`` [F]: where the features of an input are
    among those of numbers and of categories. Without columns, every feature is a number in [0, 1].
    """

    shape: DataShape
    low: Tensor
    high: Tensor
    sizes: tuple[int, ...]
    codes: Tensor
    order: Tensor

    @classmethod
    def of(cls, shape: DataShape, like: Tensor) -> Encoding:
        """The encoding of inputs of ``shape``, with the device and type of ``like``."""
        columns = shape.columns or tuple(Column(str(k), k) for k in range(math.prod(shape.inputs)))
        numbers, categories = [c for c in columns if not c.codes], [c for c in columns if c.codes]
        low, high = like.new_tensor([(c.low, c.high) for c in numbers]).view(-1, 2).T
        codes = torch.block_diag(*(like.new_tensor(c.codes) for c in categories)) if categories else like.new_zeros(0, 0)
        places = [c.at for c in numbers] + [c.at + j for c in categories for j in range(c.width)]
        order = torch.tensor(places, device=like.device).argsort()
        return cls(shape, low, high, tuple(len(c.codes) for c in categories), codes, order)

    @property
    def size(self) -> int:
        """U, the number of places of one input."""
        return len(self.low) + len(self.codes)

    def parts(self, u: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The places of all numbers [..., N], and those of each category [..., k]."""
        N = len(self.low)
        return u[..., :N], u[..., N:].split(self.sizes, -1) if self.sizes else ()

    def shares(self, z: Tensor) -> Tensor:
        """u of z: sigmoids for numbers, softmax over the codes of each category."""
        numbers, categories = self.parts(z)
        return torch.cat([numbers.sigmoid(), *(part.softmax(-1) for part in categories)], -1)

    def inputs(self, u: Tensor) -> Tensor:
        """The inputs [..., *inputs] of u: $low + u (high - low)$, and $\\sum_k p_k c_k$ over codes c."""
        numbers, _ = self.parts(u)
        mixed = u[..., len(self.low) :] @ self.codes
        x = torch.cat([torch.lerp(self.low, self.high, numbers), mixed], -1)[..., self.order]
        return x.reshape(*u.shape[:-1], *self.shape.inputs)

    def hardened(self, u: Tensor) -> Tensor:
        """The u whose categories are their most probable code; the first of equals."""
        numbers, categories = self.parts(u)
        return torch.cat([numbers, *(F.one_hot(p.argmax(-1), p.shape[-1]).to(u) for p in categories)], -1)
