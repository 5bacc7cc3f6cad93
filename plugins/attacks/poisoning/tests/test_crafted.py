"""Laws of crafted updates: closed forms, constraints, knowledge, order, and what they do to the rules that they are for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_poisoning.fang import median, trimmed_mean
from sparring_poisoning.fang_krum import Search, krum
from sparring_poisoning.mimic import Mimic
from sparring_poisoning.perturbation import min_max_gamma, min_sum_gamma, perturbation
from sparring_poisoning.plugin import sparring_plugins
from sparring_poisoning.plugin_crafted import MimicConfig
from sparring_poisoning.rehearsal import maximise, rehearse, stand_ins
from sparring_poisoning.seen import seen
from torch import Tensor

from sparring.checker import walk
from sparring.context import Round
from sparring.errors import ConfigError
from sparring.facts import Controls, Fact, Knows, Sensitivity
from sparring.layout import Layout
from sparring.run import Outcome
from sparring.signals import Cohort, Release, Updates
from sparring.signature import Step
from sparring.sites import Site
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import make_round

SPECS = {spec.name: spec for spec in sparring_plugins()}
CRAFTED = [name for name, spec in SPECS.items() if "knowledge" in spec.config.model_fields]
RULED = ["opt-ipm", "opt-alie", "agr-tailored"]
DRAWN = ["fang-trimmed-mean", "fang-median"]
KNOWLEDGE = ["own", "benign"]
Rule = Callable[[Tensor], Tensor]


def updates(rows: Tensor, first: int = 0, buffers: int = 0) -> Updates:
    layout = Layout.build([("w", (rows.shape[1] - buffers,), "parameter"), ("running", (buffers,), "buffer")])
    return Updates(rows, layout, tuple(range(first, first + len(rows))), torch.ones(len(rows), dtype=rows.dtype))


def released(rule: Rule) -> Callable[[Cohort], Release]:
    """A server that excludes whoever did not send what it releases, if somebody did."""

    def release(cohort: Cohort) -> Release:
        vector = rule(cohort.rows)
        chosen = (cohort.rows == vector).all(dim=1).tolist()
        left_out = tuple(i for i, mine in zip(cohort.sources, chosen, strict=True) if any(chosen) and not mine)
        return Release(vector, cohort.layout, 1.0, 1, left_out)

    return release


def scene(
    m: int, honest: int, p: int = 300, seed: int = 0, rule: Rule | None = None, buffers: int = 0
) -> tuple[Updates, Round]:
    """Own updates of clients 0 to m - 1 and the round of the honest ones: N(0, 1) about a common direction."""
    generator = torch.Generator().manual_seed(seed)
    common = 0.5 * torch.randn(p, generator=generator, dtype=torch.float64)
    rows = common + torch.randn(m + honest, p, generator=generator, dtype=torch.float64)
    own, others = updates(rows[:m], 0, buffers), updates(rows[m:], m, buffers)
    ctx = make_round("attack", cohort=range(m + honest))
    server = released(rule or (lambda rows: rows.mean(0)))
    return own, replace(ctx, honest=others, benign=others.rows, aggregate=server)


def attacked(name: str, signal: Updates, ctx: Round, **options: object) -> Updates:
    (layer,) = SPECS[name].layers
    return layer.build(SPECS[name].config(**options)).attack_transform(signal, ctx)


def aggregated(rule: Rule, sent: Tensor, ctx: Round) -> Tensor:
    assert ctx.honest is not None
    return rule(torch.cat([sent, ctx.honest.rows]))


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize("name", CRAFTED)
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_every_crafted_attack_keeps_form_and_buffers(name: str, knowledge: str, m: int) -> None:
    own, ctx = scene(m, 5, 12, buffers=3)
    before = own.rows.clone()
    sent = attacked(name, own, ctx, knowledge=knowledge)
    assert (sent.ids, sent.layout, sent.rows.shape, sent.rows.dtype) == (own.ids, own.layout, own.rows.shape, own.rows.dtype)
    assert torch.equal(sent.rows[:, 9:], own.rows[:, 9:])
    assert torch.equal(own.rows, before)
    assert bool(sent.rows.isfinite().all())
    if name not in DRAWN:
        assert torch.equal(sent.params, sent.params[:1].expand(m, -1))
        sent.rows[0] += 1
        assert m == 1 or torch.equal(sent.params[1], sent.params[-1])


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize("name", CRAFTED)
def test_without_clients_or_without_honest_ones(name: str, knowledge: str) -> None:
    own, ctx = scene(3, 5, 12)
    nobody = own.select([])
    assert attacked(name, nobody, ctx, knowledge=knowledge) is nobody
    honest = ctx.honest
    assert honest is not None
    alone = replace(ctx, cohort=own.ids, honest=honest.select([]), benign=honest.rows[:0])
    kept = attacked(name, own, alone, knowledge=knowledge)
    assert bool(kept.rows.isfinite().all())
    assert torch.equal(kept.rows, attacked(name, own, alone, knowledge="own").rows)


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize("name", CRAFTED)
@pytest.mark.parametrize("fill", ["zero", "equal"])
def test_rows_that_are_zero_or_equal_are_no_division_by_zero(name: str, knowledge: str, fill: str) -> None:
    own, ctx = scene(3, 5, 12, rule=lambda rows: krum(rows, 3))
    row = own.rows[0] * (fill == "equal")
    honest = replace(ctx.honest, rows=row.expand(5, -1)) if ctx.honest else None
    signal = own.with_params(row.expand(3, -1).clone())
    sent = attacked(name, signal, replace(ctx, honest=honest), knowledge=knowledge)
    assert bool(sent.rows.isfinite().all())
    if name in ("min-max", "min-sum", "alie", "mimic"):
        torch.testing.assert_close(sent.rows, signal.rows)


@pytest.mark.parametrize("name", CRAFTED)
@given(data=st.data(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_another_order_of_clients_gives_the_same_rows_in_that_order(name: str, data: st.DataObject, seed: int) -> None:
    knowledge = data.draw(st.sampled_from(KNOWLEDGE))
    own, ctx = scene(4, 6, 20, seed)
    order = data.draw(st.permutations(own.ids))
    assert ctx.honest is not None
    others = ctx.honest.select(data.draw(st.permutations(ctx.honest.ids)))
    shuffled = replace(ctx, honest=others, benign=others.rows, cohort=tuple(data.draw(st.permutations(ctx.cohort))))
    sent = attacked(name, own, ctx, knowledge=knowledge)
    turned = attacked(name, own.select(order), shuffled, knowledge=knowledge)
    assert turned.ids == tuple(order)
    torch.testing.assert_close(turned.select(own.ids).rows, sent.rows, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CRAFTED)
def test_knowledge_is_what_it_reads(name: str) -> None:
    """Own knowledge reads no honest row; benign knowledge no own one, but for the course that Fang's attacks oppose."""
    own, ctx = scene(3, 7)
    other, others = scene(3, 7, seed=1)
    sent = attacked(name, own, ctx).rows
    assert torch.equal(sent, attacked(name, own, replace(ctx, honest=None, benign=None)).rows)
    assert torch.equal(sent, attacked(name, own, others).rows)
    assert not torch.equal(sent, attacked(name, other, ctx).rows)
    known = attacked(name, own, ctx, knowledge="benign").rows
    assert not torch.equal(known, attacked(name, own, others, knowledge="benign").rows)
    if not name.startswith("fang"):
        assert torch.equal(known, attacked(name, other, ctx, knowledge="benign").rows)
    with pytest.raises(ConfigError, match=r"'attack' has knowledge: benign.*knows: \[benign-updates\]"):
        attacked(name, own, replace(ctx, honest=None), knowledge="benign")


