"""Laws of CRFL: what the model is after a round, and that no displacement within a certified radius changes a prediction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sparring_update_analysis.cards_models import lab_of
from sparring_update_analysis.certificate import bounds, certify, contraction, radius, rounds_after, smoothed_votes
from sparring_update_analysis.configs_models import CRFLConfig
from sparring_update_analysis.crfl import CRFL
from torch import Tensor

from sparring.errors import CompositionError
from sparring.layout import Layout
from sparring.signals import Release
from sparring.testing.fixtures import make_layout, make_round

MANY = settings(max_examples=60, deadline=None)
Map = Callable[[np.ndarray], np.ndarray]


def after(update: Tensor, start: Tensor, index: int, rounds: int, **options: float) -> Tensor:
    """The model after round ``index``."""
    ctx = replace(make_round("crfl", index=index), rounds=rounds, parameters=start)
    release = Release(update, make_layout(len(update)))
    return start + CRFL(CRFLConfig(**options)).defence_transform(release, ctx).vector


@MANY
@given(seed=st.integers(0, 1000), size=st.floats(0.01, 1e3), index=st.integers(0, 9))
def test_the_last_model_is_the_new_one_clipped_and_others_are_noised_besides(seed: int, size: float, index: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, update = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    rho = 1.5 + 0.2 * (index + 1)
    whole = start + size * update
    expected = whole / max(1.0, float(whole.norm()) / rho)
    clean = after(size * update, start, index, index + 1, bound=1.5, growth=0.2)
    torch.testing.assert_close(clean, expected, rtol=1e-9, atol=1e-9)
    noisy = after(size * update, start, index, index + 2, bound=1.5, growth=0.2, noise=0.3)
    assert 0.1 < float((noisy - clean).std()) < 0.6


def test_a_model_within_the_bound_passes_the_last_round_untouched() -> None:
    start, update = torch.full((4,), 0.5), torch.full((4,), 0.25)
    assert torch.equal(after(update, start, 3, 4), start + update)


def test_a_release_with_buffers_is_refused_with_their_names() -> None:
    layout = Layout.build([("weight", (3,), "parameter"), ("norm.running_mean", (2,), "buffer")])
    ctx = replace(make_round("crfl"), parameters=torch.zeros(5))
    with pytest.raises(CompositionError, match="running_mean"):
        CRFL(CRFLConfig()).defence_transform(Release(torch.zeros(5), layout), ctx)


@MANY
@given(p_a=st.floats(0.35, 0.95), share=st.floats(0.05, 0.95))
def test_no_distribution_whose_vote_flips_is_closer_than_the_bound(p_a: float, share: float) -> None:
    p_c = share * min(1 - p_a, p_a - 1e-3)
    P = np.array([p_a, p_c, max(1 - p_a - p_c, 0.0)])

    def divergence(q: float, r: float) -> float:
        Q = np.array([q, r, 1 - q - r])
        return float(sum(a * math.log(a / max(b, 1e-300)) for a, b in zip(Q, P, strict=True) if a > 0))

    limit = -math.log1p(-((math.sqrt(p_a) - math.sqrt(p_c)) ** 2))
    grid = [(q, r) for q in np.linspace(0, 0.5, 60) for r in np.linspace(0, 1, 60) if q <= r <= 1 - q]
    assert min(divergence(q, r) for q, r in grid) >= limit - 1e-9
    best = optimize.minimize_scalar(
        lambda q: divergence(q, q), bounds=(1e-9, 0.5 - 1e-12), method="bounded", options={"xatol": 1e-10}
    ).fun
    assert best == pytest.approx(limit, abs=1e-5)


@MANY
@given(a=st.floats(0.01, 6), sigma=st.floats(1e-3, 10))
def test_the_radius_of_a_linear_classifier_is_at_most_its_margin(a: float, sigma: float) -> None:
    p = torch.tensor([stats.norm.cdf(a)], dtype=torch.float64)
    found = float(radius(p, 1 - p, [sigma]))
    assert 0 < found <= a * sigma


HONEST: dict[str, Map] = {
    "nothing": lambda w: w,
    "expanding": lambda w: 5 * w,
    "to the nearer end": lambda w: np.where(w > 0.3, 10.0, -10.0),
    "to the centre": lambda w: 0.2 * w,
    "mirrored": lambda w: -3 * w + 0.1,
}


@pytest.mark.parametrize("rho", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rounds", [0, 1, 2])
@pytest.mark.parametrize("name", HONEST)
def test_no_displacement_within_the_radius_flips_a_prediction_whatever_honest_clients_do_later(
    name: str, rounds: int, rho: float
) -> None:
    """On the line, by numerical integration: the vote is the sign of w - b, for thresholds b over the whole range."""
    sigma, grid = 0.5, np.linspace(-6, 6, 401)
    step, certified = grid[1] - grid[0], 0
    kernel = stats.norm.pdf(grid[:, None], np.clip(HONEST[name](grid), -rho, rho)[None], sigma) * step
    later = np.linalg.matrix_power(kernel, rounds)

    def final(w: float) -> np.ndarray:
        """The law on the grid of the voting model, which is at ``w`` before the poisoned round's clipping."""
        made: np.ndarray = later @ stats.norm.pdf(grid, min(max(w, -rho), rho), sigma) * step
        return made

    for w in (-0.4, 0.0, 0.25):
        weights = final(w)
        for b in np.linspace(-2, 2, 9):
            p = float(weights[grid > b].sum())
            p_a = torch.tensor([max(p, 1 - p)], dtype=torch.float64)
            reach = float(radius(p_a, 1 - p_a, [sigma], [(rho, sigma)] * rounds))
            certified += reach > 0.1
            for moved in (-0.99 * reach, 0.99 * reach):
                there = float(final(w + moved)[grid > b].sum())
                assert (there > 0.5) == (p > 0.5) or abs(p - 0.5) < 1e-3
    assert certified > 5


