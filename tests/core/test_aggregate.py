"""The weighted mean, its tree, and cohorts whose mixing is lazy: equal to the dense expressions, to the bit where it must."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring import rowwise
from sparring.aggregate import BLOCK, WeightedMean, fold
from sparring.cohort import Cohort
from sparring.context import Round, Wire
from sparring.keys import Key
from sparring.layout import Layout, Space
from sparring.signals import Updates

SIZES = st.lists(st.integers(1, 150), min_size=1, max_size=6)


def layout(d: int, space: Space | None = None) -> Layout:
    return Layout.build([("w", (d,), "parameter")], space)


def context() -> Round:
    return Round(0, 1, Key(0), Wire(0, lambda stage, client: False))


def updates(n: int, d: int = 7, seed: int = 0, weights: bool = True) -> Updates:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator) * 10 ** torch.randn(n, 1, generator=generator)
    return Updates(rows, layout(d), tuple(range(n)), torch.rand(n, generator=generator) + 0.1 if weights else None)


def cohort(rows: Tensor, **fields: Any) -> Cohort:
    return Cohort(rows, layout(rows.shape[1]), tuple(range(len(rows))), **fields)


@given(st.integers(1, 200), st.integers(0, 99), st.booleans())
def test_the_mean_is_weighted(n: int, seed: int, weighted: bool) -> None:
    own = updates(n, seed=seed, weights=weighted)
    release = fold(WeightedMean(), [own], context())
    w = own.weights.double() if own.weights is not None else torch.ones(n).double()
    assert torch.allclose(release.vector.double(), w @ own.rows.double() / w.sum(), rtol=1e-4, atol=1e-4)
    assert release.total == pytest.approx(float(w.sum()))
    assert release.clients == n


@settings(deadline=None)
@given(SIZES, st.integers(0, 99))
def test_the_tree_gives_the_same_bits_however_the_rows_are_split(sizes: list[int], seed: int) -> None:
    whole = updates(sum(sizes), seed=seed)
    edges = torch.tensor([0, *sizes]).cumsum(0).tolist()
    blocks = [whole.select(whole.ids[a:b]) for a, b in itertools.pairwise(edges)]
    assert torch.equal(fold(WeightedMean(), blocks, context()).vector, fold(WeightedMean(), [whole], context()).vector)


def test_the_tree_never_holds_more_than_a_block_and_a_leaf() -> None:
    seen: list[int] = []

    class Watching(WeightedMean):  # type: ignore[misc]
        def add(self, accumulator: Any, block: Updates) -> Any:
            seen.append(len(block.ids))
            return super().add(accumulator, block)

    whole = updates(5 * BLOCK + 3)
    fold(Watching(), (whole.select([i]) for i in whole.ids), context())
    assert seen == [BLOCK] * 5 + [3]


def test_the_rule_on_a_cohort_in_memory_is_the_same_rule() -> None:
    own = updates(3 * BLOCK + 5)
    release = WeightedMean().server_aggregate(cohort(own.rows, weights=own.weights), context())
    assert torch.equal(release.vector, fold(WeightedMean(), [own], context()).vector)


def test_an_empty_cohort_has_empty_geometry() -> None:
    empty = cohort(updates(3).select([]).rows)
    assert empty.gram.shape == empty.distances.shape == (0, 0)


def test_an_empty_cohort_is_a_zero_release_of_weight_zero() -> None:
    release = fold(WeightedMean(), [updates(3).select([])], context())
    assert torch.equal(release.vector, torch.zeros(7))
    assert (release.total, release.clients) == (0, 0)


def test_weights_that_are_all_zero_divide_nothing() -> None:
    own = updates(3)
    release = fold(WeightedMean(), [Updates(own.rows, own.layout, own.ids, torch.zeros(3))], context())
    assert bool(torch.isfinite(release.vector).all())
    assert release.total == 0


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(2, 2**32), st.integers(0, 99))
def test_rows_in_a_ring_are_summed_modulo_and_not_divided(n: int, modulus: int, seed: int) -> None:
    rows = torch.randint(modulus, (n, 5), generator=torch.Generator().manual_seed(seed))
    own = Updates(rows, layout(5, Space("ring", modulus)), tuple(range(n)), None)
    release = fold(WeightedMean(), [own.select(own.ids[:3]), own.select(own.ids[3:])], context())
    assert release.vector.dtype == torch.int64
    assert release.vector.tolist() == [sum(column) % modulus for column in rows.T.tolist()]
    assert release.clients == n


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-8, atol=1e-8)


def affine(k: int, m: int, generator: torch.Generator) -> Tensor:
    mix = torch.rand(k, m, generator=generator, dtype=torch.float64)
    return mix / mix.sum(1, keepdim=True)


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(1, 40), st.integers(0, 999))
def test_a_mixed_cohort_equals_the_dense_expressions(n: int, d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    first, second = affine(n + 1, n, generator), affine(4, n + 1, generator)
    lazy = cohort(rows, weights=torch.ones(n)).mixed(first).mixed(second)
    dense = second @ first @ rows
    assert len(lazy) == 4
    assert (lazy.ids, lazy.weights) == (None, None)
    assert close(lazy.rows, dense)
    assert close(lazy.distances, torch.cdist(dense, dense).square())
    assert torch.equal(lazy.distances.diagonal(), torch.zeros(4, dtype=torch.float64))
    a = torch.randn(4, generator=generator, dtype=torch.float64)
    assert close(lazy.combine(a), a @ dense)
    kept = lazy.select(torch.tensor([3, 1]))
    assert close(kept.rows, dense[[3, 1]])
    assert close(kept.distances, lazy.distances[[3, 1]][:, [3, 1]])


@given(st.integers(2, 9), st.integers(1, 40), st.integers(0, 999))
def test_the_gram_matrix_is_that_of_the_rows_about_one_of_them(n: int, d: int, seed: int) -> None:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = cohort(rows).gram
    about = [(rows - row) @ (rows - row).T for row in rows]
    assert any(close(found, gram) for gram in about)


def test_selection_keeps_identities_and_weights() -> None:
    own = cohort(torch.randn(4, 3), weights=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    kept = own.select(torch.tensor([2, 0]))
    assert kept.ids == (2, 0)
    assert kept.weights is not None
    assert kept.weights.tolist() == [3, 1]
    assert torch.equal(kept.rows, own.rows[[2, 0]])


@pytest.mark.parametrize("outlier", [None, 0, 3], ids=["no outlier", "the first is an outlier", "another is"])
@pytest.mark.parametrize("scale", [1e3, 1e15])
def test_distances_of_near_duplicates_keep_their_relative_accuracy(outlier: int | None, scale: float) -> None:
    """Rows that differ by 1e-6, in float32, with or without a row far away from them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 5000, generator=generator) + 1e-6 * torch.randn(6, 5000, generator=generator)
    near = list(range(6))
    if outlier is not None:
        rows[outlier] *= scale
        near.remove(outlier)
    found = cohort(rows).distances
    exact = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    inner = ~torch.eye(6, dtype=torch.bool)
    assert bool(torch.isfinite(found).all())
    relative = (found - exact).abs() / exact.clamp(min=1e-300)
    assert float(relative[near][:, near][inner[near][:, near]].max()) < 1e-3


