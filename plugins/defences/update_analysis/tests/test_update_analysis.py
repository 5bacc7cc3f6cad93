"""Laws of the analyses: what becomes of rows, weights and verdicts, at the edges and over rounds; honest signatures."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_update_analysis.judging import along, columns, cosines, parameters
from sparring_update_analysis.plugin import sparring_plugins
from torch import Tensor

from sparring.aggregate import WeightedMean
from sparring.checker import Report, walk
from sparring.defaults import averaging
from sparring.errors import ConfigError, NumericalError
from sparring.facts import (
    Clipped,
    Fact,
    Identified,
    Judged,
    PoissonSampled,
    PublicData,
    Readable,
    Sensitivity,
    Space,
    Summable,
    Weighted,
)
from sparring.layout import Layout
from sparring.schema import File, validated
from sparring.signals import Cohort, Examples
from sparring.signature import Step
from sparring.sites import Site
from sparring.testing.fixtures import make_layout, make_round, tiny_lab, tiny_layout, tiny_public
from sparring.verdicts import Verdict

SPECS: dict[str, Any] = {spec.name: spec for spec in sparring_plugins()}
OWN = ["norm-bound", "foolsgold", "fltrust", "dnc", "signguard", "sattler-clustering", "clipped-clustering", "reputation"]
FILTERS = ["dnc", "signguard", "sattler-clustering", "clipped-clustering", "reputation"]
FLAT = settings(max_examples=30, deadline=None)


def build(name: str, **options: Any) -> Any:
    (layer,) = SPECS[name].layers
    return layer.build(SPECS[name].config(**options))


def signature(name: str, **options: Any) -> Any:
    spec = SPECS[name]
    return (spec.layers[0] if spec.kind == "defences" else spec).facts(spec.config(**options))


def cohort(rows: Tensor, ids: tuple[int, ...] | None = None, layout: Layout | None = None) -> Cohort:
    clients = tuple(range(20, 20 + len(rows))) if ids is None else ids
    weights = torch.arange(1, len(rows) + 1, dtype=rows.dtype)
    return Cohort(rows, layout or make_layout(rows.shape[1]), clients, weights, sources=clients)


def context(name: str = "layer", **grants: Any) -> Any:
    return replace(make_round(name), **grants)


def rooted(public: Examples | None = None) -> Any:
    lab = tiny_lab()
    row = lab.layout.row(lab.plan.factory())
    return context("fltrust", lab=lab.called("fltrust"), parameters=row, public=tiny_public() if public is None else public)


def drawn(n: int, columns: int = 30, seed: int = 0) -> Tensor:
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def played(name: str, signal: Cohort, **options: Any) -> Cohort:
    made: Cohort = build(name, **options).defence_transform(signal, rooted() if name == "fltrust" else context(name))
    return made


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_rows_are_never_copied_and_every_client_is_judged(name: str, n: int) -> None:
    signal = cohort(drawn(n, tiny_layout().size), layout=tiny_layout())
    before = signal.base.clone()
    if name == "dnc" and n == 1:
        with pytest.raises(ConfigError, match=r"'dnc' with c = 1 and f = 1 leaves 1 rows out, and got n = 1; .*lower f"):
            played(name, signal)
        return
    after = played(name, signal)
    assert after.base is signal.base
    assert torch.equal(signal.base, before)
    if n:
        (verdict,) = after.verdicts
        assert set(verdict.suspicion) == set(signal.ids or ())
        assert set(signal.ids or ()) - set(after.ids or ()) <= verdict.flagged
    else:
        assert len(after) == 0


@pytest.mark.parametrize("name", ["sattler-clustering", "clipped-clustering", "signguard"])
@pytest.mark.parametrize("n", [1, 2])
def test_without_a_majority_nobody_is_left_out(name: str, n: int) -> None:
    rows = drawn(n)
    assert len(played(name, cohort(rows / rows.norm(dim=1, keepdim=True)))) == n


@pytest.mark.parametrize("name", ["sattler-clustering", "clipped-clustering"])
def test_of_two_equal_clusters_both_stay_and_of_unequal_ones_the_larger(name: str) -> None:
    row = drawn(1)
    sides = torch.tensor([1.0, 1, -1, -1], dtype=torch.float64)[:, None]
    assert len(played(name, cohort(sides * row))) == 4
    after = played(name, cohort(torch.cat([sides * row, row])))
    assert after.ids == (20, 21, 24)
    assert after.verdicts[0].flagged == {22, 23}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_keeps_the_weights_of_those_that_stay(name: str) -> None:
    signal = cohort(drawn(9))
    after = played(name, signal)
    assert after.weights is not None
    held = dict(zip(signal.ids or (), (signal.weights if signal.weights is not None else torch.zeros(0)).tolist(), strict=True))
    assert [held[i] for i in after.ids or ()] == after.weights.tolist()
    assert signature(name).survives(Weighted())


@pytest.mark.parametrize("name", ["foolsgold", "fltrust"])
def test_weighing_loses_weighted_and_excluding_keeps_it(name: str) -> None:
    rows = drawn(6, tiny_layout().size)
    rows[1] = rows[0]
    signal = cohort(rows, layout=tiny_layout())
    assert not signature(name).survives(Weighted())
    assert signature(name, exclude=True).survives(Weighted())
    weighed, filtered = played(name, signal), played(name, signal, exclude=True)
    assert weighed.ids == filtered.ids
    assert weighed.verdicts == filtered.verdicts
    assert 0 < len(filtered) < 6
    kept = torch.tensor([i - 20 for i in filtered.ids or ()])
    assert torch.equal(filtered.rows, rows[kept])
    assert filtered.weights is not None
    assert weighed.weights is not None
    assert filtered.weights.tolist() == (kept + 1).tolist()
    torch.testing.assert_close(
        weighed.weights, torch.tensor([trust(weighed, name, i) for i in weighed.ids or ()], dtype=torch.float64)
    )


def trust(after: Cohort, name: str, client: int) -> float:
    suspicion = after.verdicts[0].suspicion[client]
    return 1 - suspicion if name == "foolsgold" else -suspicion


@given(n=st.integers(1, 9), bound=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
@FLAT
def test_norm_bound_shortens_the_long_and_leaves_the_others(n: int, bound: float, seed: int) -> None:
    rows = drawn(n, seed=seed) * torch.logspace(-3, 3, n, dtype=torch.float64)[:, None]
    signal = cohort(rows)
    for limit, after in ((bound, played("norm-bound", signal, bound=bound)), (median(rows), played("norm-bound", signal))):
        factor = (limit / rows.norm(dim=1)).clamp(max=1)
        torch.testing.assert_close(after.rows, rows * factor[:, None])
        assert bool((after.rows.norm(dim=1) <= limit * (1 + 1e-14)).all())
        assert torch.equal(after.rows[factor == 1], rows[factor == 1])
        assert not after.verdicts[0].flagged
    assert Clipped("l2", "client", bound=bound) in signature("norm-bound", bound=bound).gives
    assert not any(isinstance(fact, Clipped) for fact in signature("norm-bound").gives)


def median(rows: Tensor) -> float:
    return float(rows.norm(dim=1).quantile(0.5))


def test_bound_and_factor_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bound is 2.0 and factor is 3.0; set one of them"):
        validated(SPECS["norm-bound"].config, {"bound": 2.0, "factor": 3.0}, "defences.norm-bound")


@pytest.mark.parametrize("name", OWN)
def test_buffers_are_not_judged(name: str) -> None:
    parts: Any = [("w", (20,), "parameter"), ("running", (10,), "buffer")]
    if name == "fltrust":
        return
    rows = drawn(8)
    wild = rows.clone()
    wild[:, 20:] = 1e3 * drawn(8, 10, seed=1)
    layout = Layout.build(parts)
    one, other = (played(name, cohort(x, layout=layout)) for x in (rows, wild))
    assert one.ids == other.ids
    assert one.verdicts[0].flagged == other.verdicts[0].flagged
    assert one.verdicts[0].suspicion == pytest.approx(other.verdicts[0].suspicion, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["norm-bound", "dnc", "signguard", "sattler-clustering", "clipped-clustering"])
def test_of_mixed_rows_the_clients_behind_them_are_judged(name: str) -> None:
    rows = drawn(8)
    mix = torch.eye(4, dtype=torch.float64).repeat_interleave(2, dim=1) / 2
    after = played(name, cohort(rows).mixed(mix))
    (verdict,) = after.verdicts
    assert set(verdict.suspicion) == set(range(20, 28))
    assert all(verdict.suspicion[20 + 2 * k] == verdict.suspicion[21 + 2 * k] for k in range(4))
    plain = played(name, cohort(mix @ rows, ids=tuple(range(4))))
    assert {i for k in plain.verdicts[0].flagged for i in (20 + 2 * k, 21 + 2 * k)} == verdict.flagged
    torch.testing.assert_close(after.rows, plain.rows)


@pytest.mark.parametrize("name", [name for name in OWN if name not in ("reputation", "fltrust")])
def test_a_row_that_is_not_finite_is_named(name: str) -> None:
    rows = drawn(5)
    rows[3, 2] = torch.nan
    with pytest.raises(NumericalError, match=rf"'{name}': the update of client 23 holds NaN"):
        played(name, cohort(rows))


def test_a_zero_row_has_cosine_0_with_every_row() -> None:
    rows = torch.cat([torch.zeros(1, 4), torch.ones(2, 4)]).double()
    found = cosines(rows @ rows.T)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=torch.float64))


def test_views_of_a_cohort_read_the_rows_that_it_stands_for() -> None:
    signal = cohort(drawn(6)).scaled(torch.arange(6.0)).select(torch.tensor([4, 1, 2]))
    vector, index = drawn(1)[0], torch.tensor([3, 29, 0])
    torch.testing.assert_close(along(signal, vector), signal.rows @ vector)
    torch.testing.assert_close(torch.cat(list(columns(signal, index)), dim=1), signal.rows[:, index])
    torch.testing.assert_close(parameters(signal, 7).rows, signal.rows[:, 7:])


def test_foolsgold_remembers_clients_that_are_not_sampled() -> None:
    made, rows = build("foolsgold"), drawn(4)
    for ids in ((1, 2, 3, 4), (1, 2), (3, 4)):
        made.defence_transform(cohort(rows[[i - 1 for i in ids]], ids=ids), context())
    assert set(made.state()) == {"1", "2", "3", "4"}
    torch.testing.assert_close(made.state()["3"], 2 * rows[2])
    again = build("foolsgold")
    again.restore(made.state())
    one, other = (m.defence_transform(cohort(rows, ids=(1, 2, 3, 4)), context()) for m in (made, again))
    assert one.verdicts == other.verdicts


def test_foolsgold_may_look_at_the_output_layer_alone() -> None:
    layout = tiny_layout()
    start = next(s.start for s in layout.segments if s.shape == (4, 32))
    rows = drawn(5, layout.size)
    rows[1, start:] = rows[0, start:]
    signal = cohort(rows, layout=layout)
    assert played("foolsgold", signal, features="output").verdicts[0].flagged == {20, 21}
    assert not played("foolsgold", signal).verdicts[0].flagged


def test_where_all_are_alike_nobody_is_more_so_and_one_who_differs_is_trusted_alone() -> None:
    scales = torch.tensor([1.0, 3, 0.1, 7])[:, None]
    after = played("foolsgold", cohort(scales * drawn(1).float()))
    assert not after.verdicts[0].flagged
    assert after.weights is not None
    assert after.weights.tolist() == [1, 1, 1, 1]
    assert played("foolsgold", cohort(torch.cat([scales * drawn(1).float(), drawn(1, seed=1).float()]))).ids == (24,)


@given(n=st.integers(1, 6), seed=st.integers(0, 99))
@FLAT
def test_fltrust_weighs_and_scales_as_the_paper_says(n: int, seed: int) -> None:
    ctx = rooted()
    g0 = ctx.lab.update(ctx.parameters, tiny_public(), ctx.index).double()
    rows = drawn(n, tiny_layout().size, seed)
    after = build("fltrust").defence_transform(cohort(rows, layout=tiny_layout()), ctx)
    score = (rows @ g0 / (rows.norm(dim=1) * g0.norm())).clamp(min=0)
    assert after.ids == tuple(20 + i for i in range(n) if score[i] > 0)
    if len(after):
        expected = (score[:, None] * rows * (g0.norm() / rows.norm(dim=1))[:, None]).sum(0) / score.sum()
        torch.testing.assert_close(WeightedMean().server_aggregate(after, ctx).vector, expected)


def test_where_no_client_is_trusted_the_round_releases_nothing_and_the_verdict_counts() -> None:
    ctx = rooted()
    g0 = ctx.lab.update(ctx.parameters, tiny_public(), ctx.index)
    after = build("fltrust").defence_transform(cohort(-g0.expand(3, -1).clone(), layout=tiny_layout()), ctx)
    assert after.verdicts[0].flagged == {20, 21, 22}
    assert WeightedMean().server_aggregate(after, ctx).total == 0
    still = replace(ctx, public=ctx.public.take(torch.arange(0)))
    with pytest.raises(ConfigError, match=r"'fltrust' needs root examples, and the data set offers no public data"):
        build("fltrust").defence_transform(cohort(drawn(2, tiny_layout().size), layout=tiny_layout()), still)
    with pytest.raises(ConfigError, match=r"rows of 30 numbers, and the model has 2212"):
        build("fltrust").defence_transform(cohort(drawn(2)), ctx)


def judged(rows: Cohort, *flagged: set[int]) -> Cohort:
    for k, guilty in enumerate(flagged):
        rows = rows.judged(Verdict(f"a{k}", {c: 0.0 for c in rows.ids or ()}, frozenset(guilty)))
    return rows


@given(rounds=st.lists(st.sets(st.integers(20, 23)), max_size=12), b=st.floats(0, 0.99), floor=st.floats(0, 1))
@FLAT
def test_reputation_is_the_exponential_mean_of_verdicts(rounds: list[set[int]], b: float, floor: float) -> None:
    made, record = build("reputation", memory=b, floor=floor), dict.fromkeys(range(20, 24), 1.0)
    for guilty in rounds:
        after = made.defence_transform(judged(cohort(drawn(4)), guilty, set()), context())
        record = {c: b * r + (1 - b) * (1 - (c in guilty) / 2) for c, r in record.items()}
        assert made.record == pytest.approx(record)
        assert set(after.ids or ()) == {c for c in record if made.record[c] >= floor}


def test_reputation_books_those_left_out_before_it_and_keeps_those_not_sampled() -> None:
    made, rows = build("reputation", memory=0.5), cohort(drawn(4))
    seen = judged(rows, {20}).select(torch.tensor([1, 2, 3]))
    after = made.defence_transform(seen, context())
    assert made.record == {20: 0.5, 21: 1.0, 22: 1.0, 23: 1.0}
    assert set(after.verdicts[-1].suspicion) == {21, 22, 23}
    made.defence_transform(judged(rows.select(torch.tensor([1])), {21}), context())
    assert made.record == {20: 0.5, 21: 0.5, 22: 1.0, 23: 1.0}
    for _ in range(2):
        after = made.defence_transform(judged(rows, {20, 21, 22, 23}), context())
    assert len(after) == 0
    made.defence_transform(judged(rows), context())
    assert made.record[20] == 0.125


def test_whoever_is_new_must_be_let_in() -> None:
    with pytest.raises(ConfigError, match=r"start is 0.3 and floor is 0.5; start must be at least floor"):
        validated(SPECS["reputation"].config, {"start": 0.3}, "defences.reputation")


def test_rlr_refuses_cohorts_that_cannot_agree_and_averages_buffers() -> None:
    spec = SPECS["rlr"]
    with pytest.raises(ConfigError, match=r"'rlr' with theta = 4 got n = 3 updates; it needs theta <= n: lower theta"):
        spec.build(spec.config()).server_aggregate(cohort(drawn(3)), context())
    layout = Layout.build([("w", (2,), "parameter"), ("running", (1,), "buffer")])
    rows = torch.tensor([[1.0, 1, 5], [1, -1, -5], [1, 1, 6], [1, -1, -6]])
    found = spec.build(spec.config(theta=2)).server_aggregate(cohort(rows, layout=layout), context())
    torch.testing.assert_close(found.vector, torch.tensor([1.0, 0.2, -1.1]))
    clean = WeightedMean().server_aggregate(cohort(rows, layout=layout), context()).vector
    torch.testing.assert_close(found.vector, clean * torch.tensor([1.0, -1, 1]))


def verdict(names: list[str], start: list[Fact]) -> Report:
    return walk([Step(name, Site.COHORT, signature(name)) for name in names], start)


def federation(anonymous: bool) -> list[Fact]:
    file = File.model_validate(
        {"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "threat_model": {"anonymous": anonymous}}
    )
    return [Readable("aggregator", "update", "client"), PublicData(), *averaging(file).gives]


@pytest.mark.parametrize("names", [["foolsgold"], ["dnc", "reputation"]])
def test_records_over_rounds_are_refused_where_contributions_carry_no_identity(names: list[str]) -> None:
    assert verdict(names, federation(False)).ok
    report = verdict(names, federation(True))
    assert not report.ok
    assert [(report.steps[m.step].name, m.clause) for m in report.missing] == [(names[-1], (Identified(),))]


@pytest.mark.parametrize("name", ["norm-bound", "fltrust", "dnc", "signguard", "sattler-clustering", "clipped-clustering"])
def test_the_others_need_no_identity(name: str) -> None:
    assert verdict([name], federation(True)).ok
    assert not verdict([name], [fact for fact in federation(True) if not isinstance(fact, Readable)]).ok


def test_reputation_needs_an_analysis_before_it() -> None:
    report = verdict(["reputation"], federation(False))
    assert [m.clause for m in report.missing] == [(Judged(),)]
    assert verdict(["norm-bound", "foolsgold", "reputation"], federation(False)).ok


@pytest.mark.parametrize("name", OWN)
def test_analyses_give_judged_and_keep_what_is_still_true(name: str) -> None:
    given = signature(name)
    assert Judged() in given.gives
    assert all(given.survives(fact) for fact in (Summable(), Identified(), Judged(), Space("real")))
    assert not given.survives(Sensitivity("client", 1.0))


@pytest.mark.parametrize("name", OWN)
def test_bounds_survive_only_where_somebody_always_stays_and_nothing_is_remembered(name: str) -> None:
    bounds = (Clipped("l2", "client", "all", 1.0), PoissonSampled("client", 0.1))
    kept = [signature(name).survives(fact) for fact in bounds]
    assert kept == [name in ("norm-bound", "dnc", "sattler-clustering")] * 2
    assert not signature("dnc", iterations=2).survives(bounds[0])
    assert all(signature(name).survives(PoissonSampled("example", 0.1)) for name in OWN)


def test_rlr_turns_clipping_into_sensitivity_and_loses_weighted() -> None:
    start = [*federation(False), Clipped("l2", "client", "all", 1.5)]
    report = walk([Step("rlr", Site.AGGREGATE, signature("rlr"))], start)
    assert report.ok
    assert Sensitivity("client", 3.0) in report.facts
    assert Weighted() not in report.facts


def test_the_light_modules_import_no_torch() -> None:
    code = "import sys, sparring_update_analysis.plugin as p; list(p.sparring_plugins()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