@pytest.mark.parametrize("name", RULED)
def test_what_rehearses_needs_the_rule(name: str) -> None:
    own, ctx = scene(3, 7)
    with pytest.raises(ConfigError, match=r"'attack' tries.*knows: \[aggregator\]"):
        attacked(name, own, replace(ctx, aggregate=None))


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize("name", CRAFTED)
def test_needs_are_declared(name: str, knowledge: str) -> None:
    (layer,) = SPECS[name].layers
    signature = layer.facts(SPECS[name].config(knowledge=knowledge))
    wanted: list[Fact] = [Controls("client", "update")]
    wanted += [Knows("aggregator")] * (name in RULED) + [Knows("benign-updates")] * (knowledge == "benign")
    step = [Step(name, Site.UPDATE, signature)]
    assert walk(step, wanted).ok
    for fact in wanted:
        assert not walk(step, [other for other in wanted if other != fact]).ok
    assert signature.survives(Sensitivity("client", 1.0)) == (knowledge == "own")


@given(n=st.integers(2, 30), data=st.data(), epsilon=st.floats(0, 50))
@settings(deadline=None)
def test_ipm_reverses_the_mean_iff_epsilon_exceeds_the_odds(n: int, data: st.DataObject, epsilon: float) -> None:
    m = data.draw(st.integers(1, n - 1))
    own, ctx = scene(m, n - m, 6)
    assert ctx.honest is not None
    mu = ctx.honest.rows.mean(0)
    sent = attacked("ipm", own, ctx, epsilon=epsilon, knowledge="benign").rows
    factor = float(aggregated(lambda rows: rows.mean(0), sent, ctx) @ mu / mu.square().sum())
    assert factor == pytest.approx((n - m - epsilon * m) / n, abs=1e-9)
    if abs(epsilon - (n - m) / m) > 1e-6:
        assert (factor < 0) == (epsilon > (n - m) / m)


