"""Laws of the clusterings: FLAME's core is HDBSCAN's, RFLBAT's filter is the published one, k-means finds what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from sparring_update_analysis.cards_models import cohort_of, rows
from sparring_update_analysis.configs_models import FlameConfig, RFLBATConfig
from sparring_update_analysis.flame import Flame, FlameNoise, cosine_distances, reach
from sparring_update_analysis.kmeans import gap_statistic, kmeans
from sparring_update_analysis.rflbat import RFLBAT, near, principal
from torch import Tensor

from sparring.signals import Release
from sparring.testing.fixtures import make_layout, make_round

MANY = settings(max_examples=60, deadline=None)
sizes = st.integers(3, 14)
seeds = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def component(distances: Tensor, start: int, eps: float) -> set[int]:
    """Who is reached from ``start`` by steps of at most ``eps``."""
    found, open_ = {start}, [start]
    while open_:
        near_ = set((distances[open_.pop()] <= eps).nonzero().flatten().tolist()) - found
        found |= near_
        open_ += near_
    return found


@MANY
@given(n=sizes, seed=seeds)
def test_reach_is_the_least_threshold_at_which_a_component_is_large_enough(n: int, seed: int) -> None:
    distances = cosine_distances((x := draw(seed, n, 3)) @ x.T)
    m = n // 2 + 1
    for i, eps in enumerate(reach(distances, m).tolist()):
        assert len(component(distances, i, eps)) >= m
        smaller = [e for e in distances.unique().tolist() if e < eps]
        assert not smaller or len(component(distances, i, smaller[-1])) < m


@MANY
@given(n=sizes, seed=seeds)
def test_the_core_of_flame_is_the_cluster_of_hdbscan(n: int, seed: int) -> None:
    distances = cosine_distances((x := draw(seed, n, 4)) @ x.T)
    joined = reach(distances, n // 2 + 1)
    found = HDBSCAN(
        min_cluster_size=n // 2 + 1, min_samples=1, metric="precomputed", allow_single_cluster=True, copy=True
    ).fit_predict(distances.numpy())
    assert (joined == joined.min()).tolist() == (found == 0).tolist()


@pytest.mark.parametrize("n", [1, 2])
def test_flame_keeps_one_or_two_clients(n: int) -> None:
    out = Flame().defence_transform(cohort_of(draw(0, n, 5).float()), make_round("flame"))
    assert out.ids == tuple(range(n))


def test_flame_keeps_more_than_half_and_leaves_ties_together() -> None:
    one, other = torch.eye(2, 6)
    tied = torch.stack([one, other, one, other, one, one, torch.zeros(6)])
    for order in (list(range(7)), [6, 4, 2, 0, 5, 3, 1]):
        cohort = replace(cohort_of(tied[order]), ids=tuple(order))
        out = Flame().defence_transform(cohort, make_round("flame"))
        assert set(out.ids or ()) == {0, 2, 4, 5}
        assert out.verdicts[-1].suspicion[6] == pytest.approx(1.0)


def test_flame_shortens_to_the_median_norm_of_all_and_keeps_weights() -> None:
    updates = rows(3)
    cohort = replace(cohort_of(updates), weights=torch.arange(20.0) + 1)
    out = Flame().defence_transform(cohort, make_round("flame"))
    S, kept = updates.double().norm(dim=1).quantile(0.5), list(out.ids or ())
    expected = updates[kept].double() * (S / updates[kept].double().norm(dim=1)).clamp(max=1)[:, None]
    torch.testing.assert_close(out.rows.double(), expected, rtol=1e-5, atol=1e-7)
    assert out.weights is not None
    assert out.weights.tolist() == [i + 1 for i in kept]


def test_the_median_norm_reaches_the_release_of_the_same_entry_alone() -> None:
    ctx = make_round("flame")
    release = Release(torch.zeros(4000), make_layout(4000))
    noise = FlameNoise(FlameConfig(noise=0.1))
    assert noise.defence_transform(release, ctx.at("flame/release")) is release
    for scale, label in ((1.0, "flame"), (100.0, "flame#2")):
        Flame().defence_transform(cohort_of(scale * rows(0)), ctx.at(f"{label}/cohort"))
    first, second = (noise.defence_transform(release, ctx.at(f"{label}/release")).vector for label in ("flame", "flame#2"))
    assert float(second.norm() / first.norm()) == pytest.approx(100, rel=5 * (1 / 4000) ** 0.5)
    assert noise.defence_transform(release, ctx.at("flame/release")) is release


def by_definition(x: Tensor, k: int) -> float:
    """The least inertia over all labellings."""
    best = float("inf")
    for labels in product(range(k), repeat=len(x)):
        groups = [x[[i for i, label in enumerate(labels) if label == c]] for c in set(labels)]
        best = min(best, sum(float((g - g.mean(0)).square().sum()) for g in groups))
    return best


@MANY
@given(n=st.integers(2, 7), k=st.integers(1, 3), seed=seeds)
def test_kmeans_labels_the_nearest_centre_and_is_never_better_than_the_best(n: int, k: int, seed: int) -> None:
    x = draw(seed, n, 2)
    labels, inertia = kmeans(x[None], k)
    groups = [x[labels[0] == c] for c in labels[0].unique().tolist()]
    assert float(inertia) == pytest.approx(sum(float((g - g.mean(0)).square().sum()) for g in groups), abs=1e-9)
    assert float(inertia) >= by_definition(x, k) - 1e-9


@MANY
@given(left=st.integers(1, 6), right=st.integers(1, 6), seed=seeds)
def test_kmeans_finds_two_groups_far_apart_as_the_best_labelling_does(left: int, right: int, seed: int) -> None:
    x = torch.cat([draw(seed, left, 2), draw(seed + 1, right, 2) + 100])
    labels, _ = kmeans(x[None], 2)
    assert len(labels[0, :left].unique()) == len(labels[0, left:].unique()) == 1
    assert labels[0, 0] != labels[0, -1]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (torch.zeros(8, 2), 1),
        (torch.zeros(2, 1), 1),
        (torch.linspace(0, 1, 12)[:, None], 1),
        (torch.cat([torch.linspace(0, 1, 6), torch.linspace(50, 51, 6)])[:, None], 2),
    ],
)
def test_the_gap_statistic_counts_groups(points: Tensor, expected: int) -> None:
    assert gap_statistic(points.double(), 5, 20, torch.Generator().manual_seed(0)) == expected


@MANY
@given(n=st.integers(3, 9), seed=seeds)
def test_components_are_those_of_the_rows(n: int, seed: int) -> None:
    x = draw(seed, n, 12)
    ours = principal((x - x[0]) @ (x - x[0]).T, 2)
    theirs = torch.from_numpy(PCA(2).fit_transform(x.numpy()))
    torch.testing.assert_close(ours.abs(), theirs.abs(), rtol=1e-6, atol=1e-8)


def naive(updates: Tensor, k: int, outer: float, inner: float) -> set[int]:
    """RFLBAT as its published code has it, for a given number of clusters."""
    flat = updates.double().numpy()
    x = PCA(2).fit_transform(flat)

    def close(index: Sequence[int], eps: float) -> list[int]:
        sums = [sum(float(np.linalg.norm(x[i] - x[j])) for j in index) for i in index]
        return [i for i, total in zip(index, sums, strict=True) if total < eps * float(np.median(sums))]

    accepted = close(range(len(flat)), outer)
    labels = KMeans(k, n_init=10, random_state=0).fit_predict(x[accepted])
    clusters = [[i for i, label in zip(accepted, labels, strict=True) if label == c] for c in range(k)]
    scores = [float(np.median(cosine_similarity(flat[c]).mean(1))) if len(c) > 1 else 1.0 for c in clusters]
    return set(close(clusters[scores.index(min(scores))], inner))


@pytest.mark.parametrize("seed", range(5))
def test_rflbat_keeps_whom_the_published_code_keeps(seed: int) -> None:
    updates = rows(seed)
    updates[3] = 1e4 * updates[3]
    ctx = make_round("rflbat", seed=seed)
    seen = cohort_of(updates)
    x = principal(seen.gram, 2)
    k = gap_statistic(x[near(x, 10)], 10, 20, ctx.generator())
    out = RFLBAT(RFLBATConfig()).defence_transform(seen, ctx)
    assert 3 not in (out.ids or ())
    assert set(out.ids or ()) == naive(updates, k, 10, 4)


@pytest.mark.parametrize("n", [1, 2])
def test_rflbat_judges_nobody_among_fewer_than_three(n: int) -> None:
    out = RFLBAT(RFLBATConfig()).defence_transform(cohort_of(draw(0, n, 5).float()), make_round("rflbat"))
    assert out.ids == tuple(range(n))
    assert set(out.verdicts[-1].suspicion.values()) == {0.0}
