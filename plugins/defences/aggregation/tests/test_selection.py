"""Laws of the rules that average a subset: agreement with the definition, what an attacker can reach, ties, refusals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_aggregation import smea
from sparring_aggregation.caf import filtered
from sparring_aggregation.mda import closest, coverable
from sparring_aggregation.plugin import sparring_plugins
from torch import Tensor

from sparring.checker import walk
from sparring.cohort import Cohort
from sparring.errors import ConfigError
from sparring.facts import Identified, Readable, Space, Weighted
from sparring.signals import Release
from sparring.signature import Step
from sparring.sites import Site
from sparring.testing.fixtures import make_layout, make_round

SPECS = {spec.name: spec for spec in sparring_plugins()}
FLAT = settings(max_examples=60, deadline=None)
RULES = ("monna", "caf", "mda", "smea")
EVERY = pytest.mark.parametrize("name", RULES)


def cohort(rows: Tensor, ids: tuple[int, ...] | None = None, weights: Tensor | None = None) -> Cohort:
    return Cohort(rows, make_layout(rows.shape[1]), tuple(range(len(rows))) if ids is None else ids, weights)


def release(name: str, signal: Cohort, f: int, trusted: int = 0) -> Release:
    spec = SPECS[name]
    config = spec.config(f=f, trusted=trusted) if name == "monna" else spec.config(f=f)
    made: Release = spec.build(config).server_aggregate(signal, make_round())
    return made


def aggregate(name: str, rows: Tensor, f: int) -> Tensor:
    """The release of rows of clients 0, 1, ..., of which `monna` trusts the first."""
    return release(name, cohort(rows), f).vector


def spread(rows: np.ndarray) -> float:
    """The top eigenvalue of the covariance, by singular values."""
    return float(np.linalg.svd(rows - rows.mean(0), compute_uv=False)[0] ** 2 / len(rows))


def diameter(rows: np.ndarray) -> float:
    return max((float(np.linalg.norm(x - y)) for x, y in combinations(rows, 2)), default=0.0)


def best_subset(rows: np.ndarray, f: int, cost: Callable[[np.ndarray], float]) -> np.ndarray:
    """The first subset, in lexicographic order, of a cost within rounding of the least."""
    found = [(cost(rows[list(s)]), s) for s in combinations(range(len(rows)), len(rows) - f)]
    least = min(found)[0]
    first: np.ndarray = rows[list(next(s for c, s in found if c <= least * (1 + 1e-12) + 1e-14))].mean(0)
    return first


def naive_monna(rows: np.ndarray, f: int) -> np.ndarray:
    nearest = sorted(range(len(rows)), key=lambda j: float(((rows[j] - rows[0]) ** 2).sum()))
    mean: np.ndarray = rows[nearest[: len(rows) - f]].mean(0)
    return mean


def naive_caf(rows: np.ndarray, f: int) -> np.ndarray:
    """The filter on the covariance [d, d] itself."""
    n = len(rows)
    c, least, best = np.ones(n), np.inf, rows.mean(0)
    while True:
        mean = c @ rows / c.sum()
        around = rows - mean
        eigenvalues, vectors = np.linalg.eigh((around.T * c) @ around / c.sum())
        if eigenvalues[-1] < least:
            least, best = eigenvalues[-1], mean
        tau = (around @ vectors[:, -1]) ** 2
        if tau[c > 0].max() == 0:
            return best
        c = c * np.clip(1 - tau / tau[c > 0].max(), 0, None)
        if c.sum() <= n - 2 * f:
            return best


NAIVE: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "monna": naive_monna,
    "caf": naive_caf,
    "mda": lambda rows, f: best_subset(rows, f, diameter),
    "smea": lambda rows, f: best_subset(rows, f, spread),
}


@st.composite
def cases(draw: st.DrawFn, largest: int = 9) -> tuple[Tensor, int]:
    """Rows [n, d] of different lengths, in float64, and an f with 2f < n."""
    n, d = draw(st.integers(1, largest)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        rows = rows * 10 ** torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return rows, draw(st.integers(0, (n - 1) // 2))


@EVERY
@given(data=st.data())
@FLAT
def test_agrees_with_its_definition(name: str, data: st.DataObject) -> None:
    rows, f = data.draw(cases())
    expected = NAIVE[name](rows.numpy(), f)
    np.testing.assert_allclose(aggregate(name, rows, f).numpy(), expected, rtol=1e-7, atol=1e-7)


@EVERY
@given(data=st.data(), scale=st.floats(1e-3, 1e3))
@FLAT
def test_translation_scale_and_rotation_pass_through(name: str, data: st.DataObject, scale: float) -> None:
    rows, f = data.draw(cases())
    d = rows.shape[1]
    shift = torch.randn(d, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    found = aggregate(name, scale * rows @ turn + shift, f)
    torch.testing.assert_close(found, scale * aggregate(name, rows, f) @ turn + shift, rtol=1e-6, atol=1e-6 * scale)


@EVERY
@given(data=st.data())
@FLAT
def test_the_order_of_rows_does_not_matter_where_rows_are_tied(name: str, data: st.DataObject) -> None:
    """Points of a small grid, many of them alike or equally far apart, in another order with the same clients."""
    n = data.draw(st.integers(1, 9))
    f = data.draw(st.integers(0, (n - 1) // 2))
    rows = torch.tensor(data.draw(st.lists(st.tuples(*[st.integers(-1, 1)] * 3), min_size=n, max_size=n))).double()
    if name == "caf":
        rows = rows + 0.01 * torch.randn(n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    order = data.draw(st.permutations(range(n)))
    made = release(name, cohort(rows), f)
    again = release(name, cohort(rows[order], tuple(order)), f)
    torch.testing.assert_close(again.vector, made.vector)
    assert sorted(again.excluded) == sorted(made.excluded)


@EVERY
@pytest.mark.parametrize("n", [1, 5, 12])
def test_identical_rows_give_that_row(name: str, n: int) -> None:
    row = torch.randn(7)
    torch.testing.assert_close(aggregate(name, row.expand(n, 7).clone(), (n - 1) // 2), row, rtol=3e-7, atol=1e-7)


@EVERY
@given(data=st.data())
@FLAT
def test_f_clients_do_not_break_it_and_a_majority_does(name: str, data: st.DataObject) -> None:
    """The last rows lie at 1e6 in one place, so that they agree; the first one is honest."""
    n = data.draw(st.integers(3, 9))
    f = data.draw(st.integers(1, (n - 1) // 2))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    rows = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    lying = rows.clone()
    lying[n - f :] = 1e6
    honest = rows[: n - f]
    assert float((aggregate(name, lying, f) - honest.mean(0)).norm()) <= diameter(honest.numpy())
    lying[f:] = 1e6
    broken = aggregate(name, lying, f)
    assert float(broken.norm()) > 1e5 * (1 - 2 * f / n)


@given(data=st.data())
@FLAT
def test_the_bounds_that_each_rule_is_chosen_for(data: st.DataObject) -> None:
    """For every S of n - f rows: MDA within 2f/(n-f) of its diameter, SMEA within 4f/(n-2f) of its top eigenvalue, and MoNNA
    within 2f/(n-f) of the largest distance to a trusted row of S."""
    rows, f = data.draw(cases(8))
    n, x = len(rows), rows.numpy()
    mda, smea_, monna = (aggregate(name, rows, f).numpy() for name in ("mda", "smea", "monna"))
    for s in combinations(range(n), n - f):
        own = x[list(s)]
        mean, slack = own.mean(0), 1e-9 * (1 + np.abs(x).max())
        assert np.linalg.norm(mda - mean) <= 2 * f / (n - f) * diameter(own) + slack
        assert np.sum((smea_ - mean) ** 2) <= 4 * f / (n - 2 * f) * spread(own) * (1 + 1e-9) + slack**2
        if 0 in s:
            assert np.linalg.norm(monna - mean) <= 2 * f / (n - f) * np.linalg.norm(own - x[0], axis=1).max() + slack


@EVERY
def test_weights_are_not_respected_and_not_kept(name: str) -> None:
    rows = torch.randn(9, 5)
    weighted = release(name, cohort(rows, weights=torch.rand(9) + 0.1), 2)
    assert torch.equal(weighted.vector, aggregate(name, rows, 2))
    assert not SPECS[name].facts(SPECS[name].config(**({"trusted": 0} if name == "monna" else {}))).survives(Weighted())


@EVERY
def test_an_empty_cohort_gives_a_release_without_weight(name: str) -> None:
    made = release(name, cohort(torch.zeros(0, 5)), 1)
    assert (made.total, made.clients) == (0, 0)
    assert torch.equal(made.vector, torch.zeros(5))


@EVERY
def test_totals_and_excluded_clients_are_reported(name: str) -> None:
    rows = 0.1 * torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    rows[5] = 100
    made = release(name, cohort(rows, (10, 11, 12, 13, 14, 15, 16)), 1, trusted=10)
    assert 15 in made.excluded
    assert made.total == (7 if name == "caf" else 6)
    assert made.clients == made.total


@pytest.mark.parametrize("name", ["caf", "mda", "smea"])
@given(data=st.data())
@FLAT
def test_mixed_and_scaled_rows_give_what_written_rows_give(name: str, data: st.DataObject) -> None:
    rows, f = data.draw(cases())
    n = len(rows)
    mix = torch.rand(n, n, dtype=torch.float64)
    lazy = cohort(rows).scaled(torch.rand(n)).mixed(mix / mix.sum(1, keepdim=True))
    made = release(name, lazy, f)
    torch.testing.assert_close(made.vector, aggregate(name, lazy.rows, f), rtol=1e-6, atol=1e-6)
    assert made.excluded == ()


@EVERY
def test_what_is_not_finite_stays_in_sight(name: str) -> None:
    for value in (torch.nan, torch.inf):
        rows = torch.randn(9, 5)
        rows[4, 2] = value
        assert not bool(aggregate(name, rows, 2)[2].isfinite())


@EVERY
@pytest.mark.parametrize(("n", "f"), [(2, 1), (6, 3), (4, 4)])
def test_a_cohort_too_small_for_f_is_refused(name: str, n: int, f: int) -> None:
    with pytest.raises(ConfigError, match=rf"'{name}' with f = {f} got n = {n} .*2f < n: set f to at most {(n - 1) // 2}"):
        aggregate(name, torch.randn(n, 3), f)
    aggregate(name, torch.randn(2 * f + 1, 3), f)


def test_a_search_that_would_not_end_is_refused_before_the_run() -> None:
    admit = SPECS["smea"].build(SPECS["smea"].config(f=10)).admit
    with pytest.raises(ConfigError, match=r"n = 40 updates: C\(40, 10\) = 8\.477e\+08 subsets; it compares 50000 at most"):
        admit(40)
    with pytest.raises(ConfigError, match=r"'mda' with f = 17 got n = 100 .*f must be at most 16"):
        SPECS["mda"].build(SPECS["mda"].config(f=17)).admit(100)
    SPECS["smea"].build(SPECS["smea"].config(f=5)).admit(20)
    SPECS["mda"].build(SPECS["mda"].config(f=16)).admit(100)


def test_the_trusted_client_must_be_there() -> None:
    rows = torch.randn(5, 3)
    with pytest.raises(ConfigError, match=r"'monna' trusts client 9, whose row is not among the 5 of this round"):
        release("monna", cohort(rows), 1, trusted=9)
    reads = (Readable("aggregator", "update", "client"), Space("real"))
    step = Step("monna", Site.AGGREGATE, SPECS["monna"].facts(SPECS["monna"].config(trusted=1)))
    assert walk([step], [*reads, Identified()]).ok
    assert not walk([step], reads).ok


def test_whoever_is_trusted_moves_monna_anywhere() -> None:
    rows = torch.randn(9, 3)
    rows[0] = 1e6
    assert float(aggregate("monna", rows, 2).norm()) > 1e5


def test_the_filter_ends_where_a_dead_row_still_lies_furthest() -> None:
    """Outliers of different sizes in different directions: each step takes the last weight from one row."""
    rows = torch.randn(11, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for k, size in enumerate((1e3, 1e6, 1e9)):
        rows[k] += size * torch.nn.functional.one_hot(torch.tensor(k), 8)
    p = filtered(rows @ rows.T, 3)
    assert p[:3].tolist() == [0, 0, 0]
    assert float(p.sum()) == pytest.approx(1)


@given(data=st.data())
@FLAT
def test_a_cover_is_found_exactly_where_there_is_one(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    pairs = [pair for pair in combinations(range(n), 2) if data.draw(st.booleans())]
    edges = [sum(1 << b if a == v else 1 << a for a, b in pairs if v in (a, b)) for v in range(n)]
    for k in range(n + 1):
        exists = any(all(set(cover) & set(pair) for pair in pairs) for cover in combinations(range(n), k))
        assert coverable(edges, (1 << n) - 1, k) == exists


def test_a_hundred_clients_are_searched_in_passable_time() -> None:
    rows = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances = torch.cdist(rows, rows).square()
    kept = closest(distances, 16, 1.0)
    assert len(kept) == 84
    far = distances[kept][:, kept].max()
    assert float(far) < float(distances.max())


def test_subsets_are_compared_in_the_order_of_a_lower_bound() -> None:
    rows = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    every = smea.subsets(10, 7)
    bounds = smea._lower(rows @ rows.T, every, 7)
    tops = torch.tensor([spread(rows[s].numpy()) * 7 for s in every], dtype=torch.float64)
    assert bool((bounds <= tops * (1 + 1e-9)).all())
    assert bool((bounds > 0.2 * tops).all())