def bisected(fits: Callable[[float], bool]) -> float:
    """The search of the NDSS paper's code: gamma from 10, the step halved until it moves by less than 1e-5."""
    gamma, step, last = 10.0, 10.0, 0.0
    while abs(last - gamma) > 1e-5:
        last, gamma = (gamma, gamma + step / 2) if fits(gamma) else (last, gamma - step / 2)
        step /= 2
    return last


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
@given(n=st.integers(2, 12), p=st.integers(1, 8), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=25)
def test_min_gammas_are_tight_and_what_the_published_search_finds(direction: Any, n: int, p: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, p, generator=generator, dtype=torch.float64)
    mu, nabla = rows.mean(0), perturbation(rows, direction)
    between = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    for gamma_of, used, bound in (
        (min_max_gamma, lambda row: (rows - row).norm(dim=1).max(), between.max()),
        (min_sum_gamma, lambda row: (rows - row).square().sum(), between.square().sum(1).max()),
    ):
        gamma = float(gamma_of(rows, nabla))

        def fits(g: float, used: Callable[[Tensor], Tensor] = used, bound: Tensor = bound) -> bool:
            return bool(used(mu + g * nabla) <= bound)

        assert float(used(mu + gamma * nabla) / bound) == pytest.approx(1, rel=1e-9)
        assert not fits(gamma + 1e-6)
        if gamma < 19:
            assert bisected(fits) == pytest.approx(gamma, abs=2e-5)


