"""Laws of aggregation rules: symmetry, equivariance, breakdown, agreement with the definition, honest signatures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_aggregation.network import comparators
from sparring_aggregation.order import mean_of_ranks
from sparring_aggregation.plugin import sparring_plugins
from torch import Tensor

from sparring.checker import walk
from sparring.cohort import Cohort
from sparring.context import Round, Wire
from sparring.errors import ConfigError
from sparring.facts import Clipped, PoissonSampled, Readable, Sensitivity, Space, Summable, Weighted
from sparring.keys import Key
from sparring.layout import Layout
from sparring.schema import validated
from sparring.signals import Release
from sparring.signature import Step
from sparring.sites import Site

SPECS = {spec.name: spec for spec in sparring_plugins() if spec.kind == "aggregators"}
CTX = Round(0, 1, Key(0), Wire(0, lambda stage, client: False))
FLAT = settings(max_examples=60, deadline=None)
BEARS: dict[str, Callable[[int], int]] = {
    "median": lambda n: (n - 1) // 2,
    "trimmed-mean": lambda n: (n - 1) // 2,
    "krum": lambda n: (n - 3) // 2,
}
"""The largest f that each rule bears."""


def options(name: str, f: int) -> dict[str, int]:
    return {"f": f} if name in ("krum", "trimmed-mean") else {}


def cohort(rows: Tensor, ids: tuple[int, ...] | None = None, weights: Tensor | None = None) -> Cohort:
    layout = Layout.build([("w", (rows.shape[1],), "parameter")])
    return Cohort(rows, layout, tuple(range(len(rows))) if ids is None else ids, weights)


def release(name: str, signal: Cohort, **config: object) -> Release:
    spec = SPECS[name]
    return spec.build(spec.config(**config)).server_aggregate(signal, CTX)


def aggregate(name: str, rows: Tensor, f: int = 0) -> Tensor:
    return release(name, cohort(rows), **options(name, f)).vector


def naive_median(rows: np.ndarray, f: int) -> np.ndarray:
    return np.median(rows, axis=0)


def naive_trimmed_mean(rows: np.ndarray, f: int) -> np.ndarray:
    return np.array([np.mean(sorted(column)[f : len(column) - f]) for column in rows.T])


def naive_krum(rows: np.ndarray, f: int) -> np.ndarray:
    scores = []
    for i, x in enumerate(rows):
        distances = sorted(float(((x - y) ** 2).sum()) for j, y in enumerate(rows) if j != i)
        scores.append(sum(distances[: len(rows) - f - 2]))
    return rows[int(np.argmin(scores))]


NAIVE = {"median": naive_median, "trimmed-mean": naive_trimmed_mean, "krum": naive_krum}


@st.composite
def cases(draw: st.DrawFn, name: str, largest: int = 40) -> tuple[Tensor, int]:
    """Gaussian rows [n, d] in float64 and an f that the rule bears."""
    n = draw(st.integers(4 if name == "krum" else 1, largest))
    d = draw(st.integers(1, 9))
    f = draw(st.integers(0, BEARS[name](n)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return torch.randn(n, d, generator=generator, dtype=torch.float64), f


EVERY = pytest.mark.parametrize("name", BEARS)


@EVERY
@given(data=st.data())
@FLAT
def test_agrees_with_its_definition(name: str, data: st.DataObject) -> None:
    rows, f = data.draw(cases(name))
    np.testing.assert_allclose(aggregate(name, rows, f).numpy(), NAIVE[name](rows.numpy(), f), rtol=1e-12, atol=1e-12)


def test_mean_is_moved_by_one_outlier_and_respects_weights() -> None:
    rows = torch.randn(10, 4)
    rows[3] = 1e6
    assert bool((aggregate("mean", rows) > 9e4).all())
    weights = torch.tensor([3.0, 1.0])
    made = release("mean", cohort(torch.tensor([[1.0], [5.0]]), weights=weights))
    assert made.vector.tolist() == [2.0]
    assert made.total == 4.0


@EVERY
@given(data=st.data())
@FLAT
def test_weights_are_not_respected_and_not_kept(name: str, data: st.DataObject) -> None:
    rows, f = data.draw(cases(name))
    weighted = cohort(rows, weights=torch.rand(len(rows)) + 0.1)
    assert torch.equal(release(name, weighted, **options(name, f)).vector, aggregate(name, rows, f))
    spec = SPECS[name]
    assert not spec.facts(spec.config()).survives(Weighted())


@given(data=st.data())
@FLAT
def test_beta_is_a_share_rounded_down(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    f = data.draw(st.integers(0, (n - 1) // 2))
    rows = torch.randn(n, 3)
    expected = release("trimmed-mean", cohort(rows), f=f).vector
    for beta in {f / n, min(0.4999, (f + 0.9) / n)}:
        if int(round(beta * n, 9)) == f and beta < 0.5:
            assert torch.equal(release("trimmed-mean", cohort(rows), beta=beta).vector, expected)


def test_beta_counts_exactly_where_floats_do_not() -> None:
    assert 0.29 * 100 < 29
    assert SPECS["trimmed-mean"].build(SPECS["trimmed-mean"].config(beta=0.29)).trimmed(100) == 29


@given(n=st.integers(1, 40), beta=st.floats(0, 0.5, exclude_max=True))
@FLAT
def test_any_beta_leaves_a_value(n: int, beta: float) -> None:
    rule = SPECS["trimmed-mean"].build(SPECS["trimmed-mean"].config(beta=beta))
    assert 2 * rule.trimmed(n) < n


@pytest.mark.parametrize(
    ("name", "n", "f", "text"),
    [
        ("trimmed-mean", 6, 3, r"f = 3 got n = 6 .*2f < n: set f to at most 2"),
        ("trimmed-mean", 1, 1, r"f = 1 got n = 1 .*2f < n: set f to at most 0"),
        ("krum", 8, 3, r"f = 3 got n = 8 .*2f \+ 2 < n: set f to at most 2"),
        ("krum", 2, 0, r"f = 0 got n = 2 .*2f \+ 2 < n: choose another rule"),
    ],
)
def test_a_cohort_too_small_for_f_is_refused(name: str, n: int, f: int, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{name}' with {text}"):
        aggregate(name, torch.randn(n, 3), f)
    aggregate(name, torch.randn(n + 3, 3), f)


def test_f_and_beta_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"f is 2 and beta is 0.2; set one of them"):
        validated(SPECS["trimmed-mean"].config, {"f": 2, "beta": 0.2}, "defences.trimmed-mean")


@pytest.mark.parametrize("name", ["mean", *BEARS])
def test_an_empty_cohort_gives_a_release_without_weight(name: str) -> None:
    made = release(name, cohort(torch.zeros(0, 5)))
    assert made.total == 0
    assert torch.equal(made.vector, torch.zeros(5))


@EVERY
@pytest.mark.parametrize("n", [9, 33])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_sight(name: str, n: int, value: float) -> None:
    rows = torch.randn(n, 5)
    rows[4, 2] = value
    assert not bool(aggregate(name, rows, 2)[2].isfinite())


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [7, 40])
def test_type_and_input_are_left_alone(name: str, dtype: torch.dtype, n: int) -> None:
    rows = torch.randn(n, 2000).to(dtype)
    before = rows.clone()
    out = aggregate(name, rows, 2)
    assert out.dtype == dtype
    assert torch.equal(rows, before)
    np.testing.assert_allclose(
        out.double(), NAIVE[name](rows.double().numpy(), 2), atol=0.02 if dtype == torch.bfloat16 else 1e-6
    )


def test_krum_names_whom_it_excludes_and_breaks_ties_by_id() -> None:
    rows = torch.tensor([[0.0], [0.1], [0.2], [9.0], [0.1]])
    made = release("krum", cohort(rows, ids=(14, 12, 13, 11, 10)), f=1)
    assert made.vector.item() == pytest.approx(0.1)
    assert made.excluded == (14, 12, 13, 11)
    assert (made.total, made.clients) == (1.0, 1)


@given(data=st.data())
@FLAT
def test_mixed_rows_give_what_materialised_rows_give(data: st.DataObject) -> None:
    for name in BEARS:
        rows, f = data.draw(cases(name, 12))
        mix = torch.rand(len(rows), len(rows), dtype=torch.float64)
        mixed = cohort(rows).mixed(mix / mix.sum(1, keepdim=True))
        made = release(name, mixed, **options(name, f))
        torch.testing.assert_close(made.vector, aggregate(name, mixed.rows, f))
        assert made.excluded == ()


@cache
def zero_one(n: int) -> Tensor:
    """Inputs [n, k] that prove a sorting network (zero-one principle); above 16 wires a sample of them."""
    if n <= 16:
        return torch.tensor([[(k >> i) & 1 for k in range(2**n)] for i in range(n)], dtype=torch.float32)
    return (torch.rand(n, 20_000) < torch.rand(20_000)).float()


@pytest.mark.parametrize("n", [*range(1, 13), 16, 17, 20, 31, 32])
def test_the_network_sorts(n: int) -> None:
    rows = zero_one(n).clone()
    for i, j in comparators(n):
        rows[i], rows[j] = torch.minimum(rows[i], rows[j]), torch.maximum(rows[i], rows[j])
    assert bool((rows.diff(dim=0) >= 0).all())


@pytest.mark.parametrize("n", [5, 33])
def test_chunks_join_without_a_seam(n: int) -> None:
    rows = torch.randn(n, (1 << 20) // n * 2 + 17)
    torch.testing.assert_close(mean_of_ranks(rows, 1, n - 1), rows.sort(0).values[1 : n - 1].mean(0))


def verdict(name: str, start: list[object], **config: object) -> object:
    spec = SPECS[name]
    return walk([Step(name, Site.AGGREGATE, spec.facts(spec.config(**config)))], start)  # type: ignore[arg-type]


@EVERY
def test_robust_rules_need_to_read_single_real_updates(name: str) -> None:
    reads, real = Readable("aggregator", "update", "client"), Space("real")
    assert verdict(name, [reads, real]).ok
    assert not verdict(name, [real]).ok
    assert not verdict(name, [reads, Space("ring")]).ok
    assert not verdict(name, [Readable("server", "update", "client"), real]).ok


@pytest.mark.parametrize("among", ["honest", "all"])
def test_mean_turns_clipping_into_sensitivity(among: str) -> None:
    start = [Summable(), Space("ring"), Weighted(), PoissonSampled("client", 0.1), Clipped("l2", "client", among, 1.5)]
    report = verdict("mean", start)
    assert report.ok
    assert report.facts == {Summable(), Space("ring"), Weighted(), PoissonSampled("client", 0.1), Sensitivity("client", 3.0)}
    assert not verdict("mean", [Space("logits")]).ok
    assert Sensitivity("client", 3.0) not in verdict("mean", [Summable(), Clipped("linf", "client", among, 1.5)]).facts


@given(data=st.data())
@FLAT
def test_the_declared_sensitivity_of_the_mean_holds_and_is_tight(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    rows = torch.randn(n, 4, dtype=torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True)
    weights = torch.rand(n, dtype=torch.float64) ** 8 + 1e-9
    full = release("mean", cohort(rows, weights=weights)).vector
    less = release("mean", cohort(rows[1:], weights=weights[1:])).vector
    assert float((full - less).norm()) <= 2 + 1e-9
    pair = torch.tensor([[1.0], [-1.0]])
    moved = release("mean", cohort(pair, weights=torch.tensor([1e6, 1.0]))).vector - pair[1]
    assert float(moved) > 1.99


def test_the_light_module_imports_no_torch() -> None:
    code = "import sys, sparring_aggregation.plugin as p; list(p.sparring_plugins()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
