"""Pruning keeps exactly the largest coordinates; quantisation is unbiased, on b bits, and no longer than it was."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_perturbation import rows as rows_module
from sparring_perturbation.gradient_pruning import GradientPruning
from sparring_perturbation.gradient_quantisation import GradientQuantisation, quantised
from sparring_perturbation.plugin import (
    GRADIENT_PRUNING,
    GRADIENT_QUANTISATION,
    GradientPruningConfig,
    GradientQuantisationConfig,
)
from sparring_perturbation.rows import blocks, spans

from sparring.facts import Clipped
from sparring.layout import Layout
from sparring.signals import Updates
from sparring.testing.fixtures import make_round

SEEDS = st.integers(0, 10_000)


def updates(rows: torch.Tensor, *sizes: int, buffers: int = 0) -> Updates:
    parts = [(f"p{k}", (size,), "parameter") for k, size in enumerate(sizes or (rows.shape[1] - buffers,))]
    parts += [("b", (buffers,), "buffer")] if buffers else []
    return Updates(rows, Layout.build(parts), tuple(range(5, 5 + len(rows))), torch.ones(len(rows)))


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def prune(signal: Updates, fraction: float, per: str = "update") -> torch.Tensor:
    config = GradientPruningConfig(fraction=fraction, per=per)
    return GradientPruning(config).defence_transform(signal, make_round()).rows


def quantise(signal: Updates, bits: int, rounding: str = "stochastic", per: str = "tensor", index: int = 0) -> torch.Tensor:
    config = GradientQuantisationConfig(bits=bits, rounding=rounding, per=per)
    return GradientQuantisation(config).defence_transform(signal, make_round(index=index)).rows


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 60), st.floats(0, 0.999), st.booleans())
def test_exactly_the_k_largest_are_sent_as_they_are(seed: int, n: int, d: int, p: float, ties: bool) -> None:
    rows = normal(n, d, seed)
    rows = (2 * rows).round() if ties else rows
    out, k = prune(updates(rows), p), max(1, round((1 - p) * d))
    for row, sent in zip(rows, out, strict=True):
        order = sorted(range(d), key=lambda j: (-abs(float(row[j])), j))
        expected = torch.zeros(d)
        expected[order[:k]] = row[order[:k]]
        assert torch.equal(sent, expected)
    assert torch.equal(prune(updates(out), p), out)


def test_per_tensor_prunes_each_tensor_by_itself_and_buffers_stay() -> None:
    rows = torch.tensor([[1.0, -2, 3, 4, 100, 200, 7, 8]])
    assert prune(updates(rows, 4, 2, buffers=2), 0.5, "tensor").tolist() == [[0, 0, 3, 4, 0, 200, 7, 8]]
    assert prune(updates(rows, 4, 2, buffers=2), 0.5).tolist() == [[0, 0, 0, 4, 100, 200, 7, 8]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_not_finite_goes_on_as_it_is(value: float) -> None:
    rows = normal(3, 20, 0)
    rows[1, 3] = value
    out = prune(updates(rows), 0.9)
    assert torch.equal(out[1].nan_to_num(7.0, 8.0), rows[1].nan_to_num(7.0, 8.0))
    assert (out[[0, 2]] != 0).sum(1).tolist() == [2, 2]
    assert bool(quantise(updates(rows), 4)[1].isnan().any())


@pytest.mark.parametrize("budget", [1, 7, 50])
def test_blocks_are_bounded_and_change_nothing(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    signal = updates(normal(9, 20, 1), 12, 8)
    whole = prune(signal, 0.8, "tensor"), quantise(signal, 3)
    monkeypatch.setattr(rows_module, "BUDGET", budget)
    parts = list(blocks(9, 20))
    assert max((part.stop - part.start) * 20 for part in parts) <= max(budget, 20)
    assert [k for part in parts for k in range(part.start, part.stop)] == list(range(9))
    assert torch.equal(whole[0], prune(signal, 0.8, "tensor"))
    assert torch.equal(whole[1], quantise(signal, 3))


def test_spans_cover_the_parameters_once() -> None:
    layout = Layout.build(
        [("a", (2, 3), "parameter"), ("empty", (0,), "parameter"), ("c", (), "parameter"), ("b", (4,), "buffer")]
    )
    assert spans(layout, "update") == [slice(0, 7)]
    assert spans(layout, "tensor") == [slice(0, 6), slice(6, 7)]


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 16), st.sampled_from(["stochastic", "nearest"]), st.floats(-30, 30))
def test_values_lie_on_the_levels_next_to_them(seed: int, bits: int, rounding: str, scale: float) -> None:
    rows = normal(3, 40, seed) * 10**scale
    out = quantise(updates(rows), bits, rounding).double()
    m = rows.double().abs().amax(1, keepdim=True)
    s, half = (0.5, 0.5) if bits == 1 else (2 ** (bits - 1) - 1, 0)
    levels = out / m * s + half
    assert float((levels - levels.round()).abs().max()) < 1e-2
    assert all(len(row.unique()) <= 2**bits for row in out)
    assert bool((out.abs() <= m).all())
    step = m / s * (1 if rounding == "stochastic" else 0.5)
    assert bool(((out - rows).abs() <= step * (1 + 1e-3)).all())


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 16])
def test_stochastic_rounding_is_unbiased_with_the_variance_of_a_coin(bits: int) -> None:
    draws, row = 4000, torch.linspace(-1, 1, 31) ** 3
    out = quantise(updates(row.expand(draws, -1).contiguous()), bits).double()
    s, half = (0.5, 0.5) if bits == 1 else (2 ** (bits - 1) - 1, 0)
    u = row.double() * s + half
    variance = (u - u.floor()) * (1 - u + u.floor()) / s**2
    off = (out.mean(0) - row.double()).abs()
    assert bool((off <= 5 * (variance / draws).sqrt() + 1e-6).all())
    # The standard error of a sample variance of coins is at most half the squared gap between levels over the root of n.
    gap = (1 / s) ** 2
    assert bool(((out.var(0) - variance).abs() <= 5 * gap * (0.25 / draws) ** 0.5 + 1e-6 * gap).all())


def test_zero_is_exact_and_nothing_is_drawn_twice() -> None:
    assert not quantise(updates(torch.zeros(2, 8)), 1).any()
    row = torch.tensor([[1.0, 0.0, -0.3, 0.0]]).repeat(2, 500)
    out = quantise(updates(row), 4)
    assert not out[row == 0].any()
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out, quantise(updates(row), 4, index=1))
    assert torch.equal(out, quantise(updates(row), 4))


def test_sixteen_bits_are_fine_and_each_tensor_has_its_own_scale() -> None:
    rows = torch.cat([normal(3, 50, 0), 1e-6 * normal(3, 50, 1)], dim=1)
    apart, together = (quantise(updates(rows, 50, 50), 16, per=per) for per in ("tensor", "update"))
    own = rows[:, 50:].abs().amax(1, keepdim=True) / (2**15 - 1)
    assert bool(((apart - rows)[:, 50:].abs() <= own * (1 + 1e-3)).all())
    assert float((together - rows)[:, 50:].abs().max()) > float(own.max())


def test_rounding_never_leaves_the_range_where_a_draw_is_almost_one() -> None:
    rows = torch.tensor([[1.0, -1.0, 0.5]])
    assert quantised(rows, 16, torch.full((1, 3), 1 - 2**-24)).abs().max() == 1


def test_which_clipping_bounds_survive() -> None:
    pruning, rounding = (spec.layers[0].facts(spec.config()) for spec in (GRADIENT_PRUNING, GRADIENT_QUANTISATION))
    for norm in ("l1", "l2", "linf"):
        assert pruning.survives(Clipped(norm, "client", bound=1.0))
        assert rounding.survives(Clipped(norm, "client", bound=1.0)) == (norm == "linf")
    row = torch.tensor([[1.0] + [0.01] * 200])
    assert float(quantise(updates(row), 1).norm()) > 2 * float(row.norm())