@given(n=st.integers(2, 12), seed=st.integers(0, 999))
@settings(deadline=None)
def test_how_far_from_the_mean_min_sum_and_min_max_lie(n: int, seed: int) -> None:
    """As far as the furthest row; and between what two rows' greatest distance R leaves beside that, and R."""
    rows = torch.randn(n, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    nabla, furthest = perturbation(rows, "std"), float((rows - rows.mean(0)).norm(dim=1).max())
    assert float(min_sum_gamma(rows, nabla) * nabla.norm()) == pytest.approx(furthest)
    greatest = float(torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").max())
    assert greatest - furthest - 1e-9 <= float(min_max_gamma(rows, nabla) * nabla.norm()) <= greatest + 1e-9


@given(peak=st.floats(-3, 3), evaluations=st.integers(4, 60))
def test_the_search_resolves_a_peak_and_counts_its_evaluations(peak: float, evaluations: int) -> None:
    tried: list[float] = []

    def damage(t: float) -> Tensor:
        tried.append(t)
        return torch.tensor(-abs(t - peak), dtype=torch.float64)

    found = maximise(damage, -3.0, 3.0, evaluations)
    assert len(tried) == evaluations
    assert all(-3 <= t <= 3 for t in tried)
    assert abs(found - peak) == min(abs(t - peak) for t in tried)
    step = 6 / ((evaluations + 1) // 2 - 1)
    assert abs(found - peak) <= 2 * step / (evaluations // 2 + 1) + 1e-9


@pytest.mark.parametrize("name", RULED)
def test_a_rehearsed_attack_is_best_of_what_it_may_send(name: str) -> None:
    """Against the mean the best multiple is the largest; against a rule that lets nothing in, the mean itself is sent."""
    own, ctx = scene(3, 7)
    assert ctx.honest is not None
    mu, sigma = ctx.honest.rows.mean(0), ctx.honest.rows.std(0, correction=0)
    sent = attacked(name, own, ctx, knowledge="benign", most=4.0).params[0]
    torch.testing.assert_close(sent, -4 * mu if name == "opt-ipm" else mu - 4 * sigma)
    if name == "agr-tailored":
        closed = replace(ctx, aggregate=lambda cohort: Release(cohort.rows.mean(0), cohort.layout, 1.0, 1, own.ids))
        torch.testing.assert_close(attacked(name, own, closed, knowledge="benign").params[0], mu)
    else:
        plus = attacked(name, own, ctx, knowledge="benign", most=4.0, sides="plus").params[0]
        torch.testing.assert_close(plus, 4 * mu if name == "opt-ipm" else mu + 4 * sigma)


def test_a_rehearsal_that_fails_in_numbers_is_never_the_best() -> None:
    own, ctx = scene(3, 7)

    def fragile(cohort: Cohort) -> Release:
        row = cohort.rows.mean(0)
        return Release(row / (row.norm() < 15).double().where(row.norm() < 15, torch.nan), cohort.layout)

    sent = attacked("opt-alie", own, replace(ctx, aggregate=fragile), knowledge="benign", most=100.0)
    assert bool(fragile(Cohort(torch.cat([sent.rows, ctx.honest.rows]), own.layout, None)).vector.isfinite().all())  # type: ignore[union-attr]


def test_stand_ins_are_the_own_rows_and_draws_as_far_apart() -> None:
    own, ctx = scene(6, 60, 4000)
    drawn = stand_ins(own, ctx)
    assert drawn.ids == tuple(range(6, 66))
    assert torch.equal(drawn.rows[:6], own.rows)
    apart = torch.cdist(drawn.rows[6:], drawn.rows[6:]).square()
    mean = float(apart.sum() / (54 * 53))
    # a draw's squared distance is 2 tr(S) in the mean; of 1431 pairs of 54 draws in 5 dimensions within a fifth of that
    assert mean == pytest.approx(2 * float(own.rows.var(0).sum()), rel=0.2)
    one, alone = scene(1, 3, 5)
    torch.testing.assert_close(stand_ins(one, alone).rows, one.rows.expand(3, -1))
    few, small = scene(3, 2, 5)
    assert torch.equal(stand_ins(few, small).rows, few.rows[:2])


def test_a_rehearsal_has_the_cohort_of_the_round() -> None:
    own, ctx = scene(3, 7)
    for knowledge in KNOWLEDGE:
        cohorts: list[Cohort] = []

        def watch(cohort: Cohort, cohorts: list[Cohort] = cohorts) -> Release:
            cohorts.append(cohort)
            return Release(cohort.rows.mean(0), cohort.layout)

        rehearse(own, seen(own, ctx, knowledge), replace(ctx, aggregate=watch)).release(own.rows[0])  # type: ignore[arg-type]
        (cohort,) = cohorts
        assert sorted(cohort.sources) == list(range(10))
        assert cohort.weights is not None
        assert torch.equal(cohort.rows[:3], own.rows[:1].expand(3, -1))
        assert ctx.honest is not None
        assert torch.equal(cohort.rows[3:], ctx.honest.rows) == (knowledge == "benign")


@given(n=st.integers(2, 9), m=st.integers(1, 5), seed=st.integers(0, 99))
@settings(deadline=None)
def test_fang_pushes_each_coordinate_as_far_as_any_row_does(n: int, m: int, seed: int) -> None:
    own, ctx = scene(m, max(n, m + 1), 9, seed)
    assert ctx.honest is not None
    for name, rule in (("fang-trimmed-mean", lambda rows: trimmed_mean(rows, m)), ("fang-median", median)):
        s = rule(torch.cat([own.rows, ctx.honest.rows])).sign()
        sent = attacked(name, own, ctx, knowledge="benign").rows
        reached = -s * aggregated(rule, sent, ctx)
        for other in (own.rows, (-1e9 * s).expand(m, -1), (1e9 * s).expand(m, -1), torch.zeros_like(own.rows)):
            assert bool((reached >= -s * aggregated(rule, other, ctx) - 1e-9).all())


@given(b=st.floats(1.01, 10), seed=st.integers(0, 99))
@settings(deadline=None)
def test_fang_values_lie_between_the_extreme_and_b_times_it(b: float, seed: int) -> None:
    own, ctx = scene(3, 7, 40, seed)
    assert ctx.honest is not None
    s = trimmed_mean(torch.cat([own.rows, ctx.honest.rows]), 3).sign()
    w = torch.where(s > 0, ctx.honest.rows.amin(0), ctx.honest.rows.amax(0))
    far = torch.where(s * w > 0, w / b, w * b)
    sent = attacked("fang-trimmed-mean", own, ctx, knowledge="benign", b=b).rows
    assert bool((sent >= torch.minimum(w, far) - 1e-12).all())
    assert bool((sent <= torch.maximum(w, far) + 1e-12).all())
    own_mu, own_sigma = own.rows.mean(0), own.rows.std(0, correction=0)
    partial = attacked("fang-median", own, ctx).rows
    away = -own_mu.sign() * (partial - own_mu) / own_sigma
    assert bool((away >= 3 - 1e-9).all())
    assert bool((away <= 4 + 1e-9).all())


def naive_krum(rows: Tensor, f: int) -> int:
    """The index that Krum chooses, from the definition."""
    scores = []
    for i, row in enumerate(rows):
        others = sorted(float((row - other).square().sum()) for j, other in enumerate(rows) if j != i)
        scores.append(sum(others[: max(len(rows) - f - 2, 1)]))
    return scores.index(min(scores))


@given(honest=st.integers(4, 9), m=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_fang_krum_finds_the_first_of_its_halves_that_krum_chooses(honest: int, m: int, seed: int) -> None:
    own, ctx = scene(m, honest, 15, seed)
    assert ctx.honest is not None
    sent = attacked("fang-krum", own, ctx, knowledge="benign").rows
    everyone = torch.cat([own.rows, ctx.honest.rows])
    s = everyone[naive_krum(everyone, m)].sign()
    assert torch.equal(krum(everyone, m), everyone[naive_krum(everyone, m)])
    size = Search(ctx.honest.rows, s).bound(m + honest, m)
    for _ in range(20):
        crafted = (-size * s).expand(m, -1)
        if naive_krum(torch.cat([crafted, ctx.honest.rows]), m) < m:
            break
        size /= 2
    torch.testing.assert_close(sent, (-size * s).expand(m, -1))


@pytest.mark.parametrize("m", [3, 6])
def test_fang_krum_with_partial_knowledge_beats_its_own_rows(m: int) -> None:
    own, ctx = scene(m, 20, 400)
    sent = attacked("fang-krum", own, ctx).rows[0]
    s = own.rows.mean(0).sign()
    size = float(-(sent @ s) / s.square().sum())
    assert size > 0
    torch.testing.assert_close(sent, -size * s)
    found = [c for c in range(1, m + 1) if naive_krum(torch.cat([sent.expand(c, -1), own.rows]), c) < c]
    assert found


def test_mimic_settles_on_one_client_and_then_follows_it() -> None:
    attack, picks = Mimic(MimicConfig(warm_up=4, knowledge="benign")), []
    generator = torch.Generator().manual_seed(5)
    spike = torch.randn(50, generator=generator, dtype=torch.float64)
    for t in range(8):
        own, ctx = scene(2, 6, 50, seed=t)
        assert ctx.honest is not None
        rows = ctx.honest.rows.clone()
        rows[1] += 4 * spike
        if t >= 4:
            rows[5] += 9 * spike
        honest = replace(ctx.honest, rows=rows)
        if t == 6:
            honest = honest.select([i for i in honest.ids if i != 3])
        sent = attack.attack_transform(own, replace(ctx, index=t, honest=honest)).rows
        (at,) = [k for k, row in zip(honest.ids, honest.rows, strict=True) if torch.equal(row, sent[0])]
        picks.append(at)
    z = attack.state()["z"]
    assert abs(float(z @ spike / spike.norm())) > 0.9
    assert len(set(picks[3:6])) == 1
    assert picks[7] == picks[3]
    if picks[3] == 3:
        assert picks[6] != 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize("name", sorted(set(CRAFTED) - {"mimic", "fang-krum", "ipm"}))
def test_crafted_rows_move_robust_rules_more_than_honest_ones(name: str, knowledge: str, seed: int) -> None:
    """Ten of fifty against the trimmed mean and the median; the attackers' own honest rows are the control."""
    for rule in (lambda rows: trimmed_mean(rows, 10), median):
        own, ctx = scene(10, 40, 500, seed, rule)
        assert ctx.honest is not None
        mu = ctx.honest.rows.mean(0)
        sent = attacked(name, own, ctx, knowledge=knowledge, **({"z": 1.0} if name == "alie" else {})).rows
        moved, control = (float((aggregated(rule, rows, ctx) - mu).norm()) for rows in (sent, own.rows))
        assert moved > 1.3 * control


@pytest.mark.parametrize("seed", range(3))
def test_the_tailored_attack_moves_its_rule_no_less_than_agnostic_ones_along_the_same_line(seed: int) -> None:
    """Ten of fifty; on each rule the search's own resolution is the slack."""
    rules: list[Rule] = [lambda rows: trimmed_mean(rows, 10), median, lambda rows: krum(rows, 10)]
    for direction, rule in itertools.product(("std", "sign"), rules):
        own, ctx = scene(10, 40, 500, seed, rule)
        assert ctx.honest is not None
        mu, line = ctx.honest.rows.mean(0), perturbation(ctx.honest.rows, direction)  # type: ignore[arg-type]
        options = {"knowledge": "benign", "direction": direction}

        def along(sent: Tensor, rule: Rule = rule, ctx: Round = ctx, mu: Tensor = mu, line: Tensor = line) -> float:
            return float((aggregated(rule, sent, ctx) - mu) @ line / line.square().sum())

        sent = attacked("agr-tailored", own, ctx, **options, evaluations=60).rows
        slack = 2 * (10 / 29) / 31
        for agnostic in ("min-max", "min-sum"):
            assert along(sent) >= along(attacked(agnostic, own, ctx, **options).rows) - slack
        if rule is rules[2]:
            assert torch.equal(aggregated(rule, sent, ctx), sent[0])


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
@pytest.mark.parametrize("name", CRAFTED)
def test_each_runs_with_its_grants_and_not_without(name: str, knowledge: str) -> None:
    knows = ["aggregator"] * (name in RULED) + ["benign-updates"] * (knowledge == "benign")

    def played(granted: list[str]) -> Outcome:
        return outcome(
            federation={"clients": 10, "rounds": 3, "cohort": 6, "optimiser": {"lr": 0.5}},
            threat_model={"compromised": {"fraction": 0.3, "control": "update"}, "knows": granted},
            attacks=[{name: {"knowledge": knowledge}}],
        )

    found = played(knows)
    assert found.sights[name] == "runs"
    assert not any("never changed anything" in note for note in found.notes)
    for grant in knows:
        without = played([other for other in knows if other != grant])
        assert without.sights[name] == f"not granted: the threat model gives no Knows({grant})"
