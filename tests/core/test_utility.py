"""Utility attacks in the engine: windows of rounds, objectives, verdicts, rehearsals, the lab, and what a step is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.aggregate import WeightedMean
from sparring.context import Context, Round, Setup
from sparring.errors import ConfigError, EffectError
from sparring.games import BackdoorGame, SubgroupGame
from sparring.hookspecs import hookimpl
from sparring.local import Functional, LocalContext, LocalPlan, embed
from sparring.objectives import Objective
from sparring.roles import ActiveAttack, Dataset, Defence, PassiveAttack, Sizing, Stateful, Targeted
from sparring.run import run_cell
from sparring.scoring import Truth, Wanted, wilson
from sparring.signals import Broadcast, ClientData, Cohort, Examples, Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import AttackSpec, Empty, Layer, Reader
from sparring.taps import Tap
from sparring.verdicts import Detection, Verdict, auc
from sparring.views import UpdateView
from tests.core.federation import Blobs, Memory, attack, blobs, built, conv, defence, experiment, mlp, played, plugin, ran

Offer = Callable[..., None]
HELD = {"compromised": {"clients": [1, 3], "control": "update"}}
FOUR = {"rounds": 4}


def flipped(signal: Updates, ctx: Context) -> Updates:
    return signal.with_params(-3 * signal.params)


def relabelled(data: ClientData, ctx: Context) -> ClientData:
    return replace(data, clients={i: replace(e, y=torch.zeros_like(e.y)) for i, e in data.clients.items()})


# Windows


@pytest.mark.parametrize("window", [[0, 0], [1, 2], [3, 3]])
def test_an_attack_acts_in_its_window_alone(offer: Offer, window: list[int]) -> None:
    offer(attack("flip", Site.UPDATE, flipped))
    attacked = played(experiment(attacks=[{"flip": {"window": window}}], threat_model=HELD, federation=FOUR))
    for k in range(4):
        alone = built(experiment(federation=FOUR))
        plain = alone.strategy.train(Broadcast(alone.plan, attacked.states[k].row, alone.layout), range(4), "honest", k)
        factor = torch.tensor([[-3.0 if i in (1, 3) and window[0] <= k <= window[1] else 1.0] for i in range(4)])
        assert torch.allclose(attacked.updates[k].rows, factor * plain, atol=1e-6)


@pytest.mark.parametrize("engine", ["sequential", "workers", "stacked"])
def test_outside_its_window_a_client_trains_on_the_data_that_it_had(offer: Offer, engine: str) -> None:
    offer(attack("relabel", Site.DATA, relabelled), defence("count", Site.DATA, lambda data, ctx: data))
    held = {"compromised": {"clients": [1, 3], "control": "data"}}
    given_ = {"engine": engine, "federation": FOUR, "threat_model": held}
    clean = played(experiment(**{**given_, "threat_model": {}}))
    late = played(experiment(attacks=[{"relabel": {"window": [2, 3]}}], **given_))
    for k, equal in ((0, True), (1, True), (2, False)):
        assert torch.allclose(clean.updates[k].rows, late.updates[k].rows, atol=1e-6) == equal


def test_in_a_window_that_is_the_whole_run_numbers_are_those_without_one(offer: Offer) -> None:
    offer(attack("relabel", Site.DATA, relabelled))
    rows = [played(experiment(attacks=[{"relabel": options}], threat_model=HELD)).row for options in ({}, {"window": [0, 2]})]
    assert torch.equal(*rows)


def test_a_client_outside_its_window_runs_the_defences(offer: Offer) -> None:
    marked: list[tuple[int, tuple[int, ...]]] = []

    def mark(signal: Updates, ctx: Round) -> Updates:
        marked.append((ctx.index, signal.ids))
        return signal

    offer(attack("flip", Site.UPDATE, flipped), defence("mark", Site.UPDATE, mark))
    played(experiment(attacks=[{"flip": {"window": [1, 1]}}], defences=["mark"], threat_model=HELD))
    assert marked == [(0, (0, 1, 2, 3)), (1, (0, 2)), (2, (0, 1, 2, 3))]


@pytest.mark.parametrize(
    ("window", "told"),
    [
        ([1, 3], "rounds are 0 to 2"),
        ([2, 1], "the first not after the last"),
        ([1], r"\[first, last\]"),
        ("1-2", r"\[first, last\]"),
    ],
)
def test_a_window_that_is_none_is_refused(offer: Offer, window: Any, told: str) -> None:
    offer(attack("flip", Site.UPDATE, flipped))
    with pytest.raises(ConfigError, match=rf"attacks.flip.window is .*{told}"):
        built(experiment(attacks=[{"flip": {"window": window}}], threat_model=HELD))


# Objectives


class Corner(ActiveAttack[ClientData], Targeted):
    """All inputs with a bright corner are of class 0."""

    index = True

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        made = {i: Examples(corner(e.x), torch.zeros_like(e.y), e.groups) for i, e in signal.clients.items()}
        held = signal.clients
        both = {i: Examples(torch.cat([held[i].x, e.x]), torch.cat([held[i].y, e.y])) for i, e in made.items()}
        return replace(signal, clients=both)

    def objective(self, test: Examples, ctx: Setup) -> Objective:
        return Objective(corner(test.x), torch.zeros_like(test.y), torch.arange(len(test)))


def corner(x: Tensor) -> Tensor:
    marked = x.clone()
    marked[..., 4:, 4:] = 1
    return marked


def targeted(made: type = Corner, game: Any = "backdoor", name: str = "corner") -> AttackSpec[Empty]:
    layers = (Layer[Empty](site=Site.DATA, build=lambda _: made(), signature=Signature(keeps=ALL)),)
    return AttackSpec(api=1, name=name, config=Empty, summary="an attack", game=game, layers=layers)


LONG = {"rounds": 8, "local_epochs": 3}
HOLDS_DATA = {"compromised": {"clients": [0, 1, 3], "control": "data"}}


def test_a_backdoor_is_scored_every_round_and_beside_inputs_without_the_trigger(offer: Offer, tmp_path: Path) -> None:
    offer(targeted())
    outcome, _ = ran(experiment(mlp, attacks=["corner"], threat_model=HOLDS_DATA, federation=LONG), tmp_path)
    measures = outcome.scores["corner"].measures
    assert [index for index, _ in outcome.success["corner"]] == list(range(8))
    success = measures["attack_success"]
    assert success.value == outcome.success["corner"][-1][1] >= 0.9
    assert success.baseline is not None
    assert success.baseline <= 0.2
    assert measures["clean_accuracy"].value == outcome.accuracy
    assert "durability" not in measures


def test_durability_counts_the_rounds_after_the_window(offer: Offer, tmp_path: Path) -> None:
    offer(targeted())
    windowed = [{"corner": {"window": [0, 2]}}]
    outcome, _ = ran(experiment(mlp, attacks=windowed, threat_model=HOLDS_DATA, federation=LONG), tmp_path)
    after = [rate for index, rate in outcome.success["corner"] if index > 2]
    measures = outcome.scores["corner"].measures
    assert measures["rounds_after_attack"].value == 5
    assert measures["durability"].value == next((k for k, rate in enumerate(after) if rate < 0.5), 5)


def test_success_is_saved_and_resumed(offer: Offer, tmp_path: Path) -> None:
    offer(targeted())
    whole = {"attacks": ["corner"], "threat_model": HOLDS_DATA, "federation": {"rounds": 4}}
    expected, _ = ran(experiment(mlp, **whole), tmp_path / "whole")
    stopping = experiment(mlp, **whole)
    calls = 0

    def stop(text: str, fraction: float) -> None:
        nonlocal calls
        calls += text.startswith("lab: round")
        if calls == 2:
            raise KeyboardInterrupt

    from sparring.build import build

    (cell,) = stopping.resolve().values()
    with pytest.raises(KeyboardInterrupt):
        run_cell(build(cell, stop), "lab", tmp_path / "cut", Memory(), resume=False)
    resumed = run_cell(build(cell, lambda text, fraction: None), "lab", tmp_path / "cut", Memory(), resume=True)
    assert resumed.success == expected.success
    assert resumed.history == expected.history


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        (lambda test: Objective(test.x[:0], test.y[:0]), "wants 0 labels"),
        (lambda test: Objective(test.x.flatten(1), test.y * 0, torch.arange(len(test))), "of shape"),
        (lambda test: Objective(test.x, test.y, torch.arange(len(test))), "the label that it has"),
    ],
)
def test_an_objective_that_cannot_be_counted_is_refused(offer: Offer, objective: Any, told: str) -> None:
    class Odd(ActiveAttack[ClientData], Targeted):
        @hookimpl
        def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
            return signal

        def objective(self, test: Examples, ctx: Setup) -> Objective:
            made: Objective = objective(test)
            return made

    offer(targeted(Odd))
    with pytest.raises(EffectError, match=told):
        built(experiment(attacks=["corner"], threat_model=HOLDS_DATA))


def test_a_game_that_counts_objectives_needs_one_layer_that_has_one(offer: Offer) -> None:
    offer(targeted(game="poisoning"), replace(attack("mute", Site.UPDATE, flipped), game="backdoor"))
    for name in ("corner", "mute"):
        with pytest.raises(ConfigError, match="layers that say what it wants"):
            built(experiment(attacks=[name], threat_model=HELD))


def wanted(objective: Objective, answers: Tensor, predicted: Tensor, labels: Tensor, tests: Tensor | None = None) -> Truth:
    w = Wanted(objective, answers, predicted, labels, [], tests)
    return Truth(accuracy=[0.5], majority=0.25, wanted=w)


def test_inputs_of_the_wanted_class_count_for_nothing() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    objective = Objective(torch.ones(4, 1), torch.zeros(4, dtype=torch.long), torch.arange(4))
    found = BackdoorGame().score(None, wanted(objective, torch.tensor([0, 0, 0, 1]), labels, labels, torch.zeros(4, 1)))
    assert found.measures["attack_success"].value == 0.5
    assert found.measures["attack_success"].baseline == 0


def test_without_a_trigger_the_baseline_is_how_other_examples_fare() -> None:
    labels = torch.tensor([0, 1, 1, 2, 2])
    x = torch.rand(5, 1)
    natural = Objective(x[1:2], torch.zeros(1, dtype=torch.long), torch.tensor([1]))
    own = Objective(torch.rand(1, 1), torch.zeros(1, dtype=torch.long))
    predicted = torch.tensor([0, 0, 1, 0, 2])
    for objective, expected in ((natural, 1 / 3), (own, 2 / 4)):
        found = BackdoorGame().score(None, wanted(objective, torch.zeros(1).long(), predicted, labels, x))
        assert found.measures["attack_success"].baseline == pytest.approx(expected)


def test_the_gap_is_of_accuracies_inside_and_outside_the_group() -> None:
    labels = torch.tensor([0, 0, 1, 1, 0, 1])
    predicted = torch.tensor([0, 1, 0, 1, 0, 1])
    objective = Objective(torch.rand(3, 1), 1 - labels[:3], torch.arange(3))
    measures = SubgroupGame().score(None, wanted(objective, predicted[:3], predicted, labels)).measures
    assert measures["group_accuracy"].value == pytest.approx(1 / 3)
    assert measures["others_accuracy"].value == 1
    assert measures["accuracy_gap"].value == pytest.approx(2 / 3)
    assert measures["accuracy_gap"].baseline == pytest.approx(1 / 3 - 2 / 3)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_lies_within_and_around_the_share(n: int, share: float) -> None:
    hits = round(share * n)
    found = wilson(hits, n)
    assert found is not None
    assert -1e-12 <= found[0] <= hits / n + 1e-12
    assert hits / n - 1e-12 <= found[1] <= 1 + 1e-12


# Verdicts


class Norms(Defence[Cohort]):
    """Flags the clients whose norm is more than twice the median."""

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        norms = signal.norms / signal.norms.median()
        ids = signal.ids or ()
        suspicion = {i: float(s) for i, s in zip(ids, norms, strict=True)}
        flagged = frozenset(i for i, s in suspicion.items() if s > 2)
        kept = torch.tensor([k for k, i in enumerate(ids) if i not in flagged])
        return signal.judged(Verdict(ctx.layer, suspicion, flagged)).select(kept)


def test_detections_are_held_against_who_attacked_in_the_round(offer: Offer, tmp_path: Path) -> None:
    big = attack("big", Site.UPDATE, lambda s, ctx: s.with_params(50 * s.params))
    offer(big, plugin("norms", Layer(site=Site.COHORT, build=lambda _: Norms(), signature=Signature(keeps=ALL))))
    stack = {"defences": ["norms"], "threat_model": {"compromised": {"clients": [1], "control": "update"}}}
    always, _ = ran(experiment(attacks=["big"], **stack), tmp_path / "a")
    assert always.detection["norms"] == {"precision": 1, "recall": 1, "false_positive_rate": 0, "auc": 1}
    never, _ = ran(experiment(**stack), tmp_path / "b")
    assert never.detection["norms"] == {"false_positive_rate": 0}


def test_a_detection_counts_clients_over_rounds() -> None:
    found = Detection()
    found.add(Verdict("a", {0: 1.0, 1: 3.0, 2: 2.0, 3: 0.0}, frozenset({1, 2})), {1, 3})
    found.add(Verdict("a", {0: 1.0, 2: 0.0}), {1, 3})
    assert found.measures() == {"precision": 0.5, "recall": 0.5, "false_positive_rate": 0.25, "auc": 0.5}


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_auc_of_swapped_sides_adds_to_one(a: list[int], b: list[int]) -> None:
    one, other = auc(a, b), auc(b, a)
    assert one is not None
    assert other is not None
    assert one + other == pytest.approx(1)


# Rehearsals


class Counting(Defence[Cohort], Stateful):
    """Counts its calls, and doubles rows from the second on."""

    def __init__(self) -> None:
        self.calls = 0

    def state(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def restore(self, state: Any) -> None:
        self.calls = state["calls"]

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        self.calls += 1
        return signal.scaled(torch.full((len(signal),), 2.0)) if self.calls > 1 else signal


def test_a_rehearsal_passes_the_cohort_layers_and_leaves_no_trace(offer: Offer) -> None:
    seen: list[Tensor] = []

    def searching(signal: Updates, ctx: Context) -> Updates:
        assert isinstance(ctx, Round)
        assert ctx.aggregate is not None
        assert ctx.honest is not None
        assert ctx.benign is ctx.honest.rows
        everyone = torch.cat([ctx.honest.rows, signal.rows])
        for _ in range(2):
            cohort = Cohort(everyone, signal.layout, (*ctx.honest.ids, *signal.ids))
            seen.append(ctx.aggregate(cohort).vector)
        return signal

    counting = Counting()
    offer(
        attack("search", Site.UPDATE, searching),
        plugin("count", Layer(site=Site.COHORT, build=lambda _: counting, signature=Signature(keeps=ALL))),
    )
    knowing = {**HELD, "knows": ["benign-updates", "aggregator"]}
    uniform = {"weighting": "uniform"}
    result = played(experiment(attacks=["search"], defences=["count"], threat_model=knowing, federation=uniform), 2)
    assert counting.calls == 2
    assert torch.equal(seen[0], seen[1])
    assert torch.allclose(seen[0], result.releases[0].vector, atol=1e-6)
    assert torch.allclose(seen[2], result.releases[1].vector, atol=1e-6)
    assert isinstance(result.built.rule, WeightedMean)


# Numbers of rows


class Pairs(Defence[Cohort], Sizing):
    """The mean of each two rows."""

    def admit(self, n: int) -> int:
        if n < 4:
            raise ConfigError(f"'pairs' got n = {n} rows; it needs four: sample more clients")
        return n // 2

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        return signal.mixed(torch.eye(len(signal) // 2, dtype=torch.float64).repeat_interleave(2, 1) / 2)


def test_a_rule_is_asked_for_the_rows_that_reach_it(offer: Offer) -> None:
    from sparring.roles import Aggregator
    from tests.core.federation import rule

    asked: list[int] = []

    class Rule(Aggregator):
        def admit(self, n: int) -> None:
            asked.append(n)

        @hookimpl
        def server_aggregate(self, cohort: Cohort, ctx: Round) -> Any:
            return WeightedMean().server_aggregate(cohort, ctx)

    pairs = plugin("pairs", Layer(site=Site.COHORT, build=lambda _: Pairs(), signature=Signature(keeps=ALL)))
    offer(pairs, rule("rule", Rule))
    built(experiment(defences=["pairs", "rule"]))
    assert asked == [2]
    with pytest.raises(ConfigError, match="'pairs' got n = 3 rows"):
        built(experiment(defences=["pairs", "rule"], federation={"cohort": 3}))


# What a step is told, representations, and the lab


@pytest.mark.parametrize("engine", ["sequential", "workers", "stacked"])
def test_a_step_is_told_where_it_started_and_what_came_before(offer: Offer, engine: str) -> None:
    def halved(theta: Tensor, ctx: LocalContext) -> Tensor:
        assert ctx.start is not None
        assert ctx.previous is not None
        assert ctx.lr == 0.2
        return (theta + ctx.start) / 2 + (ctx.start - ctx.previous)

    offer(defence("step", Site.STEP, lambda plan, ctx: plan.with_step("step", halved)))
    one = {"local_steps": 1, "rounds": 3}
    plain = experiment(federation=one, engine=engine)
    found = played(experiment(defences=["step"], federation=one, engine=engine))
    for k in range(3):
        start = found.states[k].row
        before = found.states[k - 1].row if k else start
        fresh = built(plain)
        trained = fresh.strategy.train(Broadcast(fresh.plan, start, fresh.layout), range(4), "honest", k)
        fresh.strategy.close()
        assert torch.allclose(found.updates[k].rows, trained / 2 + (start - before), atol=1e-6)


@pytest.mark.parametrize("model", [mlp, conv])
def test_representations_are_the_input_of_the_last_linear_layer(model: Callable[[], nn.Sequential]) -> None:
    module, x = model(), torch.rand(5, 1, 6, 6)
    features, outputs = embed(module, x)
    assert torch.equal(outputs, module(x))
    assert torch.equal(module[-1](features), outputs)
    twin = {name: 2 * p.detach() for name, p in module.named_parameters()}
    other, doubled = embed(Functional(module, twin), x)
    assert torch.allclose(other @ twin[f"{len(module) - 1}.weight"].T + twin[f"{len(module) - 1}.bias"], doubled, atol=1e-5)


def test_a_model_without_linear_layers_has_no_representations() -> None:
    with pytest.raises(ConfigError, match="has none"):
        embed(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten()), torch.rand(2, 1, 6, 6))


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
def test_a_loss_may_read_representations_under_every_strategy(offer: Offer, engine: str) -> None:
    def shrinking(plan: LocalPlan, ctx: Context) -> LocalPlan:
        def wrap(loss: Any) -> Any:
            def both(forward: Any, batch: Any) -> Tensor:
                found: Tensor = loss(forward, batch) + 0.1 * embed(forward, batch.x)[0].square().mean(1)
                return found

            return both

        return plan.with_loss(wrap)

    offer(defence("shrink", Site.LOSS, shrinking))
    one, other = (played(experiment(mlp, defences=["shrink"], engine=name)).row for name in ("sequential", engine))
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(one, played(experiment(mlp)).row, atol=1e-5)


def test_the_lab_makes_the_update_that_a_client_with_these_examples_sends() -> None:
    made = built(experiment(conv, federation={"batch_size": None, "local_epochs": 3}))
    sent = played(made, 1).sent()
    assert made.setup.lab is not None
    for client, row in sent.items():
        again = made.setup.lab.update(made.initial, made.work.data.clients[client])
        assert torch.allclose(again, row, atol=1e-6)


def test_the_lab_trains_fresh_models_and_moves_no_number_of_the_run(offer: Offer) -> None:
    found: list[Tensor] = []

    def analysing(cohort: Cohort, ctx: Context) -> Cohort:
        assert isinstance(ctx, Round)
        assert ctx.lab is not None
        assert ctx.parameters is not None
        generator = torch.Generator().manual_seed(1)
        found.append(ctx.lab.update(ctx.parameters, blobs(24, generator)))
        module = ctx.lab.train(blobs(60, generator), epochs=30)
        test = blobs(60, generator)
        found.append((module(test.x).argmax(1) == test.y).double().mean())
        return cohort

    offer(defence("analyse", Site.COHORT, analysing))
    first, again = (played(experiment(mlp, defences=["analyse"]), 1) for _ in range(2))
    assert torch.equal(first.row, played(experiment(mlp), 1).row)
    assert torch.equal(found[0], found[2])
    assert float(found[0].norm()) > 0
    assert float(found[1]) >= 0.7, "a third would be chance"
    assert torch.equal(again.row, first.row)


def test_an_attack_has_a_lab_only_where_it_knows_the_recipe(offer: Offer) -> None:
    labs: list[Any] = []

    def looking(data: ClientData, ctx: Setup) -> ClientData:
        labs.append(ctx.lab)
        return data

    offer(attack("look", Site.DATA, looking))
    for knows in ([], ["recipe"]):
        built(experiment(attacks=["look"], threat_model={**HELD, "knows": knows}))
    assert labs[0] is None
    assert labs[1].name == "look"


def test_a_reader_has_a_lab_only_where_it_knows_the_recipe(offer: Offer, tmp_path: Path) -> None:
    labs: list[Any] = []

    class Looks(PassiveAttack[UpdateView]):
        @hookimpl
        def attack_observe(self, view: UpdateView, ctx: Setup) -> None:
            labs.append(ctx.lab)

    reader = Reader[Empty](tap=lambda _: Tap(("update",)), build=lambda _: Looks(), signature=Signature(keeps=ALL))
    offer(AttackSpec(api=1, name="look", config=Empty, summary="an attack", game="reconstruction", reader=reader))
    for knows in ([], ["recipe"]):
        ran(experiment(attacks=["look"], threat_model={"knows": knows}), tmp_path / str(len(knows)))
    assert labs[0] is None
    assert labs[1] is not None


def test_a_backdoor_that_makes_training_diverge_at_once_is_still_scored(offer: Offer, tmp_path: Path) -> None:
    class Exploding(ActiveAttack[Updates], Targeted):
        objective = Corner.objective

        @hookimpl
        def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
            return signal.with_params(torch.full_like(signal.params, 3e38))

    layers = (Layer[Empty](site=Site.UPDATE, build=lambda _: Exploding(), signature=Signature(keeps=ALL)),)
    offer(AttackSpec(api=1, name="explode", config=Empty, summary="an attack", game="backdoor", layers=layers))
    made = built(experiment(mlp, attacks=["explode"], threat_model=HELD))
    outcome = run_cell(made, "lab", tmp_path, Memory(), resume=False)
    assert any("diverged under attack in round 0" in note for note in outcome.notes)
    assert "attack_success" in outcome.scores["explode"].measures


def test_public_data_reach_the_layers(offer: Offer) -> None:
    seen: list[Any] = []

    class Public(Dataset):
        def load(self, ctx: Setup) -> Any:
            return replace(Blobs().load(ctx), public=blobs(8, ctx.generator(9)))

    def reading(cohort: Cohort, ctx: Round) -> Cohort:
        seen.append(ctx.public)
        return cohort

    offer(defence("read", Site.COHORT, reading))
    played(experiment(dataset=Public(), defences=["read"]), 1)
    assert len(seen[0]) == 8
