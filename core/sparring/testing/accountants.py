"""Checks of privacy accountants against what must hold for any of them, and against the exact Gaussian mechanism."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.optimize import brentq
from scipy.stats import norm

from sparring.claims import Event, GaussianEvent
from sparring.errors import ConfigError
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.subject import Trial, kind

ACCOUNTANTS = kind("accountants")
DELTA = 1e-5
SLACK = 1e-3


def gaussian_epsilon(sigma: float, delta: float) -> float:
    r"""The exact epsilon of one Gaussian release of sensitivity 1 (Balle and Wang, ICML 2018, 1805.06530, theorem 8).

    $\delta(\varepsilon) = \Phi(\frac{1}{2\sigma} - \varepsilon\sigma)
        - e^\varepsilon \Phi(-\frac{1}{2\sigma} - \varepsilon\sigma)$
    """

    def excess(epsilon: float) -> float:
        far = epsilon + float(norm.logcdf(-0.5 / sigma - epsilon * sigma))
        return float(norm.cdf(0.5 / sigma - epsilon * sigma)) - math.exp(far) - delta

    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, 1e4, xtol=1e-12))


def _epsilon(trial: Trial, events: Sequence[tuple[Event, int]]) -> float:
    try:
        epsilon: float = trial.build().epsilon(events, DELTA)
    except ConfigError as error:
        raise Inapplicable(f"it does not account Gaussian events: {error}") from error
    demand(epsilon >= 0, f"an epsilon of {epsilon}")
    return epsilon


def _gaussian(sigma: float, rate: float = 1.0, steps: int = 1) -> Event:
    return GaussianEvent(sigma, "client", rate, steps)


@check(ACCOUNTANTS)
def epsilon_monotone(trial: Trial) -> None:
    """Law: epsilon grows with the number of events, with the sampling rate, and with less noise.
    Why: more releases, or quieter ones, never protect better.
    If this fails: look at the grid of orders, truncation and rounding.
    """
    counts = [_epsilon(trial, [(_gaussian(2.0, 0.1), count)]) for count in (1, 5, 40)]
    demand(counts == sorted(counts), f"1, 5 and 40 events cost {counts}")
    noises = [_epsilon(trial, [(_gaussian(sigma, 0.1), 10)]) for sigma in (4.0, 2.0, 1.0)]
    demand(noises == sorted(noises), f"noise multipliers 4, 2 and 1 cost {noises}")
    rates = [_epsilon(trial, [(_gaussian(2.0, rate), 10)]) for rate in (0.02, 0.3, 1.0)]
    demand(rates == sorted(rates), f"rates .02, .3 and 1 cost {rates}")


@check(ACCOUNTANTS)
def epsilon_order(trial: Trial) -> None:
    """Law: epsilon depends neither on the order of events nor on how their counts and steps are split.
    Why: clients take part in different rounds, and a run may resume.
    If this fails: sort and merge events first.
    """
    one, two = _gaussian(2.0, 0.1), _gaussian(3.0)
    first = _epsilon(trial, [(one, 6), (two, 2)])
    others = {
        "in another order": [(two, 2), (one, 6)],
        "split in two": [(one, 2), (two, 2), (one, 4)],
        "as steps of one event": [(_gaussian(2.0, 0.1, 6), 1), (two, 2)],
    }
    for how, events in others.items():
        found = _epsilon(trial, events)
        demand(math.isclose(found, first, rel_tol=1e-6, abs_tol=1e-9), f"{first} becomes {found} {how}")


@check(ACCOUNTANTS)
def epsilon_of_nothing(trial: Trial) -> None:
    """Law: no events, events that never happened and events at rate 0 cost nothing.
    Why: a client that was never sampled has lost nothing.
    If this fails: drop null events before composing.
    """
    nothing: tuple[list[tuple[Event, int]], ...] = ([], [(_gaussian(1.0), 0)], [(_gaussian(1.0, 0.0), 3)])
    for events in nothing:
        found = _epsilon(trial, events)
        demand(found == 0, f"{events} cost {found}")


@check(ACCOUNTANTS)
def epsilon_bounded_below(trial: Trial) -> None:
    """Law: unsampled Gaussian releases never cost less than the exact Gaussian mechanism says.
    Why: an epsilon below the true one is a false promise of privacy.
    If this fails: look at tail truncation, discretisation and the conversion to (epsilon, delta).
    """
    for sigma, count in ((0.7, 1), (1.0, 1), (2.0, 1), (5.0, 1), (4.0, 16), (20.0, 100)):
        exact = gaussian_epsilon(sigma / math.sqrt(count), DELTA)
        found = _epsilon(trial, [(_gaussian(sigma), count)])
        demand(found >= exact - SLACK, f"{count} releases at noise multiplier {sigma:g} cost {found:.5f}, exactly {exact:.5f}")