def test_no_finite_row_makes_a_distance_undefined() -> None:
    """A row of 1e30 overflows float32 when it is squared."""
    rows = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    for at in (0, 5):
        poisoned = rows.clone()
        poisoned[at] = 1e30
        assert not bool(cohort(poisoned).distances.isnan().any())


def test_a_mix_that_is_not_affine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rows of a mix must sum to 1; they sum to 0\.5"):
        cohort(torch.randn(2, 3)).mixed(torch.full((1, 2), 0.25))


def exact(rows: Tensor) -> Tensor:
    """Squared distances by differences, in float64."""
    return torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist").square()


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 999), st.booleans())
def test_a_scaled_cohort_equals_the_dense_expressions(n: int, d: int, seed: int, before: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64) * 10 ** torch.randn(n, 1, generator=generator).double()
    mix, factors = affine(n + 1, n, generator), torch.randn(n, generator=generator, dtype=torch.float64)
    again = torch.rand(n + 1, generator=generator, dtype=torch.float64)
    lazy = cohort(rows, weights=torch.ones(n)).scaled(factors)
    assert (lazy.ids, lazy.weights is None) == (tuple(range(n)), False)
    dense = factors[:, None] * rows
    assert torch.equal(lazy.rows, dense)
    if before:
        assert close(lazy.norms, dense.norm(dim=1))
    mixed = lazy.mixed(mix).scaled(again).select(torch.arange(n, -1, -1))
    for found, expected in ((lazy, dense), (mixed, (again[:, None] * (mix @ dense)).flip(0))):
        assert close(found.rows, expected)
        assert close(found.inner, expected @ expected.T)
        assert close(found.norms, expected.norm(dim=1))
        assert close(found.distances, exact(expected))
        about = found.gram + found.gram.mean() - found.gram.mean(0) - found.gram.mean(1, keepdim=True)
        centred = expected - expected.mean(0)
        assert close(about, centred @ centred.T)
        a = torch.randn(len(found), generator=generator, dtype=torch.float64)
        assert close(found.combine(a), a @ expected)


