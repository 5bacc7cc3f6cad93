"""The linear systems of R-GAP: what a convolution's output and the gradient of its weights say about its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring_inversion.structure import Link, UnmetError

RCOND = 1e-6
"""Directions whose singular value is below this share of the largest are lost: float32 gradients err by 1e-7."""


def plain(link: Link) -> nn.Conv2d:
    """The convolution of ``link``; raises `UnmetError` unless it has one group and pads with zeros."""
    conv = link.module
    assert isinstance(conv, nn.Conv2d)
    if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise UnmetError(f"{link} has groups or another padding than zeros")
    return conv


@dataclass(frozen=True)
class Counts:
    """Sizes of a convolution's system: F filters, L positions of the output, C channels of S pixels, q numbers of a kernel.

    ``r``: the rank of one channel's gradient equations for errors k in general position.
    """

    F: int
    L: int
    C: int
    S: int
    q: int
    r: int

    @classmethod
    def of(cls, link: Link) -> Counts:
        conv = plain(link)
        positions, kernel = link.y[0, 0].numel(), conv.kernel_size[0] * conv.kernel_size[1]
        at = torch.arange(1, 1 + conv.out_channels * positions, dtype=torch.float64, device=link.x.device)
        K = _gradient_equations(_patches(link), (at.square() * 0.6180339887498949 % 1).view(-1, positions) - 0.5)
        rank = int(torch.linalg.matrix_rank(K, rtol=RCOND))
        return cls(conv.out_channels, positions, conv.in_channels, link.x[0, 0].numel(), kernel, rank)

    @property
    def unknowns(self) -> int:
        return self.C * self.S

    @property
    def short(self) -> int:
        r"""Rank analysis: by how many the equations fall short of the unknowns, whatever the weights and the input are.

        $W x = z$ has rank at most $f_w L$ with $f_w = \min(F, Cq)$, and $K x = \nabla W$, the same system for each channel,
        $C r$. They share $f_w f_k$ equations, with $f_k = \min(F, L)$, since
        $\sum_l k_{fl} z_{f'l} = \langle \nabla W_f, W_{f'} \rangle$ for all filters f and f'. Strides make r less than
        $\min(f_k q, S)$: each number of a kernel then sees only some of the pixels.
        """
        if self.r == self.S:
            return 0
        f_w, f_k = min(self.F, self.C * self.q), min(self.F, self.L)
        return max(0, self.unknowns - (f_w * self.L + self.C * self.r - f_w * f_k))


def _patches(link: Link) -> Tensor:
    """Which pixel [S] of a channel each number [q] of the kernel meets at each position [L] of the output: 0 or 1."""
    conv = plain(link)
    assert not isinstance(conv.padding, str)
    side = link.x.shape[-2:]
    basis = torch.eye(side.numel(), dtype=torch.float64, device=link.x.device).view(-1, 1, *side)
    return F.unfold(basis, conv.kernel_size, conv.dilation, conv.padding, conv.stride)


def _gradient_equations(patches: Tensor, k: Tensor) -> Tensor:
    """K [F q, S], of the error ``k`` [F, L] of the output."""
    return torch.einsum("fl,sql->fqs", k, patches).reshape(-1, len(patches))


@dataclass(frozen=True)
class System:
    """$W x = z$ (``W`` [F L, C S]), and for each channel c $K x_c = \nabla W_c$ (``K`` [F q, S], ``g`` [F q, C])."""

    W: Tensor
    K: Tensor
    g: Tensor

    @classmethod
    def of(cls, link: Link, k: Tensor, gradient: Tensor) -> System:
        """The system of a convolution whose output has the error ``k`` = dL/dz, and whose weights have the gradient."""
        conv, patches = plain(link), _patches(link)
        filters, channels = conv.weight.shape[:2]
        W = torch.einsum("fcq,sql->flcs", conv.weight.detach().flatten(2), patches).reshape(-1, channels * len(patches))
        K = _gradient_equations(patches, k.view(filters, -1))
        return cls(W, K, gradient.flatten(2).permute(0, 2, 1).reshape(-1, channels))

    def solve(self, z: Tensor, known: Tensor) -> tuple[Tensor, int]:
        """The least-squares solution [C S], of least norm, and by how much the rank falls short of the unknowns.

        ``known`` [F L]: which of the numbers ``z`` are known. Equations of both kinds are brought to the same mean length.
        """
        channels = self.g.shape[1]
        W, z = self.W * known[:, None], z * known
        tiny = torch.finfo(z.dtype).tiny
        w = W.square().sum() / known.sum().clamp_min(1) / self.K.square().sum(1).mean().clamp_min(tiny)
        w = torch.where(w > 0, w, 1 / self.K.square().sum(1).mean().clamp_min(tiny))
        blocks = w * self.K.mT @ self.K
        gram = W.mT @ W
        pixels = blocks.shape[0]
        gram.view(channels, pixels, channels, pixels).diagonal(dim1=0, dim2=2).add_(blocks[..., None])

        def normal(z: Tensor, g: Tensor) -> Tensor:
            return W.mT @ z + w * (self.K.mT @ g).mT.reshape(-1)

        right = normal(z, self.g)
        factor, failed = torch.linalg.cholesky_ex(gram)
        pivots = factor.diagonal().square()
        if not int(failed) and bool(pivots.min() > RCOND**2 * pivots.max()):
            x = torch.cholesky_solve(right[:, None], factor)[:, 0]
            rest = normal(z - W @ x, self.g - self.K @ x.view(channels, pixels).mT)
            return x + torch.cholesky_solve(rest[:, None], factor)[:, 0], 0
        values, vectors = torch.linalg.eigh(gram)
        kept = values > RCOND**2 * values[-1].clamp_min(tiny)
        inverse = torch.where(kept, 1 / values, 0)
        return vectors @ (inverse * (vectors.mT @ right)), int((~kept).sum())
