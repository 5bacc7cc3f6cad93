"""Fixed-point numbers in the integers modulo M."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["stochastic", "towards-zero"]


def encode(values: Tensor, fraction_bits: int, rounding: Rounding, generator: torch.Generator) -> Tensor:
    r"""Integers [d] of ``values`` [d], float64: $\lfloor 2^f v + u \rfloor$, u uniform in [0, 1), or $2^f v$ cut towards zero.

    Stochastic rounding is unbiased, and does not leave the integers around $2^f v$; cutting never raises a norm.
    """
    scaled = values * 2.0**fraction_bits
    if rounding == "towards-zero":
        return scaled.trunc().long()
    whole = scaled.floor()
    u = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values.device)
    return (whole + (u < scaled - whole)).long()


def centred(integers: Tensor, modulus: int) -> Tensor:
    """Representatives of ``integers`` modulo M in [-M/2, M/2)."""
    half = modulus // 2
    return (integers + half) % modulus - half


def uniform(size: int, modulus: int, secure: Callable[[int], bytes]) -> Tensor:
    """``size`` independent integers, uniform in [0, M), from cryptographic bytes; M is a power of two, at most 2^63."""
    if not size:
        return torch.zeros(0, dtype=torch.long)
    narrow = modulus <= 1 << 32
    dtype = torch.int32 if narrow else torch.int64
    drawn = torch.frombuffer(bytearray(secure(size * (4 if narrow else 8))), dtype=dtype)
    return drawn.long() & (modulus - 1)


__all__ = ["Rounding", "centred", "encode", "uniform"]
