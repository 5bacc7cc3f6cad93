"""The analyses agree with plain loops over numpy rows, written down once more from the papers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_update_analysis import meanshift
from sparring_update_analysis.bipartition import halves
from sparring_update_analysis.foolsgold import weights
from sparring_update_analysis.judging import by_client, cosines
from sparring_update_analysis.plugin import sparring_plugins

from sparring.signals import Cohort, Updates
from sparring.testing.fixtures import make_layout, make_round

SPECS: dict[str, Any] = {spec.name: spec for spec in sparring_plugins()}
FEW = settings(max_examples=25, deadline=None)
Rows = np.ndarray


def cosine(a: Rows, b: Rows) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0


def foolsgold(histories: Rows) -> list[float]:
    """Weights by the loops of the paper's algorithm 1."""
    n = len(histories)
    cs = [[0.0 if i == j else cosine(histories[i], histories[j]) for j in range(n)] for i in range(n)]
    v = [max(row) for row in cs]
    for i in range(n):
        for j in range(n):
            if i != j and v[j] > v[i]:
                cs[i][j] *= v[i] / v[j]
    alpha = [min(max(1 - max(row), 0.0), 1.0) for row in cs]
    top = max(alpha)
    out = []
    for a in alpha:
        a = a / top if top > 1e-9 else 1.0
        out.append(1.0 if a == 1 else 0.0 if a == 0 else min(max(float(np.log(a / (1 - a))) + 0.5, 0.0), 1.0))
    return out


def dnc(rows: Rows, out: int) -> set[int]:
    """Positions of the ``out`` rows with the largest squared projections on the top right singular vector."""
    centred = rows - rows.mean(0)
    v = np.linalg.svd(centred, full_matrices=False)[2][0]
    return set(np.argsort((centred @ v) ** 2)[len(rows) - out :].tolist())