def worst(found: Tensor, rows: Tensor) -> float:
    """The largest relative error of squared distances beside the diagonal."""
    expected = exact(rows)
    beside = ~torch.eye(len(rows), dtype=torch.bool)
    return float(((found - expected).abs() / expected)[beside].max())


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-6), (torch.float64, 1e-9)])
@pytest.mark.parametrize("outlier", [None, 0, 3], ids=["no outlier", "the first is an outlier", "another is"])
@pytest.mark.parametrize("scale", [1e-12, 1e3, 1e15])
def test_clipped_near_duplicates_keep_the_accuracy_of_their_distances(
    dtype: torch.dtype, apart: float, outlier: int | None, scale: float
) -> None:
    """Rows that hardly differ and are all scaled to one norm, with or without a row that was tiny or huge before."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 5000, generator=generator, dtype=dtype) + apart * torch.randn(
        6, 5000, generator=generator, dtype=dtype
    )
    if outlier is not None:
        rows[outlier] = scale * torch.randn(5000, generator=generator, dtype=dtype)
    own = cohort(rows)
    factors = 0.3 / own.norms
    assert worst(own.scaled(factors).distances, factors[:, None] * rows.double()) < 1e-3


def test_a_base_is_measured_once_for_all_cohorts_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass about a reference row and one about the origin, whatever is scaled, mixed, selected and asked."""
    about: list[str] = []
    whole = rowwise.products

    def counted(rows: Tensor, origin: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        about.append("zero" if origin is None else "a row")
        return whole(rows, origin, dtype)

    monkeypatch.setattr(rowwise, "products", counted)
    own = cohort(torch.randn(5, 30))
    clipped = own.scaled(1 / own.norms)
    smooth = clipped.mixed(affine(5, 5, torch.Generator().manual_seed(0)))
    for signal in (own, clipped, smooth, smooth.select(torch.tensor([1, 2]))):
        assert bool((signal.distances + signal.inner).isfinite().all())
    assert sorted(about) == ["a row", "zero"]


def test_a_cohort_over_another_base_is_measured_anew() -> None:
    own = cohort(torch.randn(4, 30)).scaled(torch.ones(4))
    other = replace(own, base=torch.randn(4, 30))
    assert close(own.norms, own.base.double().norm(dim=1))
    assert close(other.norms, other.base.double().norm(dim=1))


def test_what_is_not_finite_stays_in_its_row_when_rows_are_scaled() -> None:
    rows = torch.randn(4, 30)
    rows[1, 3] = torch.nan
    own = cohort(rows)
    lazy = own.scaled(torch.full((4,), 0.5))
    assert own.norms.isfinite().tolist() == lazy.rows.isfinite().all(dim=1).tolist() == [True, False, True, True]


def test_nobody_is_scaled_to_nobody() -> None:
    empty = cohort(torch.zeros(0, 3)).scaled(torch.zeros(0))
    assert empty.rows.shape == (0, 3)
    assert empty.gram.shape == empty.inner.shape == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 500])
def test_inner_products_take_a_quarter_of_the_rows_memory_at_most(n: int) -> None:
    code = f"""
import resource, torch
torch.set_num_threads(1)
from sparring.cohort import Cohort
from sparring.layout import Layout
def measured(rows):
    cohort = Cohort(rows, Layout(()), None)
    return cohort.gram, cohort.inner
measured(torch.ones({n}, 8))
rows = torch.zeros({n}, 80_000_000 // {n}).uniform_()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
measured(rows)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / rows.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) <= 0.25
