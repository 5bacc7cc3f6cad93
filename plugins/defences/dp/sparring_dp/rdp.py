"""Renyi differential privacy of the Poisson-subsampled Gaussian and of the Laplace mechanism."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, log_ndtr, logsumexp

from sparring.claims import Event
from sparring.roles import Accountant
from sparring_dp.ledger import Ledger, ledger
from sparring_dp.plugin import RDPConfig

Array = NDArray[np.float64]
ORDERS: tuple[float, ...] = (*(round(1 + k / 10, 1) for k in range(1, 100)), *map(float, range(11, 64)), 128.0, 256.0, 512.0)
"""The Renyi orders alpha over which epsilon is minimised."""
TERMS = 1 << 15


def _log_moment_integer(q: float, sigma: float, alpha: int) -> float:
    r"""$\ln A_\alpha$ from $A_\alpha - 1 = \sum_{k \ge 2} \binom\alpha k (1-q)^{\alpha-k} q^k (e^{(k^2-k)/2\sigma^2} - 1)$.

    Terms 0 and 1 of the expansion of A cancel against 1, so that every term left is positive: exact for tiny q and huge sigma.
    """
    k = np.arange(2, alpha + 1, dtype=np.float64)
    log_binomial = gammaln(alpha + 1.0) - gammaln(k + 1) - gammaln(alpha - k + 1)
    x = (k * k - k) / (2 * sigma**2)
    log_expm1 = x + np.log(-np.expm1(-x))
    total = float(logsumexp(log_binomial + (alpha - k) * math.log1p(-q) + k * math.log(q) + log_expm1))
    return float(np.logaddexp(0.0, total)) if total > -30 else math.exp(total)


def _log_moment_fractional(q: float, sigma: float, alpha: float) -> float:
    """ln A by splitting the integral where both summands are equal and expanding each side: two series in erfc."""
    z0 = sigma**2 * math.log(1 / q - 1) + 0.5
    n = 64
    while True:
        i = np.arange(n, dtype=np.float64)
        j = alpha - i
        steps = np.log(np.abs(alpha - i[:-1])) - np.log(i[1:])
        log_binomial = np.concatenate([[0.0], np.cumsum(steps)])
        sign = np.concatenate([[1.0], np.cumprod(np.sign(alpha - i[:-1]))])
        s0 = log_binomial + i * math.log(q) + j * math.log1p(-q) + (i * i - i) / (2 * sigma**2) + log_ndtr((z0 - i) / sigma)
        s1 = log_binomial + j * math.log(q) + i * math.log1p(-q) + (j * j - j) / (2 * sigma**2) + log_ndtr((j - z0) / sigma)
        terms = np.logaddexp(s0, s1)
        last = float(terms[-1])
        if last < -30 or n >= TERMS:
            # The tail alternates: half of its first term removes most of what truncation leaves.
            sign[-1] /= 2
            return max(0.0, float(logsumexp(terms, b=sign)))
        n *= 2


@lru_cache(maxsize=4096)
def subsampled_gaussian(q: float, sigma: float) -> tuple[float, ...]:
    """The Renyi divergence of one step at each order, for rate 0 < q <= 1 and noise multiplier sigma > 0."""
    if q == 1:
        return tuple(alpha / (2 * sigma**2) for alpha in ORDERS)
    return tuple(
        (_log_moment_integer(q, sigma, int(alpha)) if alpha.is_integer() else _log_moment_fractional(q, sigma, alpha))
        / (alpha - 1)
        for alpha in ORDERS
    )


def laplace(scale: float) -> Array:
    """The Renyi divergence of the Laplace mechanism of L1 sensitivity 1 at each order (Mironov, CSF 2017, proposition 6)."""
    alpha = np.array(ORDERS)
    up = np.log(alpha / (2 * alpha - 1)) + (alpha - 1) / scale
    down = np.log((alpha - 1) / (2 * alpha - 1)) - alpha / scale
    return np.asarray(np.maximum(np.logaddexp(up, down), 0.0) / (alpha - 1))


def composed(book: Ledger) -> Array:
    """The Renyi divergence of a whole ledger at each order: divergences add up."""
    total = np.zeros(len(ORDERS))
    for q, sigma, steps in book.gaussian:
        total += steps * np.array(subsampled_gaussian(q, sigma))
    for scale, count in book.laplace:
        total += count * laplace(scale)
    return total


def convert(rdp: Array, delta: float, conversion: Literal["classic", "improved"]) -> float:
    r"""The least epsilon over all orders.

    classic: $\rho + \ln(1/\delta)/(\alpha-1)$. improved: $\rho + \ln(1-1/\alpha) - (\ln\delta + \ln\alpha)/(\alpha-1)$. Where a
    divergence is so small that the total variation is at most delta (Bretagnolle and Huber), epsilon is 0.
    """
    if -math.expm1(-float(rdp.min())) <= delta**2:
        return 0.0
    alpha = np.array(ORDERS)
    if conversion == "classic":
        epsilon = rdp - math.log(delta) / (alpha - 1)
    else:
        epsilon = rdp + np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1)
    return max(0.0, float(epsilon.min()))


@final
class RDP(Accountant):
    r"""The moments accountant: Renyi DP of the Poisson-subsampled Gaussian, composed by addition.

    $$\rho(\alpha) = \frac{\ln A_\alpha}{\alpha - 1}, \qquad
      A_\alpha = \mathbb E_{z \sim \mathcal N(0, \sigma^2)}\Big[\Big(1 - q + q\, e^{(2z-1)/2\sigma^2}\Big)^\alpha\Big]$$

    Integer orders by the binomial sum, fractional ones by the two-sided series; orders 1.1 to 10.9 by .1, 11 to 63, 128, 256
    and 512. Laplace events by their own divergence; they alone never cost more than the sum of their epsilons. Rate 0 costs 0;
    no noise costs infinity. Sources: Abadi et al., CCS 2016, 1607.00133; Mironov, CSF 2017, 1702.07476; Mironov, Talwar, Zhang,
    2019, 1908.10530; improved conversion: Balle et al., AISTATS 2020, 1905.09982, and Canonne et al., NeurIPS 2020, 2004.00010.
    """

    def __init__(self, config: RDPConfig) -> None:
        self.config = config

    def epsilon(self, events: Sequence[tuple[Event, int]], delta: float) -> float:
        """The epsilon at ``delta``; raises `ConfigError` for events that have none in common."""
        book = ledger(events, delta)
        if book.broken:
            return math.inf
        found = convert(composed(book), delta, self.config.conversion)
        return found if book.gaussian else min(found, book.pure)
