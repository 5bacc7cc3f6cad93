"""Numerical composition of privacy loss random variables."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from sparring.claims import Event
from sparring.roles import Accountant
from sparring_dp.ledger import Ledger, ledger
from sparring_dp.plugin import PRVConfig
from sparring_dp.rdp import composed, convert

Array = NDArray[np.float64]
POINTS = 1 << 23
"""The largest grid: about a second, and half a gigabyte, of Fourier transforms."""

RADIUS = 500.0
"""The largest privacy loss that is tabulated: Opacus' formulas hold exp(loss), which overflows at 709 and would lose mass."""


def gaussian_delta(epsilon: float, mu: float) -> float:
    r"""Delta of one Gaussian release, $\Phi(\mu/2 - \varepsilon/\mu) - e^\varepsilon \Phi(-\mu/2 - \varepsilon/\mu)$."""
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(min(epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)), 0.0)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon of a Gaussian release, ``mu`` sensitivity over deviation (Balle, Wang, ICML 2018, 1805.06530)."""
    if mu == 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    most = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1e-9
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, most, xtol=1e-12))


class _Gaussian:
    """The privacy loss of every unsampled Gaussian event at once: N(mu^2 / 2, mu^2)."""

    def __init__(self, mu: float) -> None:
        self.mu = mu

    def cdf(self, t: Array) -> Array:
        return np.asarray(ndtr((t - self.mu**2 / 2) / self.mu))


def _domain_radius(book: Ledger, delta_error: float) -> float:
    """How far the privacy loss must be tabulated (Gopi et al., remark 5.6, as Opacus reads it), from our own divergences."""
    total = sum(steps for _, _, steps in book.gaussian)
    radius = convert(composed(book), delta_error / 4, "improved")
    for q, sigma, _ in book.gaussian:
        one = Ledger(((q, sigma, 1),), (), False)
        radius = max(radius, convert(composed(one), delta_error / (8 * total), "improved"))
    return radius + 3


def _numerical(book: Ledger, mu: float, delta: float, error: float) -> float:
    """An upper bound on epsilon by discretisation and FFT, or infinity where double precision or the grid do not suffice."""
    from opacus.accountants.analysis import prv as analysis

    sampled = [(q, sigma, steps) for q, sigma, steps in book.gaussian if q < 1]
    variables: list[Any] = [analysis.PoissonSubsampledGaussianPRV(q, sigma) for q, sigma, _ in sampled]
    counts = [steps for _, _, steps in sampled]
    if mu:
        variables.append(_Gaussian(mu))
        counts.append(1)
    delta_error, total = delta / 1000, sum(counts)
    if delta_error < total * 2e-15:
        return math.inf
    radius = max(_domain_radius(book, delta_error), error + 3)
    mesh = error / math.sqrt(total * math.log(12 / delta_error) / 2)
    if radius > RADIUS or 2 * radius / mesh > POINTS:
        return math.inf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", module=r"(opacus|scipy)\.")
        try:
            domain = analysis.Domain.create_aligned(-radius, radius, mesh)
            cut = [analysis.TruncatedPrivacyRandomVariable(v, domain.t_min, domain.t_max) for v in variables]
            whole = analysis.compose_heterogeneous([analysis.discretize(v, domain) for v in cut], counts)
            _, _, upper = whole.compute_epsilon(delta, delta_error, error)
        except (RuntimeError, ValueError, IndexError):
            return math.inf
    return float(upper) if math.isfinite(upper) else math.inf


@final
class PRV(Accountant):
    r"""Privacy loss random variables $L = \ln P(x)/Q(x)$, tabulated and convolved by FFT, through Opacus' analysis.

    $$\delta(\varepsilon) = \mathbb E\big[(1 - e^{\varepsilon - L})_+\big]$$

    What is reported is the upper end of the numerical error. Unsampled Gaussian events combine exactly, into one of
    $\mu^2 = \sum T / \sigma^2$; alone they have a closed form and need no table. Laplace events add their pure epsilon. The
    improved Renyi bound holds as well, so the result is never above it, and is that bound where a table would need more than
    double precision, $2^{23}$ points or losses beyond 500; a coarser table is tried before. Source: Gopi, Lee, Wutschitz:
    Numerical Composition of Differential Privacy, NeurIPS 2021, 2106.02848.
    """

    def __init__(self, config: PRVConfig) -> None:
        self.config = config

    def epsilon(self, events: Sequence[tuple[Event, int]], delta: float) -> float:
        """The epsilon at ``delta``; raises `ConfigError` for events that have none in common."""
        book = ledger(events, delta)
        if book.broken:
            return math.inf
        bound = convert(composed(book), delta, "improved")
        noisy = Ledger(book.gaussian, (), False)
        mu = math.sqrt(math.fsum(steps / sigma**2 for q, sigma, steps in book.gaussian if q == 1))
        if all(q == 1 for q, _, _ in book.gaussian):
            return min(bound, gaussian_epsilon(mu, delta) + book.pure)
        error, found = self.config.error, math.inf
        while error <= 1 and found == math.inf and bound > 0:
            found = _numerical(noisy, mu, delta, error)
            error *= 4
        return min(bound, max(0.0, found) + book.pure)