def test_attacks_in_several_rounds_have_the_sum_of_their_divergences() -> None:
    p = torch.tensor([0.9], dtype=torch.float64)
    once, twice = radius(p, 1 - p, [0.1]), radius(p, 1 - p, [0.1, 0.1])
    assert float(once / twice) == pytest.approx(2**0.5)


def test_rounds_behind_the_poisoned_one_are_those_of_the_schedule_to_the_voting_copies() -> None:
    config = CRFLConfig(bound=1.0, growth=0.5, noise=0.2)
    assert rounds_after(config, 1, 3) == [(2.0, 0.2), (2.5, 0.2)]
    assert rounds_after(config, 3, 3) == []


def test_two_points_of_the_ball_are_that_far_apart_in_total_variation() -> None:
    grid = np.linspace(-20, 20, 40_001)
    for rho, sigma in ((1.0, 1.0), (2.0, 0.7), (0.1, 3.0)):
        gap = np.abs(stats.norm.pdf(grid, rho, sigma) - stats.norm.pdf(grid, -rho, sigma)).sum() * (grid[1] - grid[0]) / 2
        assert contraction(rho, sigma) == pytest.approx(float(gap), abs=1e-6)


@MANY
@given(counts=st.lists(st.integers(0, 500), min_size=2, max_size=5).filter(lambda c: sum(c) > 0))
def test_bounds_are_those_of_clopper_and_pearson(counts: list[int]) -> None:
    lower, upper = bounds(torch.tensor([counts]), 0.01)
    for k, low, high in zip(counts, lower[0].tolist(), upper[0].tolist(), strict=True):
        exact = stats.binomtest(k, sum(counts)).proportion_ci(1 - 0.01 / len(counts), "exact")
        assert (low, high) == (pytest.approx(exact.low, abs=1e-9), pytest.approx(exact.high, abs=1e-9))


def test_more_votes_of_one_share_certify_more_and_a_tie_nothing() -> None:
    votes = torch.tensor([[80, 20], [800, 200], [8000, 2000], [50, 50]])
    found = certify(votes, [0.1])
    assert found.label.tolist() == [0, 0, 0, 0]
    assert found.radius.tolist() == [*sorted(found.radius[:3].tolist()), 0.0]
    assert bool((found.p_b >= 1 - votes.double().amax(1) / votes.sum(1)).all())


def test_copies_vote_as_the_noise_on_a_linear_model_says() -> None:
    lab, row = lab_of()
    row = row.clone()
    row[:12] = 0.1
    x = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    votes = smoothed_votes(lab, row, x, 0.2, 3000, torch.Generator().manual_seed(1))
    assert votes.sum(1).tolist() == [3000] * 3
    z = np.linspace(-8, 8, 4001)
    for k in range(3):
        margin = 0.1 * float(x[k].sum()) / (0.2 * math.sqrt(float(x[k].square().sum()) + 1))
        p = float((stats.norm.pdf(z) * stats.norm.cdf(z + margin) ** 3).sum() * (z[1] - z[0]))
        assert abs(int(votes[k, 0]) / 3000 - p) < 5 * math.sqrt(p * (1 - p) / 3000)
