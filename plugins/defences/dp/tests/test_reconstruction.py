"""Closed forms of what noise leaves to reconstruct: published values, inverses, and simulations of the attacks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sparring_dp.reconstruction import (
    noise_against_psnr,
    noise_against_reconstruction,
    noise_within_the_box,
    psnr_of_the_analytic_attack,
    psnr_within_the_box,
    reconstruction_bound,
)

from sparring.likeness import psnr

PUBLISHED = {
    0.1: {0.25: 0.9967, 1: 0.3891, 2: 0.2172, 10: 0.1187},
    0.01: {0.25: 0.9529, 1: 0.0924, 2: 0.0339, 10: 0.0130},
    0.001: {0.25: 0.8185, 1: 0.0183, 2: 0.0048, 10: 0.0014},
}
PRIOR = st.floats(1e-4, 0.5)
NOISE = st.floats(0.2, 50)


@pytest.mark.parametrize(("prior", "sigma"), [(k, s) for k, row in PUBLISHED.items() for s in row])
def test_the_bound_of_one_step(prior: float, sigma: float) -> None:
    assert reconstruction_bound(prior, sigma) == pytest.approx(PUBLISHED[prior][sigma], abs=1e-4)


@given(prior=PRIOR, sigma=NOISE, steps=st.integers(1, 50))
def test_steps_compose_as_one_with_less_noise_and_never_help_the_defender(prior: float, sigma: float, steps: int) -> None:
    found = reconstruction_bound(prior, sigma, steps)
    assert found == pytest.approx(reconstruction_bound(prior, sigma / math.sqrt(steps)), rel=1e-9)
    assert prior < found <= reconstruction_bound(prior, sigma, steps + 1)


@given(prior=PRIOR, sigma=st.floats(0.5, 50), steps=st.integers(1, 4))
def test_the_noise_for_a_bound_is_its_inverse(prior: float, sigma: float, steps: int) -> None:
    bound = reconstruction_bound(prior, sigma, steps)
    if bound < 1 - 1e-6:
        assert noise_against_reconstruction(prior, bound, steps) == pytest.approx(sigma, rel=1e-4)


def test_the_best_guess_among_candidates_reaches_the_bound_and_not_more() -> None:
    """Two thousand games: one of ten orthogonal gradients is released with noise; the likeliest is named."""
    generator, games, sigma = torch.Generator().manual_seed(0), 2000, 1.0
    truth = torch.randint(10, (games,), generator=generator)
    seen = torch.eye(10)[truth] + sigma * torch.randn(games, 10, generator=generator)
    success = float((seen.argmax(1) == truth).double().mean())
    error = 3 * math.sqrt(0.25 / games)
    assert 0.1 + error < success <= reconstruction_bound(0.1, sigma) + error


@pytest.mark.parametrize(("scale", "expected"), [(0.01, 40.0), (0.05, 26.02), (0.1, 20.0), (0.5, 6.02)])
def test_the_psnr_of_the_analytic_attack(scale: float, expected: float) -> None:
    low, middle, high = (psnr_of_the_analytic_attack(scale, 1.0, 3072, q) for q in (0.01, 0.5, 0.99))
    assert middle == pytest.approx(expected, abs=0.01)
    assert (low - middle, high - middle) == pytest.approx((-0.26, 0.26), abs=0.01)
    assert psnr_of_the_analytic_attack(scale / 4, 4.0, 3072) == pytest.approx(middle, abs=1e-9)


def test_the_analytic_attack_itself_keeps_its_law() -> None:
    """Inputs in a gradient, clipped, noised and scaled back: 98 % lie between the 1 % and the 99 % quantile."""
    generator, sigma, c, size = torch.Generator().manual_seed(0), 0.03, 0.5, 192
    x = torch.rand(1000, size, generator=generator, dtype=torch.float64)
    norms = x.norm(dim=1, keepdim=True)
    released = x * c / norms + sigma * c * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    found = released * norms / c
    low, high = ([psnr_of_the_analytic_attack(sigma, float(r), size, q) for r in norms] for q in (0.01, 0.99))
    inside = sum(a <= psnr(f, t) <= b for f, t, a, b in zip(found, x, low, high, strict=True))
    assert 980 - 3 * math.sqrt(1000 * 0.02 * 0.98) <= inside <= 980 + 3 * math.sqrt(1000 * 0.02 * 0.98)


@given(at_most=st.floats(3, 40), radius=st.floats(0.5, 60), size=st.integers(1, 4000), confidence=st.floats(0.01, 0.999))
def test_the_noise_for_a_psnr_is_its_inverse(at_most: float, radius: float, size: int, confidence: float) -> None:
    sigma = noise_against_psnr(at_most, radius, size, confidence)
    assert psnr_of_the_analytic_attack(sigma, radius, size, confidence) == pytest.approx(at_most, abs=1e-6)


def test_what_cannot_be_is_refused_with_its_value_and_the_rule() -> None:
    with pytest.raises(ValueError, match=r"at_most is 0\.1; no noise brings success below the prior, 0\.2"):
        noise_against_reconstruction(0.2, 0.1)
    with pytest.raises(ValueError, match="prior is 1; it is a probability"):
        reconstruction_bound(1.0, 1.0)
    with pytest.raises(ValueError, match="noise_multiplier is 0; it must be above 0"):
        reconstruction_bound(0.1, 0.0)
    with pytest.raises(ValueError, match="steps is 0"):
        reconstruction_bound(0.1, 1.0, 0)
    with pytest.raises(ValueError, match="size is 0"):
        psnr_of_the_analytic_attack(1.0, 1.0, 0)


def test_the_readme_says_what_is_computed() -> None:
    assert f"{noise_against_psnr(10.0, radius=28.0, size=784):.4f}" == "0.0120"
    assert f"{noise_against_reconstruction(0.01, at_most=0.1):.3f}" == "0.957"


@given(st.floats(0.005, 3))
def test_cutting_to_the_box_gains_at_most_3_db_and_leaves_the_error_of_a_coin_at_worst(scale: float) -> None:
    without, cut = -20 * math.log10(scale), psnr_within_the_box(scale, 1.0)
    assert max(without, 20 * math.log10(2)) - 1e-9 <= cut
    # Beyond, noise on a black pixel reaches white, and is cut there too.
    assert scale > 0.15 or cut <= without + 10 * math.log10(2) + 1e-9
    assert psnr_within_the_box(scale / 4, 4.0) == pytest.approx(cut, abs=1e-9)


@pytest.mark.parametrize("scale", [0.05, 0.4, 2.0])
def test_no_constant_input_has_less_error_in_the_box_than_is_said(scale: float) -> None:
    z = scale * torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = [float(((x + z).clamp(0, 1) - x).square().mean()) for x in torch.linspace(0, 1, 41).tolist()]
    # 200,000 squares of relative deviation sqrt(2), or 1 where half of them are zero: 4 standard errors are 1.8 %.
    assert psnr_within_the_box(scale, 1.0) == pytest.approx(-10 * math.log10(min(errors)), abs=10 * math.log10(1.018))


@given(st.floats(6.1, 60), st.floats(0.5, 50))
def test_the_noise_that_brings_the_psnr_down_inverts_the_law(at_most: float, radius: float) -> None:
    assert psnr_within_the_box(noise_within_the_box(at_most, radius), radius) == pytest.approx(at_most, abs=1e-6)


@pytest.mark.parametrize("at_most", [6.02, 0.0, math.nan])
def test_no_noise_brings_the_psnr_below_that_of_a_coin(at_most: float) -> None:
    with pytest.raises(ValueError, match=r"leaves 6\.02 dB"):
        noise_within_the_box(at_most, 1.0)
