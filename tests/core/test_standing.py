"""What the contract offers runs, or is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor

from sparring.aggregate import WeightedMean
from sparring.context import Context, Round, Setup
from sparring.errors import ConfigError
from sparring.facts import Clipped, Fact, Sensitivity, Space, Summable, Weighted
from sparring.hookspecs import hookimpl
from sparring.layout import Space as Numbers
from sparring.local import Exchange, LocalPlan
from sparring.roles import Aggregator, PassiveAttack, StreamingAggregator
from sparring.signals import Broadcast, Cohort, Release, Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import AttackSpec, Empty, Layer, Reader
from sparring.spotcheck import check_updates
from sparring.taps import Tap
from sparring.views import Finding, Scores, TraceView, UpdateView
from tests.core.federation import attack, built, defence, experiment, played, ran, rule

Offer = Callable[..., None]


@final
class Total(StreamingAggregator[Tensor]):
    """A rule of the four methods that its role asks for."""

    def init(self, updates: Updates) -> Tensor:
        return torch.zeros(updates.layout.size)

    def add(self, accumulator: Tensor, updates: Updates) -> Tensor:
        return accumulator + updates.rows.mean(0)

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right

    def finish(self, accumulator: Tensor, ctx: Round) -> Release:
        assert ctx.layout is not None
        return Release(accumulator, ctx.layout)


def test_a_streaming_rule_of_four_methods_runs_on_streams_and_on_whole_cohorts(offer: Offer) -> None:
    whole = defence("whole", Site.COHORT, lambda signal, ctx: signal)
    offer(rule("total", Total), whole)
    streamed, held = (played(experiment(defences=stack)) for stack in (["total"], ["whole", "total"]))
    assert torch.equal(streamed.row, held.row)
    assert not torch.equal(streamed.row, streamed.states[0].row)


@final
class Reading(Aggregator):
    """Keeps the facts that it is told."""

    told: tuple[Fact, ...] = ()

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        self.told = ctx.facts
        release: Release = WeightedMean().server_aggregate(cohort, ctx)
        return release


def test_a_rule_is_told_the_facts_that_hold_where_it_stands(offer: Offer) -> None:
    made = Reading()
    bounded = Signature(gives=(Clipped("l2", "client", bound=7.0),), keeps=ALL)
    offer(rule("reading", lambda: made), defence("clip", Site.UPDATE, lambda signal, ctx: signal, signature=bounded))
    played(experiment(defences=["clip", "reading"]), 1)
    assert [fact.bound for fact in made.told if isinstance(fact, Clipped)] == [7.0]
    assert Summable() in made.told


def exchanging(signal: LocalPlan, ctx: Context) -> LocalPlan:
    return replace(signal, exchange=Exchange(lambda x, local: x, lambda x, y, local: x, lambda g, local: g))


def test_an_exchange_that_no_trainer_runs_is_refused(offer: Offer) -> None:
    offer(defence("split", Site.EXCHANGE, exchanging))
    with pytest.raises(ConfigError, match=r"local\.exchange would never run"):
        built(experiment(defences=["split"]))


@final
class Listener(PassiveAttack[TraceView]):
    @hookimpl
    def attack_observe(self, view: TraceView, ctx: Setup) -> Finding | None:
        return None


def test_a_view_that_nothing_records_is_refused_before_training(offer: Offer) -> None:
    reader = Reader[Empty](tap=lambda _: Tap(("trace",)), build=lambda _: Listener())
    offer(AttackSpec(api=1, name="listener", config=Empty, summary="listens", game="membership", reader=reader))
    with pytest.raises(ConfigError, match="'listener' would read the trace view"):
        built(experiment(attacks=["listener"]))


@final
class Norms(PassiveAttack[UpdateView]):
    """Scores whom it saw: one number a capture."""

    seen: tuple[int | None, ...] = ()

    @hookimpl
    def attack_observe(self, view: UpdateView, ctx: Setup) -> Finding | None:
        self.seen = tuple(capture.client for capture in view)
        return Scores(1.0, torch.zeros(len(view.captures)))


def test_an_attack_that_acts_at_the_server_also_reads_what_the_clients_send(
    offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.run.GAMES", {"membership": _Game})
    made = Norms()
    acting = attack("x", Site.BROADCAST, lambda signal, ctx: _other(signal)).layers[0]
    layer = Layer[Empty](site=Site.BROADCAST, build=acting.build, signature=acting.signature)
    reader = Reader[Empty](tap=lambda _: Tap(("update",)), build=lambda _: made)
    offer(AttackSpec(api=1, name="both", config=Empty, summary="both", game="membership", layers=(layer,), reader=reader))
    ran(experiment(attacks=["both"], threat_model={"server": "malicious"}, federation={"rounds": 1}), tmp_path)
    assert made.seen == (0, 1, 2, 3)


def _other(signal: Broadcast) -> Broadcast:
    return replace(signal, row=signal.row + 1)


class _Game:
    def score(self, finding: Any, truth: Any) -> Any:
        from sparring.scoring import Measure, Score

        return Score("seen", {"seen": Measure(1.0)})


def test_what_is_true_inside_a_sealed_row_is_not_looked_for_on_it() -> None:
    from sparring.testing.fixtures import make_updates

    plain = make_updates()
    layout = plain.layout.extended([("weight", (1,))], Numbers("sealed", 1 << 32))
    sealed = Updates(torch.full((len(plain.ids), layout.size), 1 << 31), layout, plain.ids)
    check_updates("seal", plain, sealed, (Weighted(), Clipped("l2", "client", "all", 1.0), Space("sealed"), Sensitivity()))