def bipartition(rows: Rows) -> float:
    """The least largest cosine across two clusters, over all partitions."""
    n = len(rows)
    alpha = [[cosine(a, b) for b in rows] for a in rows]
    parts = (set(p) for k in range(1, n // 2 + 1) for p in itertools.combinations(range(n), k))
    return min(max(alpha[i][j] for i in part for j in set(range(n)) - part) for part in parts)


def agglomerated(rows: Rows) -> set[frozenset[int]]:
    """The two clusters that average linkage of cosine distances joins last."""
    clusters = [[i] for i in range(len(rows))]

    def apart(a: list[int], b: list[int]) -> float:
        return float(np.mean([1 - cosine(rows[i], rows[j]) for i in a for j in b]))

    while len(clusters) > 2:
        a, b = min(itertools.combinations(clusters, 2), key=lambda pair: apart(*pair))
        clusters = [c for c in clusters if c is not a and c is not b] + [a + b]
    return {frozenset(c) for c in clusters}


def mean_shift(points: Rows) -> list[int]:
    """Labels by loops: climb from each point, merge, assign."""
    n = len(points)
    near = max(1, n // 2)
    width = float(np.mean([sorted(float(np.linalg.norm(p - q)) for q in points)[near - 1] for p in points]))
    tops = []
    for at in points:
        for _ in range(300):
            inside = [p for p in points if np.linalg.norm(p - at) <= width]
            moved = np.mean(inside, axis=0) if inside else at
            done = np.linalg.norm(moved - at) <= 1e-9
            at = moved
            if done:
                break
        tops.append(at)
    crowd = [sum(np.linalg.norm(p - at) <= width for p in points) for at in tops]
    stays: list[Rows] = []
    for k in sorted(range(n), key=lambda k: -int(crowd[k])):
        if all(np.linalg.norm(tops[k] - other) > width for other in stays):
            stays.append(tops[k])
    return [int(np.argmin([np.linalg.norm(p - at) for at in stays])) for p in points]


@st.composite
def rows_of(draw: st.DrawFn, least: int = 2, most: int = 8, columns: int = 6) -> Rows:
    """Gaussian rows around a common part, some of them longer."""
    n = draw(st.integers(least, most))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    return generator.normal(size=(n, columns)) * generator.uniform(0.5, 5, size=(n, 1)) + generator.normal(size=columns)


def cohort(rows: Rows) -> Cohort:
    ids = tuple(range(10, 10 + len(rows)))
    return Cohort(torch.from_numpy(rows), make_layout(rows.shape[1]), ids, torch.ones(len(rows)), sources=ids)


def after(name: str, rows: Rows, **options: object) -> Cohort:
    (layer,) = SPECS[name].layers
    made = layer.build(SPECS[name].config(**options))
    found: Cohort = made.defence_transform(cohort(rows), make_round(name, cohort=range(10, 10 + len(rows))))
    return found


@given(rows=rows_of(1))
@FEW
def test_foolsgold_weighs_as_the_loops_do(rows: Rows) -> None:
    expected = foolsgold(rows)
    inner = torch.from_numpy(rows @ rows.T)
    np.testing.assert_allclose(weights(cosines(inner)).numpy(), expected, atol=1e-9)
    kept = after("foolsgold", rows)
    assert kept.ids == tuple(10 + i for i, a in enumerate(expected) if a > 0)


@given(rows=rows_of(3), out=st.integers(1, 2))
@FEW
def test_dnc_leaves_out_whom_a_plain_svd_leaves_out(rows: Rows, out: int) -> None:
    kept = after("dnc", rows, f=out)
    assert kept.ids == tuple(10 + i for i in range(len(rows)) if i not in dnc(rows, out))


@given(rows=rows_of(2))
@FEW
def test_the_bipartition_is_the_best_of_all(rows: Rows) -> None:
    alpha = cosines(cohort(rows).inner)
    second = halves(1 - alpha, by_client(cohort(rows)), "single")
    assert 0 < int(second.sum()) < len(rows)
    across = float(alpha[second][:, ~second].max())
    np.testing.assert_allclose(across, bipartition(rows), atol=1e-9)


@given(rows=rows_of(2))
@FEW
def test_the_clusters_are_those_of_plain_average_linkage(rows: Rows) -> None:
    second = halves(1 - cosines(cohort(rows).inner), by_client(cohort(rows)), "average").numpy()
    assert {frozenset(np.flatnonzero(second).tolist()), frozenset(np.flatnonzero(~second).tolist())} == agglomerated(rows)


@given(points=rows_of(1, 12, 3))
@FEW
def test_mean_shift_clusters_as_the_loops_do(points: Rows) -> None:
    ours, theirs = meanshift.mean_shift(torch.from_numpy(points)).tolist(), mean_shift(points)
    pairs = itertools.combinations(range(len(points)), 2)
    assert all((ours[i] == ours[j]) == (theirs[i] == theirs[j]) for i, j in pairs)


def test_many_equal_points_are_one_cluster() -> None:
    points = torch.from_numpy(np.random.default_rng(0).uniform(size=(1, 3))).expand(40, 3)
    assert meanshift.mean_shift(points).tolist() == [0] * 40
    two = torch.cat([points[:30], 1 + points[:10]])
    assert meanshift.mean_shift(two).unique(return_counts=True)[1].tolist() == [30, 10]


@given(rows=rows_of(4, 9), theta=st.integers(1, 4))
@FEW
def test_rlr_negates_coordinate_by_coordinate(rows: Rows, theta: int) -> None:
    spec, w = SPECS["rlr"], np.arange(1.0, len(rows) + 1)
    signal = Cohort(torch.from_numpy(rows), make_layout(rows.shape[1]), tuple(range(len(rows))), torch.from_numpy(w))
    found = spec.build(spec.config(theta=theta)).server_aggregate(signal, make_round())
    expected = [(1 if abs(sum(np.sign(column))) >= theta else -1) * float(w @ column) / float(w.sum()) for column in rows.T]
    np.testing.assert_allclose(found.vector.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert found.total == w.sum()
    streamed = spec.build(spec.config(theta=theta))
    parts = [
        Updates(signal.rows[a : a + 2], signal.layout, tuple(range(len(rows)))[a : a + 2], torch.from_numpy(w)[a : a + 2])
        for a in range(0, len(rows), 2)
    ]
    whole = streamed.init(parts[0])
    for part in parts:
        whole = streamed.merge(whole, streamed.add(streamed.init(part), part))
    np.testing.assert_allclose(streamed.finish(whole, make_round()).vector.numpy(), expected, rtol=1e-12, atol=1e-12)


@given(rows=rows_of(1))
@FEW
def test_signguard_counts_signs_and_keeps_the_band(rows: Rows) -> None:
    rows[0] *= 0
    norms = np.linalg.norm(rows, axis=1)
    middle = float(np.median(norms))
    features = np.array([[np.mean(r > 0), np.mean(r == 0), np.mean(r < 0)] for r in rows])
    labels = mean_shift(features)
    most = max(labels.count(k) for k in labels)
    fine = [i for i in range(len(rows)) if labels.count(labels[i]) == most]
    passed = [i for i in fine if middle == 0 or 0.1 * middle <= norms[i] <= 3 * middle]
    kept = after("signguard", rows, share=1.0)
    assert kept.ids == tuple(10 + i for i in passed)
    expected = [rows[i] * min(1.0, middle / norms[i]) if norms[i] > 0 else rows[i] for i in passed]
    np.testing.assert_allclose(kept.rows.numpy(), np.array(expected).reshape(-1, rows.shape[1]), rtol=1e-12, atol=1e-12)


@given(rounds=st.lists(rows_of(2, 6), min_size=1, max_size=3))
@FEW
def test_the_historical_median_counts_every_row_so_far(rounds: list[Rows]) -> None:
    spec = SPECS["clipped-clustering"]
    (layer,) = spec.layers
    made, seen = layer.build(spec.config()), list[float]()
    for rows in rounds:
        norms = np.linalg.norm(rows, axis=1)
        seen += norms.tolist()
        kept = made.defence_transform(cohort(rows), make_round("clipped-clustering"))
        bound = np.minimum(norms, np.median(seen))
        places = [i - 10 for i in kept.ids or ()]
        np.testing.assert_allclose(np.linalg.norm(kept.rows.numpy(), axis=1), bound[places], rtol=1e-12)
