"""The accountants give the published values, and obey the laws of composition."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import logsumexp
from sparring_dp.ledger import ledger
from sparring_dp.plugin import PRVConfig, RDPConfig
from sparring_dp.prv import PRV, gaussian_delta
from sparring_dp.rdp import ORDERS, RDP, subsampled_gaussian
from sparring_dp.rdp_opacus import OpacusRDP

from sparring.claims import GaussianEvent, LaplaceEvent
from sparring.errors import ConfigError
from sparring.roles import Accountant

DELTA = 1e-5
CLASSIC, IMPROVED = RDP(RDPConfig()), RDP(RDPConfig(conversion="improved"))
OPACUS, TIGHT = OpacusRDP(), PRV(PRVConfig())
ALL = [CLASSIC, IMPROVED, OPACUS, TIGHT]

ABADI_400 = (0.01, 4, 40_000, 2.55, 2.574, 2.210, 2.03)
DE = (4096 / 50_000, 10, 875, 1.0, 1.204, 0.988, 0.90)
TABLE = [
    (0.01, 4, 10_000, 1.26, 1.259, 1.035, 0.95),
    ABADI_400,
    (256 / 60_000, 1.1, 14_040, 3.01, 3.006, 2.594, 2.38),
    (256 / 60_000, 1.3, 3_510, 1.19, 1.191, 0.954, 0.86),
    (256 / 60_000, 0.7, 10_530, 7.10, 7.096, 6.314, 5.64),
    (240 / 60_000, 1.1, 15_000, 2.91, 2.905, 2.503, 2.30),
    (240 / 60_000, 1.3, 3_750, 1.16, 1.160, 0.922, 0.83),
    DE,
]
"""q, sigma, T, published epsilon, classic RDP, improved RDP, PLD; delta 1e-5."""


def sampled(q: float, sigma: float, steps: int = 1) -> GaussianEvent:
    return GaussianEvent(sigma, unit="example", rate=q, steps=steps)


def spent(accountant: Accountant, *events: GaussianEvent | LaplaceEvent, delta: float = DELTA) -> float:
    return accountant.epsilon([(event, 1) for event in events], delta)


@pytest.mark.parametrize("row", TABLE)
def test_published_values(row: tuple[float, float, int, float, float, float, float]) -> None:
    q, sigma, steps, published, classic, improved, pld = row
    event = sampled(q, sigma, steps)
    assert spent(CLASSIC, event) == pytest.approx(classic, rel=0.005)
    if row is DE:
        assert published == pytest.approx(spent(IMPROVED, event), rel=0.02)
    else:
        assert spent(CLASSIC, event) == pytest.approx(published, rel=0.01 if row is ABADI_400 else 0.005)
    assert spent(IMPROVED, event) == pytest.approx(improved, abs=1e-3)
    assert spent(OPACUS, event) == pytest.approx(improved, abs=1e-3)
    assert pld - 0.02 <= spent(TIGHT, event) <= improved + 5e-4


@pytest.mark.parametrize(("sigma", "epsilon"), [(0.5, 9.9973), (1, 4.3772), (2, 1.9931), (4, 0.9263), (10, 0.3407)])
def test_analytic_gaussian(sigma: float, epsilon: float) -> None:
    assert spent(TIGHT, sampled(1, sigma)) == pytest.approx(epsilon, abs=1e-3)


@pytest.mark.parametrize(("steps", "epsilon"), [(10, 1.1994), (100, 4.3772), (1000, 17.8566)])
def test_gaussian_composition_is_exact(steps: int, epsilon: float) -> None:
    assert spent(TIGHT, sampled(1, 10, steps)) == pytest.approx(epsilon, abs=1e-3)
    assert TIGHT.epsilon([(sampled(1, 10), steps)], DELTA) == pytest.approx(epsilon, abs=1e-3)


@pytest.mark.parametrize(("epsilon", "sigma"), [(0.5, 7.0318), (1, 3.7306), (2, 1.9938), (8, 0.6002)])
def test_analytic_gaussian_sigma(epsilon: float, sigma: float) -> None:
    assert spent(TIGHT, sampled(1, sigma)) == pytest.approx(epsilon, abs=1e-3)
    found = brentq(lambda s: spent(TIGHT, sampled(1, s)) - epsilon, 0.1, 100)
    assert found == pytest.approx(sigma, abs=1e-3)


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 0.7), (0.3, 1.5), (0.8, 3.0), (1e-4, 5.0)])
def test_moments_equal_the_integral_that_defines_them(q: float, sigma: float) -> None:
    z = np.linspace(-20 * sigma, 40 + 20 * sigma, 20_001)
    log_density = -(z**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * sigma**2))
    for alpha, rho in zip(ORDERS, subsampled_gaussian(q, sigma), strict=True):
        if alpha <= 40:
            log_moment = float(logsumexp(log_density + alpha * log_ratio)) + math.log(z[1] - z[0])
            assert rho == pytest.approx(log_moment / (alpha - 1), rel=1e-6, abs=1e-9)


rates = st.floats(1e-4, 1.0)
sigmas = st.floats(0.4, 50.0)
steps_ = st.integers(1, 2000)


@settings(max_examples=60, deadline=None)
@given(rates, sigmas, steps_, st.floats(1.0, 3.0), st.sampled_from([CLASSIC, IMPROVED]))
def test_monotone_in_steps_rate_and_noise(q: float, sigma: float, steps: int, more: float, accountant: Accountant) -> None:
    here = spent(accountant, sampled(q, sigma, steps)) * (1 + 1e-9) + 1e-9
    assert spent(accountant, sampled(q, sigma, int(steps * more))) + 2e-9 >= here - 1e-9 - here * 2e-9
    assert spent(accountant, sampled(min(1.0, q * more), sigma, steps)) >= here - 2e-9 - here * 2e-9
    assert spent(accountant, sampled(q, sigma * more, steps)) <= here


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 100), st.integers(1, 10**6), st.floats(1, 3), st.floats(1e-9, 1e-2))
def test_unsampled_closed_form_is_monotone_and_solves_its_equation(sigma: float, steps: int, more: float, delta: float) -> None:
    here = spent(TIGHT, sampled(1, sigma, steps), delta=delta)
    assert spent(TIGHT, sampled(1, sigma * more, steps), delta=delta) <= here + 1e-9
    assert spent(TIGHT, sampled(1, sigma, int(steps * more)), delta=delta) >= here - 1e-9
    mu = math.sqrt(steps) / sigma
    if here > 0 and mu < 50:
        assert gaussian_delta(here, mu) <= delta * (1 + 1e-6)


events = st.lists(st.tuples(st.builds(sampled, rates, sigmas, st.integers(0, 50)), st.integers(0, 20)), max_size=6)


@settings(max_examples=25, deadline=None)
@given(events.flatmap(lambda e: st.tuples(st.just(e), st.permutations(e))), st.sampled_from([CLASSIC, IMPROVED, OPACUS]))
def test_order_and_grouping_do_not_matter(pair: tuple[list, list], accountant: Accountant) -> None:
    one, other = pair
    whole = accountant.epsilon(one, DELTA)
    assert accountant.epsilon(other, DELTA) == whole
    split = [(event, 1) for event, count in one for _ in range(count)]
    assert accountant.epsilon(split, DELTA) == whole


@settings(max_examples=8, deadline=None)
@given(st.lists(st.builds(sampled, st.floats(1e-3, 0.3), st.floats(0.8, 10), st.integers(1, 200)), min_size=1, max_size=3))
def test_tight_is_at_most_improved_is_at_most_classic(found: list[GaussianEvent]) -> None:
    tight, improved, classic = (spent(a, *found) for a in (TIGHT, IMPROVED, CLASSIC))
    assert 0 <= tight <= improved <= classic
    assert spent(OPACUS, *found) == pytest.approx(improved, rel=1e-6, abs=0.3 if improved == 0 else 1e-6)
    assert spent(TIGHT, *reversed(found)) == tight


@pytest.mark.parametrize("accountant", ALL)
def test_null_events_cost_nothing_and_bare_ones_everything(accountant: Accountant) -> None:
    assert accountant.epsilon([], DELTA) == 0
    assert spent(accountant, sampled(0, 1, 1000)) == 0
    assert accountant.epsilon([(sampled(0.1, 1), 0)], DELTA) == 0
    assert spent(accountant, sampled(0.01, 1e6, 10)) <= 0.01
    assert spent(accountant, sampled(0.01, 0.0)) == math.inf
    assert spent(accountant, sampled(0, 0.0)) == 0


@pytest.mark.parametrize("accountant", ALL)
def test_laplace_events_compose(accountant: Accountant) -> None:
    one = LaplaceEvent(2.0, "example")
    assert spent(accountant, one) == pytest.approx(0.5, abs=1e-9)
    many = LaplaceEvent(100.0, "example")
    assert accountant.epsilon([(many, 1000)], DELTA) < 10 * 0.5
    both = spent(accountant, one, sampled(0.01, 1, 100))
    assert spent(accountant, sampled(0.01, 1, 100)) < both <= spent(CLASSIC, sampled(0.01, 1, 100)) + 0.5 + 1e-6


@pytest.mark.parametrize(
    ("found", "delta"),
    [
        ([(sampled(0.1, 1), 1)], 0.0),
        ([(sampled(0.1, 1), 1)], 1.0),
        ([(sampled(0.1, 1), -1)], DELTA),
        ([(sampled(0.1, 1), 1), (GaussianEvent(1, "client"), 1)], DELTA),
        ([(GaussianEvent(1, "client"), 1), (GaussianEvent(1, "client", neighbours="replace-one"), 1)], DELTA),
        ([(GaussianEvent(1, "client", 0.5, neighbours="replace-one"), 1)], DELTA),
    ],
)
@pytest.mark.parametrize("accountant", ALL)
def test_events_without_a_common_epsilon_are_refused(
    accountant: Accountant, found: list[tuple[GaussianEvent, int]], delta: float
) -> None:
    with pytest.raises(ConfigError):
        accountant.epsilon(found, delta)


def test_equal_events_merge() -> None:
    book = ledger([(sampled(0.1, 1, 3), 2), (sampled(0.1, 1), 4), (sampled(0.2, 1), 1)], DELTA)
    assert book.gaussian == ((0.1, 1, 10), (0.2, 1, 1))


def test_extreme_losses_fall_back_to_the_renyi_bound() -> None:
    """Tables of exp(loss) overflow here; a truncated one would report about 703 where 5,226 is true."""
    event = sampled(1e-3, 0.01)
    assert spent(TIGHT, event) == spent(IMPROVED, event) > 5000
    assert spent(TIGHT, sampled(0.01, 1, 1000), delta=1e-14) == spent(IMPROVED, sampled(0.01, 1, 1000), delta=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(
    "found",
    [
        [(1, 0.01, 1000), (2, 0.05, 300), (10, 1, 3), (5, 1, 1)],
        [(0.1, 1e-6, 100)],
        [(0.3, 1e-6, 100_000)],
        [(0.8, 0.2, 50), (3, 0.9, 10)],
        [(1, 0.03, 1000)],
    ],
)
def test_tight_agrees_with_an_independent_pessimistic_accountant(found: list[tuple[float, float, int]]) -> None:
    dp = pytest.importorskip("dp_accounting")
    other = dp.pld.PLDAccountant(value_discretization_interval=1e-3)
    for sigma, q, steps in found:
        gaussian = dp.GaussianDpEvent(sigma)
        other.compose(dp.PoissonSampledDpEvent(q, gaussian) if q < 1 else gaussian, steps)
    reference = other.get_epsilon(DELTA)
    assert reference - 1e-3 <= spent(TIGHT, *(sampled(q, sigma, steps) for sigma, q, steps in found)) <= reference + 0.02
