"""Each rule against its definition, written as slowly as it reads; weights, bounds, state, and lazily mixed rows."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_aggregation.plugin import sparring_plugins
from torch import Tensor

from sparring.cohort import Cohort
from sparring.context import Round, Wire
from sparring.errors import ConfigError
from sparring.facts import Weighted
from sparring.keys import Key
from sparring.layout import Layout
from sparring.signals import Release

SPECS = {spec.name: spec for spec in sparring_plugins()}
CTX = Round(0, 1, Key(0), Wire(0, lambda stage, client: False))
FLAT = settings(max_examples=60, deadline=None)


def cohort(rows: Tensor, ids: tuple[int, ...] | None = None, weights: Tensor | None = None) -> Cohort:
    layout = Layout.build([("w", (rows.shape[1],), "parameter")])
    return Cohort(rows, layout, tuple(range(len(rows))) if ids is None else ids, weights)


def release(name: str, signal: Cohort, **config: object) -> Release:
    spec = SPECS[name]
    return spec.build(spec.config(**config)).server_aggregate(signal, CTX)


def scores(rows: np.ndarray, near: int) -> list[float]:
    found = []
    for i, x in enumerate(rows):
        found.append(sum(sorted(float(((x - y) ** 2).sum()) for j, y in enumerate(rows) if j != i)[:near]))
    return found


def naive_multi_krum(rows: np.ndarray, f: int) -> np.ndarray:
    return rows[np.argsort(scores(rows, len(rows) - f - 2))[: len(rows) - f]].mean(0)


def naive_closest(column: np.ndarray, k: int) -> float:
    middle = np.median(column)
    return float(np.mean(sorted(column, key=lambda x: abs(x - middle))[:k]))


def naive_meamed(rows: np.ndarray, f: int) -> np.ndarray:
    return np.array([naive_closest(column, len(column) - f) for column in rows.T])


def naive_bulyan(rows: np.ndarray, f: int) -> np.ndarray:
    left, n = list(range(len(rows))), len(rows)
    chosen = []
    while len(chosen) < n - 2 * f:
        chosen.append(left.pop(int(np.argmin(np.round(scores(rows[left], max(1, len(left) - f - 2)), 9)))))
    return np.array([naive_closest(column, n - 4 * f) for column in rows[chosen].T])


NAIVE = {"multi-krum": (naive_multi_krum, 2, 3), "meamed": (naive_meamed, 2, 1), "bulyan": (naive_bulyan, 4, 3)}


@pytest.mark.parametrize("name", NAIVE)
@given(data=st.data())
@FLAT
def test_agrees_with_its_definition(name: str, data: st.DataObject) -> None:
    naive, times, more = NAIVE[name]
    f = data.draw(st.integers(0, 4))
    n = data.draw(st.integers(times * f + more, 40))
    rows = torch.randn(n, 4, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 2**32))), dtype=torch.float64)
    np.testing.assert_allclose(release(name, cohort(rows), f=f).vector, naive(rows.numpy(), f), rtol=1e-12, atol=1e-12)


@given(data=st.data())
@FLAT
def test_ties_around_the_median_count_half(data: st.DataObject) -> None:
    """Small integers, where ties abound: any best window gives at most, and at least, what the rule gives."""
    n = data.draw(st.integers(1, 12))
    f = data.draw(st.integers(0, (n - 1) // 2))
    column = np.array(sorted(data.draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))), dtype=float)
    windows = [column[s : s + n - f] for s in range(f + 1)]
    reach = [max(abs(window - np.median(column))) for window in windows]
    sums = [sum(abs(window - np.median(column))) for window in windows]
    best = [float(w.mean()) for w, total in zip(windows, sums, strict=True) if total <= min(sums) + 1e-12]
    assert min(reach) == min(r for r, total in zip(reach, sums, strict=True) if total <= min(sums) + 1e-12)
    found = release("meamed", cohort(torch.tensor(column)[:, None]), f=f).vector.item()
    assert min(best) - 1e-12 <= found <= max(best) + 1e-12
    mirrored = release("meamed", cohort(-torch.tensor(column)[:, None]), f=f).vector.item()
    assert found == pytest.approx(-mirrored, abs=1e-12)


def weiszfeld(rows: Tensor, weights: Tensor, steps: int) -> Tensor:
    """In the space of the rows, from their mean."""
    y = (weights[:, None] * rows).sum(0) / weights.sum()
    for _ in range(steps):
        beta = weights / (rows - y).norm(dim=1).clamp(min=1e-9)
        y = (beta[:, None] * rows).sum(0) / beta.sum()
    return y


@given(n=st.integers(4, 30), seed=st.integers(0, 2**32))
@FLAT
def test_the_geometric_median_is_what_weiszfeld_gives_from_elsewhere(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    weights = 1 + torch.rand(n, generator=generator, dtype=torch.float64)
    found = release("geometric-median", cohort(rows, weights=weights), nu=1e-9, steps=3000).vector
    torch.testing.assert_close(found, weiszfeld(rows, weights, 3000), rtol=0, atol=1e-6)
    alike = release("geometric-median", cohort(rows, weights=weights), nu=1e-9, steps=3000, weighted=False).vector
    torch.testing.assert_close(alike, weiszfeld(rows, torch.ones_like(weights), 3000), rtol=0, atol=1e-6)


@given(n=st.integers(1, 20), seed=st.integers(0, 2**32), steps=st.integers(1, 5), tau=st.floats(0.1, 10), large=st.booleans())
@FLAT
def test_centred_clipping_is_its_loop_over_rows_and_rounds(n: int, seed: int, steps: int, tau: float, large: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    spec = SPECS["centred-clipping"]
    rule = spec.build(spec.config(tau=tau, steps=steps))
    v = torch.zeros(6, dtype=torch.float64)
    for _ in range(3):
        rows = torch.randn(n, 6, generator=generator, dtype=torch.float64)
        if large:
            rows[0] = 1e30
        factors = torch.ones(n) if large else 2 * torch.rand(n, generator=generator)
        for _ in range(steps):
            apart = factors[:, None].double() * rows - v
            v = v + (apart * (tau / apart.norm(dim=1, keepdim=True).clamp(min=1e-300)).clamp(max=1)).mean(0)
        given = cohort(rows) if large else cohort(rows).scaled(factors)
        torch.testing.assert_close(rule.server_aggregate(given, CTX).vector, v, rtol=1e-9, atol=1e-9)


def test_centred_clipping_continues_from_a_checkpoint_and_through_an_empty_round() -> None:
    spec = SPECS["centred-clipping"]
    rule, rows = spec.build(spec.config(tau=0.5)), torch.randn(5, 4)
    rule.server_aggregate(cohort(rows), CTX)
    rule.server_aggregate(cohort(rows[:0]), CTX)
    other = spec.build(spec.config(tau=0.5))
    other.restore(copy.deepcopy(rule.state()))
    assert torch.equal(rule.server_aggregate(cohort(rows), CTX).vector, other.server_aggregate(cohort(rows), CTX).vector)
    assert not torch.equal(rule.state()["v"], torch.zeros(4))
    assert spec.build(spec.config()).state() == {}


@given(data=st.data())
@FLAT
def test_integer_weights_count_a_row_that_often(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 9))
    weights = torch.tensor(data.draw(st.lists(st.integers(1, 5), min_size=n, max_size=n)))
    rows = torch.randn(n, 3, dtype=torch.float64)
    often = rows.repeat_interleave(weights, dim=0)
    found = release("median", cohort(rows, weights=weights.double()), weighted=True)
    torch.testing.assert_close(found.vector, release("median", cohort(often)).vector)
    assert found.total == float(weights.sum())
    f = data.draw(st.integers(0, (n - 1) // 2))
    many = n * often.repeat_interleave(n, dim=0)  # so that f / n of the rows is a whole number of them
    trimmed = release("trimmed-mean", cohort(n * rows, weights=weights.double()), f=f, weighted=True)
    expected = release("trimmed-mean", cohort(many), f=f * int(weights.sum()))
    torch.testing.assert_close(trimmed.vector, expected.vector, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["median", "trimmed-mean"])
@pytest.mark.parametrize("weight", [1.0, 0.1, 1 / 3, 7e5])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 33, 50])
def test_equal_weights_give_the_plain_rule(name: str, weight: float, n: int) -> None:
    rows = torch.randn(n, 50, dtype=torch.float64)
    options = {"f": (n - 1) // 3} if name == "trimmed-mean" else {}
    weights = torch.full((n,), weight, dtype=torch.float64)
    weighted = release(name, cohort(rows, weights=weights), weighted=True, **options)
    torch.testing.assert_close(weighted.vector, release(name, cohort(rows), **options).vector, rtol=1e-12, atol=1e-12)


def test_an_untrimmed_weighted_mean_is_the_weighted_mean() -> None:
    rows, weights = torch.randn(6, 9, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    found = release("trimmed-mean", cohort(rows, weights=weights), f=0, weighted=True).vector
    torch.testing.assert_close(found, release("mean", cohort(rows, weights=weights)).vector)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {"weighted": True}) for name in ("median", "trimmed-mean", "geometric-median")]
    + [(name, {}) for name in ("multi-krum", "bulyan", "centred-clipping", "meamed")],
)
def test_none_is_the_weighted_mean(name: str, options: dict[str, object]) -> None:
    """`Weighted` says that the release is the mean weighted by numbers of examples; respecting weights is not enough."""
    spec = SPECS[name]
    assert not spec.facts(spec.config(**options)).survives(Weighted())


def test_multi_krum_of_one_is_krum_and_names_whom_it_excludes() -> None:
    rows = torch.randn(9, 4, dtype=torch.float64)
    assert torch.equal(release("multi-krum", cohort(rows), m=1).vector, release("krum", cohort(rows)).vector)
    rows = torch.tensor([[0.0], [0.1], [0.2], [9.0], [0.1]])
    made = release("multi-krum", cohort(rows, ids=(14, 12, 13, 11, 10)), f=1)
    assert made.excluded == (11,)
    assert (made.total, made.clients) == (4.0, 4)
    two = release("multi-krum", cohort(rows, ids=(14, 12, 13, 11, 10)), f=1, m=2)
    assert two.excluded == (14, 13, 11)


@pytest.mark.parametrize(
    ("name", "n", "options", "text"),
    [
        ("multi-krum", 8, {"f": 3}, r"f = 3 got n = 8 .*2f \+ 2 < n: set f to at most 2"),
        ("multi-krum", 8, {"m": 8}, r"m = 8 and f = 1 got n = 8 .*m <= n - f: set m to at most 7"),
        ("bulyan", 10, {"f": 2}, r"f = 2 got n = 10 .*4f \+ 3 <= n: set f to at most 1"),
        ("bulyan", 2, {"f": 0}, r"f = 0 got n = 2 .*4f \+ 3 <= n: choose another rule"),
        ("meamed", 6, {"f": 3}, r"f = 3 got n = 6 .*2f < n: set f to at most 2"),
    ],
)
def test_a_cohort_too_small_is_refused(name: str, n: int, options: dict[str, int], text: str) -> None:
    spec = SPECS[name]
    for ask in (
        lambda: spec.build(spec.config(**options)).admit(n),
        lambda: release(name, cohort(torch.randn(n, 3)), **options),
    ):
        with pytest.raises(ConfigError, match=rf"'{name}' with {text}"):
            ask()
    release(name, cohort(torch.randn(n + 3, 3)), **options)


@pytest.mark.parametrize("n", [7, 12])
def test_bulyan_leaves_its_input_and_itself_as_they_were(n: int) -> None:
    spec = SPECS["bulyan"]
    rule, rows = spec.build(spec.config(f=1)), torch.randn(n, 50)
    before, held, world = rows.clone(), copy.deepcopy(vars(rule)), torch.get_rng_state()
    first = rule.server_aggregate(cohort(rows), CTX).vector
    assert torch.equal(rule.server_aggregate(cohort(rows), CTX).vector, first)
    assert torch.equal(rows, before)
    assert vars(rule) == held
    assert torch.equal(torch.get_rng_state(), world)


ALL = [name for name in SPECS if SPECS[name].kind == "aggregators" and name != "mean"]


@pytest.mark.parametrize("name", [name for name in ALL if name != "monna"])  # mixed rows are no trusted client's
@pytest.mark.parametrize("n", [11, 40])
def test_mixed_rows_are_never_formed(name: str, n: int) -> None:
    rows = torch.randn(n, 30, dtype=torch.float64)
    mix = torch.rand(n, n, dtype=torch.float64) + 3 * torch.eye(n, dtype=torch.float64)
    mixed = cohort(rows).mixed(mix / mix.sum(1, keepdim=True))
    found = release(name, mixed).vector
    assert "rows" not in vars(mixed)
    torch.testing.assert_close(found, release(name, cohort(mixed.rows)).vector)
