"""Laws of pre-aggregators: agreement with the definition, laziness, what they do to robustness, ids, weights and bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_aggregation.plugin import sparring_plugins
from sparring_aggregation.robustness import worst_ratio
from torch import Tensor

from sparring import rowwise
from sparring.aggregate import WeightedMean
from sparring.checker import walk
from sparring.cohort import Cohort
from sparring.errors import ConfigError, NumericalError
from sparring.facts import Clipped, Identified, PoissonSampled, Readable, Sensitivity, Space, Summable, Weighted
from sparring.signature import Step
from sparring.sites import Site
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import make_layout, make_round

SPECS = {spec.name: spec for spec in sparring_plugins()}
FLAT = settings(max_examples=60, deadline=None)
LAYERS = ("nnm", "bucketing", "static-clip", "arc")
EVERY = pytest.mark.parametrize("name", LAYERS)
READS = (Readable("aggregator", "update", "client"), Space("real"))


def cohort(rows: Tensor, ids: tuple[int, ...] | None = None, weights: Tensor | None = None) -> Cohort:
    return Cohort(rows, make_layout(rows.shape[1]), tuple(range(len(rows))) if ids is None else ids, weights)


def behind(name: str, signal: Cohort, **config: float) -> Cohort:
    spec = SPECS[name]
    made: Cohort = spec.layers[0].build(spec.config(**config)).defence_transform(signal, make_round(name))
    return made


def release(name: str, signal: Cohort, f: int) -> Tensor:
    spec = SPECS[name]
    config = spec.config(f=f) if "f" in spec.config.model_fields else spec.config()
    vector: Tensor = spec.build(config).server_aggregate(signal, make_round()).vector
    return vector


@st.composite
def cases(draw: st.DrawFn, largest: int = 9) -> tuple[Tensor, int]:
    """Rows [n, d] of different lengths, in float64, and an f with 2f < n."""
    n, d = draw(st.integers(1, largest)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    rows = rows * 10 ** torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return rows, draw(st.integers(0, (n - 1) // 2))


@given(data=st.data())
@FLAT
def test_nnm_gives_the_mean_of_the_nearest_rows(data: st.DataObject) -> None:
    rows, f = data.draw(cases())
    n = len(rows)
    mixed = behind("nnm", cohort(rows), f=f)
    expected = torch.stack([rows[(rows - row).norm(dim=1).argsort()[: n - f]].mean(0) for row in rows])
    torch.testing.assert_close(mixed.rows, expected)
    torch.testing.assert_close(mixed.distances, torch.cdist(expected, expected).square(), rtol=1e-7, atol=1e-7)
    assert (mixed.ids, mixed.weights) == (None, None)


def test_nnm_breaks_ties_by_client_and_keeps_each_row_in_its_own_mean() -> None:
    """A line 0, 1, 2: the middle row lies as near to one end as to the other."""
    rows = torch.tensor([[0.0], [1.0], [2.0]])
    assert behind("nnm", cohort(rows, (5, 6, 7)), f=1).rows.tolist() == [[0.5], [0.5], [1.5]]
    assert behind("nnm", cohort(rows, (7, 6, 5)), f=1).rows.tolist() == [[1.5], [1.5], [0.5]]


@EVERY
@given(data=st.data())
@FLAT
def test_the_order_in_which_clients_arrive_changes_nothing(name: str, data: st.DataObject) -> None:
    rows, f = data.draw(cases())
    rows = rows.sign() if data.draw(st.booleans()) else rows
    order = data.draw(st.permutations(range(len(rows))))
    config = {"nnm": {"f": f}, "arc": {"f": f}, "bucketing": {"s": 2}, "static-clip": {"bound": 1.0}}[name]
    made = behind(name, cohort(rows), **config)
    again = behind(name, cohort(rows[order], tuple(order)), **config)
    back = again.rows if again.ids is None else again.rows[torch.tensor(again.ids).argsort()]
    torch.testing.assert_close(back, made.rows)


@given(data=st.data())
@FLAT
def test_buckets_part_the_clients_and_keep_their_mean(data: st.DataObject) -> None:
    n, s = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 14))
    made = behind("bucketing", cohort(torch.eye(n, dtype=torch.float64)), s=s).rows
    assert len(made) == -(-n // s)
    sizes = (made > 0).sum(dim=1)
    assert sizes.tolist() == [s] * (n // s) + ([n % s] if n % s else [])
    torch.testing.assert_close(sizes.double() @ made, torch.ones(n, dtype=torch.float64))


def test_buckets_are_drawn_anew_in_each_round() -> None:
    spec, own = SPECS["bucketing"], cohort(torch.eye(12))
    layer = spec.layers[0].build(spec.config(s=3))
    first, again, next_ = (layer.defence_transform(own, make_round("bucketing", index=k)).rows for k in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, next_)


def test_every_client_is_as_likely_to_share_a_bucket_as_any_other() -> None:
    """Of 6 clients in buckets of 2, each of the 15 pairs meets with probability 1/5: 400 rounds, five standard errors."""
    spec, own, rounds = SPECS["bucketing"], cohort(torch.eye(6)), 400
    layer = spec.layers[0].build(spec.config(s=2))
    met = sum((2 * m).T @ (2 * m) for m in (layer.defence_transform(own, make_round("b", index=k)).rows for k in range(rounds)))
    share = met[~torch.eye(6, dtype=torch.bool)] / rounds
    assert float((share - 0.2).abs().max()) < 5 * (0.2 * 0.8 / rounds) ** 0.5


@given(data=st.data(), bound=st.floats(1e-3, 1e3))
@FLAT
def test_static_clip_scales_what_is_longer_and_nothing_else(data: st.DataObject, bound: float) -> None:
    rows, _ = data.draw(cases())
    rows[0] = 0
    weights = torch.rand(len(rows))
    made = behind("static-clip", cohort(rows, weights=weights), bound=bound)
    norms = rows.norm(dim=1)
    torch.testing.assert_close(made.rows, rows * (bound / norms.clamp(min=bound))[:, None])
    assert torch.equal(made.rows[norms <= bound], rows[norms <= bound])
    assert bool((made.rows.norm(dim=1) <= bound).all())
    assert made.ids == tuple(range(len(rows)))
    assert made.weights is weights


@given(data=st.data())
@FLAT
def test_arc_clips_the_longest_rows_to_the_next(data: st.DataObject) -> None:
    rows, f = data.draw(cases())
    n = len(rows)
    made = behind("arc", cohort(rows), f=f).rows
    k = int(2 * f * (n - f) / n + 1e-9)
    norms = rows.norm(dim=1)
    C = norms.sort(descending=True).values[k]
    torch.testing.assert_close(made, rows * (C / norms.clamp(min=float(C)))[:, None])
    assert int((made.norm(dim=1) < norms * (1 - 1e-12)).sum()) <= k


@given(n=st.integers(1, 60), data=st.data())
@FLAT
def test_arc_never_clips_to_a_byzantine_norm(n: int, data: st.DataObject) -> None:
    """k is at least f while 2f < n: with f rows longer than all others, the bound is the norm of an honest row."""
    f = data.draw(st.integers(0, (n - 1) // 2))
    rows = torch.rand(n, 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64) + 0.5
    rows[:f] *= 1e9
    assert float(behind("arc", cohort(rows), f=f).norms.max()) <= 1.5


@pytest.mark.parametrize("name", ["static-clip", "arc"])
def test_where_no_row_is_clipped_the_cohort_is_handed_on(name: str) -> None:
    own = cohort(torch.ones(4, 3))
    assert behind(name, own) is own if name == "arc" else behind(name, own, bound=2.0) is own


@pytest.mark.parametrize("name", ["static-clip", "arc"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_is_not_clipped_but_refused(name: str, value: float) -> None:
    rows = torch.randn(5, 3)
    rows[3, 1] = value
    with pytest.raises(NumericalError, match=rf"'{name}': the update of client 13 holds NaN or Inf"):
        behind(name, cohort(rows, (10, 11, 12, 13, 14)))


@pytest.mark.parametrize("name", ["nnm", "arc"])
@pytest.mark.parametrize(("n", "f"), [(1, 1), (6, 3), (4, 4)])
def test_a_cohort_too_small_for_f_is_refused(name: str, n: int, f: int) -> None:
    with pytest.raises(ConfigError, match=rf"'{name}' with f = {f} got n = {n} .*2f < n: set f to at most {(n - 1) // 2}"):
        behind(name, cohort(torch.randn(n, 3)), f=f)
    behind(name, cohort(torch.randn(2 * f + 1, 3)), f=f)


@EVERY
def test_of_nobody_comes_nobody(name: str) -> None:
    assert len(behind(name, cohort(torch.zeros(0, 3)))) == 0


def test_layers_pass_over_the_data_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """ARC, NNM and buckets before Krum: rows are measured once about the origin, once about one of them, and never formed."""
    about: list[str] = []
    whole = rowwise.products

    def counted(rows: Tensor, origin: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        about.append("zero" if origin is None else "a row")
        return whole(rows, origin, dtype)

    monkeypatch.setattr(rowwise, "products", counted)
    monkeypatch.setattr(Cohort, "rows", property(lambda self: pytest.fail("rows were formed")))
    own = cohort(torch.randn(12, 50) * torch.rand(12, 1))
    mixed = behind("bucketing", behind("nnm", behind("arc", own, f=2), f=2), s=2)
    release("krum", mixed, 1)
    assert sorted(about) == ["a row", "zero"]


KAPPA: dict[str, Callable[[int, int], float]] = {
    "median": lambda n, f: 4 * (1 + f / (n - 2 * f)) ** 2,
    "trimmed-mean": lambda n, f: 6 * f / (n - 2 * f) * (1 + f / (n - 2 * f)),
    "krum": lambda n, f: 6 * (1 + f / (n - 2 * f)),
    "smea": lambda n, f: 4 * f / (n - f) * (1 + f / (n - 2 * f)) ** 2,
}
"""Published kappa: Allouah et al., AISTATS 2023, and for SMEA ICML 2023 (there of the top eigenvalue, which is no larger)."""


@pytest.mark.parametrize(("n", "f"), [(5, 1), (7, 2)])
@pytest.mark.parametrize("name", KAPPA)
def test_a_rule_behind_a_layer_is_as_robust_as_published(name: str, n: int, f: int) -> None:
    """For every S that a search finds: kappa itself, 8 f / (n - f) (kappa + 1) behind NNM, kappa + 2f / (n - 2f) behind ARC."""
    kappa = KAPPA[name](n, f)
    assert worst_ratio(lambda rows: release(name, cohort(rows), f), n, f) <= kappa
    mixed = worst_ratio(lambda rows: release(name, behind("nnm", cohort(rows), f=f), f), n, f)
    assert mixed <= 8 * f / (n - f) * (kappa + 1)
    clipped = worst_ratio(lambda rows: release(name, behind("arc", cohort(rows), f=f), f), n, f)
    assert clipped <= kappa + 2 * f / (n - 2 * f)


def test_the_search_finds_what_breaks_a_rule_that_is_not_robust() -> None:
    found = worst_ratio(lambda rows: release("mean", cohort(rows), 0), 7, 2)
    assert found > 8 * 2 / 5 * (KAPPA["median"](7, 2) + 1)


def facts(name: str, start: list[object], *then: str) -> object:
    steps = [Step(n, Site.COHORT, SPECS[n].layers[0].facts(SPECS[n].config())) for n in (name,)]
    steps += [Step(n, Site.AGGREGATE, SPECS[n].facts(SPECS[n].config())) for n in then]
    return walk(steps, start)  # type: ignore[arg-type]


HELD = (*READS, Summable(), Weighted(), Identified(), PoissonSampled("client", 0.1))


@pytest.mark.parametrize("name", ["nnm", "bucketing"])
def test_mixed_rows_are_no_clients_and_have_no_weights(name: str) -> None:
    report = facts(name, [*HELD, Clipped("l2", "client", "all", 1.0)])
    assert report.ok
    assert report.facts == {*READS, Summable(), PoissonSampled("client", 0.1)}
    assert facts(name, list(HELD), "krum").ok


@pytest.mark.parametrize("name", ["static-clip", "arc"])
def test_scaled_rows_stay_with_their_clients(name: str) -> None:
    report = facts(name, list(HELD))
    assert report.ok
    assert set(HELD) <= report.facts
    clipped = [fact for fact in report.facts if isinstance(fact, Clipped)]
    assert bool(clipped) == (name == "static-clip")


def test_static_clip_bounds_what_one_client_can_do_to_the_mean() -> None:
    report = facts("static-clip", list(HELD), "mean")
    assert Sensitivity("client", 2.0) in report.facts
    assert not facts("static-clip", [fact for fact in HELD if fact != Identified()]).ok
    rows = torch.randn(6, 4, dtype=torch.float64)
    lying = rows.clone()
    lying[0] = -1e9
    pair = (behind("static-clip", cohort(r), bound=0.5) for r in (rows, lying))
    first, second = (WeightedMean().server_aggregate(c, make_round()).vector for c in pair)
    assert float((first - second).norm()) <= 2 * 0.5 / 6 + 1e-9


@pytest.mark.parametrize("stack", ["nnm krum", "bucketing median", "static-clip mean", "arc nnm trimmed-mean"])
def test_whole_runs_learn_behind_each_layer(stack: str) -> None:
    assert (outcome(defences=stack.split()).accuracy or 0) > 0.8
