"""The round: who acts on what, what is skipped, dropped, rejected, refused or aborted, and what the numbers depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final

import pytest
import torch
from torch import Tensor, nn

from sparring.aggregate import WeightedMean
from sparring.claims import GaussianEvent
from sparring.context import Context, Round, Setup
from sparring.errors import ConfigError, EffectError, NumericalError, RoundAborted
from sparring.facts import Knows
from sparring.hookspecs import hookimpl
from sparring.layout import Layout
from sparring.local import Batch, LocalContext, LocalPlan
from sparring.roles import Aggregator, Defence, PassiveAttack, Stateful
from sparring.round import plan_rounds
from sparring.signals import Broadcast, ClientData, Cohort, Release, Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import Acts, AttackSpec, Empty, Layer, Reader
from sparring.taps import Tap
from sparring.views import Finding, UpdateView
from tests.core.federation import Blobs, attack, built, defence, experiment, mlp, played, plugin, ran, rule

Offer = Callable[..., None]
HELD = {"compromised": {"clients": [1, 3], "control": "update"}}
MARK = 1000.0


def same(signal: Any, ctx: Any) -> Any:
    return signal


def scaled(factor: float) -> Callable[[Updates, Context], Updates]:
    return lambda signal, ctx: signal.with_params(signal.params * factor)


def filled(value: float) -> Callable[[Updates, Context], Updates]:
    return lambda signal, ctx: signal.with_params(torch.full_like(signal.params, value))


# Whom attacks touch, and what compromised clients skip.


def test_an_attack_changes_the_updates_of_its_own_clients_alone(offer: Offer) -> None:
    offer(attack("flip", Site.UPDATE, scaled(-3)))
    plain, attacked = played(experiment()).sent(), played(experiment(attacks=["flip"], threat_model=HELD)).sent()
    for client, row in plain.items():
        assert torch.equal(attacked[client], -3 * row if client in (1, 3) else row)


def test_two_attacks_hold_different_clients(offer: Offer) -> None:
    offer(attack("flip", Site.UPDATE, scaled(-3)), attack("zero", Site.UPDATE, scaled(0)))
    chosen = [{"flip": {"clients": [3]}}, {"zero": {"clients": [1]}}]
    plain, sent = played(experiment()).sent(), played(experiment(attacks=chosen, threat_model=HELD)).sent()
    assert torch.equal(sent[3], -3 * plain[3])
    assert not bool(sent[1].any())
    assert torch.equal(sent[0], plain[0])


def test_an_attack_sees_benign_updates_and_the_rule_only_where_granted(offer: Offer) -> None:
    seen: list[tuple[Any, Any]] = []

    def look(signal: Updates, ctx: Round) -> Updates:
        seen.append((ctx.benign, ctx.aggregate))
        return signal

    offer(attack("look", Site.UPDATE, look))
    played(experiment(attacks=["look"], threat_model=HELD), 1)
    played(experiment(attacks=["look"], threat_model={**HELD, "knows": ["benign-updates", "aggregator"]}), 1)
    assert seen[0] == (None, None)
    benign, aggregate = seen[1]
    assert benign.shape[0] == 2
    assert aggregate is not None


@pytest.mark.parametrize("clients", [[0], [1, 2], 1.5, "some"])
def test_clients_that_the_adversary_does_not_hold_are_refused(offer: Offer, clients: Any) -> None:
    offer(attack("flip", Site.UPDATE, scaled(-1)))
    with pytest.raises(ConfigError, match=r"attacks\.flip\.clients is .*; it must be 'all', a share .*\[1, 3\]"):
        built(experiment(attacks=[{"flip": {"clients": clients}}], threat_model=HELD))


def test_compromised_clients_beyond_the_last_are_refused(offer: Offer) -> None:
    offer(attack("flip", Site.UPDATE, scaled(-1)))
    with pytest.raises(ConfigError, match=r"compromised\.clients names 4; clients are 0 to 3"):
        built(experiment(attacks=["flip"], threat_model={"compromised": {"clients": [1, 4]}}))


def marking(wire: bool) -> list[Any]:
    """A defence at each client-side site, each of which leaves a mark on the clients that run it."""

    def data(signal: ClientData, ctx: Setup) -> ClientData:
        return replace(signal, clients={i: replace(e, x=torch.zeros_like(e.x)) for i, e in signal.clients.items()})

    def local(signal: LocalPlan, ctx: Setup) -> LocalPlan:
        return signal.with_step("mark", lambda row, where: row)

    def update(signal: Updates, ctx: Round) -> Updates:
        return signal.with_params(signal.params + MARK)

    return [
        defence("data-mark", Site.DATA, data, wire=wire),
        defence("local-mark", Site.STEP, local, wire=wire),
        defence("update-mark", Site.UPDATE, update, wire=wire),
    ]


@pytest.mark.parametrize("wire", [False, True], ids=["defences", "wire formats"])
@pytest.mark.parametrize(
    ("control", "skipped"), [("data", {"data"}), ("training", {"data", "local"}), ("update", {"data", "local", "update"})]
)
def test_a_compromised_client_skips_exactly_what_its_control_covers(
    offer: Offer, control: Literal["data", "training", "update"], skipped: set[str], wire: bool
) -> None:
    site = {"data": Site.DATA, "training": Site.STEP, "update": Site.UPDATE}[control]
    offer(*marking(wire), attack("hold", site, same))
    threat = {"compromised": {"clients": [1, 3], "control": control}}
    stack = ["data-mark", "local-mark", "update-mark"]
    result = played(experiment(attacks=["hold"], defences=stack, threat_model=threat), 1)
    work, sent = result.built.work, result.sent()
    for client in range(4):
        held = client in (1, 3)
        ran_at = {
            "data": not bool(work.data.clients[client].x.any()),
            "local": bool(work.plans["hold" if held else "honest"].step),
            "update": float(sent[client].mean()) > MARK / 2,
        }
        expected = {site: wire or not (held and site in skipped) for site in ran_at}
        assert ran_at == expected, f"client {client}"


def test_data_that_an_attack_poisons_belongs_to_its_own_clients(offer: Offer) -> None:
    def relabel(signal: ClientData, ctx: Setup) -> ClientData:
        assert sorted(signal) == [1, 3]
        return replace(signal, clients={i: replace(e, y=torch.zeros_like(e.y)) for i, e in signal.clients.items()})

    offer(attack("relabel", Site.DATA, relabel))
    threat = {"compromised": {"clients": [1, 3], "control": "data"}}
    work = built(experiment(attacks=["relabel"], threat_model=threat)).work
    for client, examples in work.data.clients.items():
        assert bool(examples.y.any()) == (client not in (1, 3))


def test_poisoned_training_belongs_to_its_own_clients(offer: Offer) -> None:
    def reverse(batch: Batch, ctx: LocalContext) -> Batch:
        return replace(batch, y=2 - batch.y)

    offer(attack("reverse", Site.BATCH, lambda plan, ctx: plan.with_batch("reverse", reverse)))
    threat = {"compromised": {"clients": [1, 3], "control": "training"}}
    plain, sent = played(experiment()).sent(), played(experiment(attacks=["reverse"], threat_model=threat)).sent()
    assert {client for client in plain if not torch.equal(plain[client], sent[client])} == {1, 3}


def test_what_a_malicious_server_sends_to_one_client_reaches_that_client_alone(offer: Offer) -> None:
    def target(signal: Broadcast, ctx: Round) -> Broadcast:
        return replace(signal, overrides={2: replace(signal, row=signal.row + 1)})

    offer(attack("target", Site.BROADCAST, target, acts="always"))
    plain = played(experiment(), 1)
    attacked = played(experiment(attacks=["target"], threat_model={"server": "malicious"}), 1)
    differing = [i for i, row in plain.sent().items() if not torch.equal(row, attacked.sent()[i])]
    assert differing == [2]


def test_a_broadcast_of_two_layouts_is_refused(offer: Offer) -> None:
    def plant(signal: Broadcast, ctx: Round) -> Broadcast:
        wider = signal.layout.extended([("trap", (3,))])
        return replace(signal, overrides={2: replace(signal, layout=wider, row=torch.cat([signal.row, torch.zeros(3)]))})

    offer(attack("plant", Site.BROADCAST, plant))
    with pytest.raises(EffectError, match="client 2 is sent a model of another layout"):
        played(experiment(attacks=["plant"], threat_model={"server": "malicious"}), 1)


def test_a_planted_model_that_renames_the_honest_parameters_is_refused(offer: Offer) -> None:
    def plant(signal: Broadcast, ctx: Round) -> Broadcast:
        plan = signal.plan.adapted(lambda module: nn.Sequential(nn.Identity(), module))
        return replace(signal, plan=plan, layout=Layout.of(plan.factory()))

    offer(attack("plant", Site.BROADCAST, plant))
    with pytest.raises(EffectError, match=r"has no '1\.weight' of the shape or in the place.*plant modules beside its own"):
        played(experiment(attacks=["plant"], threat_model={"server": "malicious"}), 1)


def test_a_client_that_refuses_the_broadcast_sits_the_round_out(offer: Offer) -> None:
    offer(defence("wary", Site.BROADCAST, lambda signal, ctx: signal.refuse(0, 2) if ctx.index == 0 else signal, acts="may"))
    result = played(experiment(defences=["wary"]), 2)
    assert [u.ids for u in result.updates] == [(1, 3), (0, 1, 2, 3)]
    assert result.books.costs["wary"].acted == 1


def test_when_every_client_refuses_the_state_stays(offer: Offer) -> None:
    offer(defence("wary", Site.BROADCAST, lambda signal, ctx: signal.refuse(0, 1, 2, 3)))
    result = played(experiment(defences=["wary"]), 1)
    assert torch.equal(result.row, result.built.initial)


# Who takes part.


def test_a_cohort_of_fixed_size_is_drawn_anew_each_round() -> None:
    result = played(experiment(federation={"clients": 8, "cohort": 3, "rounds": 12}))
    drawn = [updates.ids for updates in result.updates]
    assert {len(set(ids)) for ids in drawn} == {3}
    assert len(set(drawn)) > 3
    assert {i for ids in drawn for i in ids} == set(range(8))


def test_a_poisson_cohort_of_nobody_is_a_legal_round() -> None:
    result = played(experiment(federation={"cohort": {"rate": 0.05}, "rounds": 6}))
    sizes = [len(updates.ids) for updates in result.updates]
    assert len(result.states) == 7
    taken = [not torch.equal(a.row, b.row) for a, b in zip(result.states, result.states[1:], strict=False)]
    assert sum(taken) == sum(size > 0 for size in sizes) < 6


def test_poisson_cohorts_have_the_rate() -> None:
    result = built(experiment(federation={"clients": 40, "cohort": {"rate": 0.3}}))
    from sparring.round import sampled

    mean = sum(len(sampled(result, k)) for k in range(100)) / 100
    assert 12 - 4 * (40 * 0.21 / 100) ** 0.5 < mean < 12 + 4 * (40 * 0.21 / 100) ** 0.5


@pytest.mark.parametrize("streams", [True, False])
def test_dropout_removes_rows_and_what_arrives_is_counted(offer: Offer, streams: bool) -> None:
    offer(rule("dense", Dense))
    sections: dict[str, Any] = {} if streams else {"defences": ["dense"]}
    result = played(experiment(federation={"clients": 12, "dropout": 0.4, "rounds": 4}, **sections))
    assert plan_rounds(result.built).streams == streams
    arrived = [len(updates.ids) for updates in result.updates]
    assert 0 < sum(arrived) < 48
    width = result.built.layout.size * 4
    assert result.books.up == sum(arrived) * width
    assert result.books.down == 48 * width
    release = result.releases[0]
    assert release.clients == arrived[0]


@pytest.mark.parametrize("streams", [True, False])
def test_a_round_in_which_every_message_is_lost_leaves_the_state(offer: Offer, streams: bool) -> None:
    offer(rule("dense", Dense))
    sections: dict[str, Any] = {} if streams else {"defences": ["dense"]}
    result = played(experiment(federation={"clients": 2, "dropout": 0.99, "rounds": 3}, **sections))
    assert torch.equal(result.row, result.built.initial)
    assert result.books.up == 0


def test_without_dropout_nothing_is_lost() -> None:
    result = played(experiment())
    assert result.books.up == result.books.down == 3 * 4 * result.built.layout.size * 4


@final
class Dense(Aggregator):
    """The weighted mean, as a rule that needs the whole cohort."""

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        release: Release = WeightedMean().server_aggregate(cohort, ctx)
        return release


@pytest.mark.parametrize("federation", [{"clients": 300, "rounds": 2}, {"clients": 300, "rounds": 2, "dropout": 0.3}])
def test_rows_that_stream_give_the_same_bits_as_whole_cohorts(offer: Offer, federation: dict[str, Any]) -> None:
    offer(rule("dense", Dense), defence("halve", Site.UPDATE, scaled(0.5)))
    sections: dict[str, Any] = {"dataset": Blobs(600), "federation": {**federation, "batch_size": None}, "engine": "stacked"}
    streamed, whole = (played(experiment(defences=stack, **sections)) for stack in (["halve"], ["halve", "dense"]))
    assert plan_rounds(streamed.built).streams
    assert plan_rounds(whole.built).forced_by == "Dense"
    assert len(streamed.updates) == 2 * len(whole.updates)
    assert torch.equal(streamed.row, whole.row)


@pytest.mark.parametrize(
    ("site", "wire"), [(Site.COHORT, False), (Site.UPDATE, True)], ids=["a layer that needs the cohort", "a wire format"]
)
def test_the_plan_names_what_forces_whole_cohorts(offer: Offer, site: Site, wire: bool) -> None:
    offer(defence("needy", site, same, wire=wire))
    assert plan_rounds(built(experiment(defences=["needy"]))).forced_by == "needy"


# Numbers that are none.


def poisoned(clients: tuple[int, ...], value: float) -> Callable[[Updates, Context], Updates]:
    def change(signal: Updates, ctx: Context) -> Updates:
        rows = signal.rows.clone()
        for k, client in enumerate(signal.ids):
            if client in clients:
                rows[k, 5] = value
        return replace(signal, rows=rows)

    return change


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_layer_that_makes_an_honest_update_no_number_is_named(offer: Offer, value: float) -> None:
    offer(defence("halve", Site.UPDATE, scaled(0.5)), defence("divide", Site.UPDATE, poisoned((2,), value)))
    with pytest.raises(NumericalError, match=r"NaN or Inf in the update of client 2 after divide; lower"):
        played(experiment(defences=["halve", "divide"]))


@pytest.mark.parametrize("engine", ["sequential", "workers", "stacked"])
def test_training_that_diverges_is_named(engine: str) -> None:
    lr = {"rounds": 4, "optimiser": {"lr": 1000}, "local_epochs": 60}
    with pytest.raises(NumericalError, match=r"NaN or Inf in the update of client 0.* after local training"):
        played(experiment(mlp_exploding, engine=engine, federation=lr))


def mlp_exploding() -> torch.nn.Module:
    class Power(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**9

    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 8), Power(), torch.nn.Linear(8, 3))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_compromised_client_that_sends_no_number_is_rejected_and_counted(offer: Offer, value: float) -> None:
    offer(attack("burst", Site.UPDATE, poisoned((3,), value)))
    result = played(experiment(attacks=["burst"], threat_model=HELD))
    assert [updates.ids for updates in result.updates] == [(0, 1, 2)] * 3
    assert result.books.rejected == 3
    assert bool(torch.isfinite(result.row).all())


def test_compromised_training_that_diverges_is_rejected_and_counted(offer: Offer) -> None:
    explode = attack("explode", Site.STEP, lambda plan, ctx: plan.with_step("explode", lambda row, where: row * torch.inf))
    offer(explode)
    threat = {"compromised": {"clients": [1, 3], "control": "training"}}
    result = played(experiment(attacks=["explode"], threat_model=threat))
    assert [updates.ids for updates in result.updates] == [(0, 2)] * 3
    assert result.books.rejected == 6


def test_a_cohort_whose_every_update_is_rejected_leaves_the_state(offer: Offer) -> None:
    offer(attack("burst", Site.UPDATE, filled(torch.nan)), defence("halve", Site.UPDATE, scaled(0.5)))
    threat = {"compromised": {"fraction": 1.0}}
    result = played(experiment(attacks=["burst"], defences=["halve"], threat_model=threat))
    assert torch.equal(result.row, result.built.initial)
    assert result.books.rejected == 12


def test_a_rule_that_makes_no_number_of_numbers_is_an_error(offer: Offer) -> None:
    @final
    class Wrong(Aggregator):
        @hookimpl
        def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
            return Release(cohort.rows.sum(0) / 0, cohort.layout, 1.0, len(cohort))

    offer(rule("wrong", Wrong))
    with pytest.raises(NumericalError, match="round 0: the aggregation rule returned NaN or Inf from finite updates"):
        played(experiment(defences=["wrong"]))


def test_a_run_records_the_error_of_a_cell(offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    offer(defence("divide", Site.UPDATE, poisoned((2,), torch.nan)))
    results = experiment(cells=[{"name": "good"}, {"name": "bad", "defences": ["divide"]}]).run(tmp_path)
    assert results["good"].error is None
    assert "client 2 after divide" in (results["bad"].error or "")
    assert [outcome.name for outcome in results.failed] == ["bad"]
    assert "client 2 after divide" in (tmp_path / "table.md").read_text()


# Layers that do nothing, and layers that do the wrong thing.


def copied(signal: Any, ctx: Any) -> Any:
    """An equal signal that is another object."""
    if isinstance(signal, ClientData):
        return replace(signal, clients={i: replace(e, x=e.x.clone()) for i, e in signal.clients.items()})
    if isinstance(signal, Cohort):
        return replace(signal)
    if isinstance(signal, Broadcast):
        return replace(signal, row=signal.row.clone())
    if isinstance(signal, Updates):
        return replace(signal, rows=signal.rows.clone())
    if isinstance(signal, Release):
        return replace(signal, vector=signal.vector.clone())
    return replace(signal)


SITES = [Site.MODEL, Site.DATA, Site.BROADCAST, Site.BATCH, Site.GRADIENT, Site.UPDATE, Site.COHORT, Site.RELEASE]


@pytest.mark.parametrize("change", [same, copied])
@pytest.mark.parametrize("site", SITES, ids=[site.label for site in SITES])
def test_a_layer_that_always_acts_and_does_not_is_an_error(offer: Offer, site: Site, change: Any) -> None:
    offer(defence("idle", site, change, acts="always"))
    with pytest.raises(EffectError, match="'idle' declares that it always acts, and changed nothing"):
        played(experiment(defences=["idle"]), 1)


@pytest.mark.parametrize("site", [Site.DATA, Site.BROADCAST, Site.STEP, Site.UPDATE], ids=lambda site: site.label)
def test_an_attack_that_always_acts_and_does_not_is_an_error(offer: Offer, site: Site) -> None:
    offer(attack("idle", site, same, acts="always"))
    with pytest.raises(EffectError, match="'idle' declares that it always acts, and changed nothing"):
        played(experiment(attacks=["idle"], threat_model={**HELD, "server": "malicious"}), 1)


@pytest.mark.parametrize("site", SITES, ids=[site.label for site in SITES])
def test_a_layer_that_returns_another_signal_is_an_error(offer: Offer, site: Site) -> None:
    offer(defence("odd", site, lambda signal, ctx: "nothing"))
    with pytest.raises(EffectError, match=r"'odd' returned str, it must return \w+"):
        played(experiment(defences=["odd"]), 1)


@pytest.mark.parametrize("acts", ["may", "never"])
def test_a_layer_that_may_act_and_never_did_is_flagged(offer: Offer, tmp_path: Path, acts: Acts) -> None:
    offer(defence("idle", Site.UPDATE, copied, acts=acts))
    outcome, _ = ran(experiment(defences=["idle"]), tmp_path)
    assert ("'idle' never changed anything in this run" in outcome.notes) == (acts == "may")


def test_a_change_in_one_column_out_of_many_counts_as_acting(offer: Offer) -> None:
    wide = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 300), torch.nn.Linear(300, 3))  # noqa: E731
    offer(defence("touch", Site.UPDATE, poisoned((0, 1, 2, 3), 7.0), acts="always"))
    result = played(experiment(wide, defences=["touch"]), 1)
    assert result.built.layout.size > 2 * 4096
    assert result.books.costs["touch"].acted == 1


def test_costs_measure_time_and_relative_change(offer: Offer) -> None:
    offer(defence("halve", Site.UPDATE, scaled(0.5)))
    cost = played(experiment(defences=["halve"])).books.costs["halve"]
    assert (cost.rounds, cost.acted) == (3, 3)
    assert cost.change == pytest.approx(1.5)
    assert cost.seconds > 0


# Aborted rounds.


@pytest.mark.parametrize("site", [Site.UPDATE, Site.COHORT, Site.RELEASE], ids=lambda site: site.label)
def test_an_aborted_round_leaves_the_state_and_keeps_what_was_spent(offer: Offer, site: Site) -> None:
    event = GaussianEvent(1.0, "client")

    def spend(signal: Updates, ctx: Round) -> Updates:
        ctx.emit(event, signal.ids)
        return scaled(0.5)(signal, ctx)

    def abort(signal: Any, ctx: Round) -> Any:
        if ctx.index == 1:
            raise RoundAborted("quorum", 2, 3)
        return signal

    offer(defence("spend", Site.UPDATE, spend), defence("quorum", site, abort))
    result = played(experiment(defences=["spend", "quorum"]))
    rows = [state.row for state in result.states]
    assert torch.equal(rows[1], rows[2])
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[2], rows[3])
    assert result.books.aborted == 1
    assert result.books.events == {i: {event: 3} for i in range(4)}


# Randomness.


def noisy(signal: Updates, ctx: Round) -> Updates:
    noise = [torch.randn(signal.params.shape[1], generator=ctx.generator(i)) for i in signal.ids]
    return signal.with_params(signal.params + 0.01 * torch.stack(noise))


def wasteful(signal: Any, ctx: Any) -> Any:
    """Draws from its own stream, and from torch's global one, and changes nothing."""
    torch.rand(100, generator=ctx.generator())
    torch.rand(100)
    return signal


SPARSE = {"clients": 6, "cohort": 4, "rounds": 3, "dropout": 0.2}


def test_two_runs_of_one_seed_are_equal_and_another_differs(offer: Offer) -> None:
    offer(defence("noisy", Site.UPDATE, noisy))
    rows = [played(experiment(mlp, defences=["noisy"], federation=SPARSE, seed=seed)).row for seed in (4, 4, 5)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("site", SITES, ids=[site.label for site in SITES])
def test_a_layer_added_elsewhere_moves_no_number(offer: Offer, site: Site) -> None:
    offer(defence("noisy", Site.UPDATE, noisy), defence("wasteful", site, wasteful))
    stack = sorted(["noisy", "wasteful"], key=lambda name: Site.UPDATE if name == "noisy" else site)
    rows = [played(experiment(mlp, defences=names, federation=SPARSE)).row for names in (["noisy"], stack)]
    assert torch.equal(*rows)


def test_the_callers_own_random_state_moves_no_number(offer: Offer) -> None:
    offer(defence("noisy", Site.UPDATE, noisy))
    torch.manual_seed(1)
    one = played(experiment(mlp, defences=["noisy"]))
    torch.manual_seed(2)
    assert torch.equal(one.row, played(experiment(mlp, defences=["noisy"])).row)


def test_noise_differs_between_rounds_clients_and_layers(offer: Offer) -> None:
    def only_noise(signal: Updates, ctx: Round) -> Updates:
        return signal.with_params(
            torch.stack([torch.randn(signal.params.shape[1], generator=ctx.generator(i)) for i in signal.ids])
        )

    offer(defence("one", Site.UPDATE, only_noise), defence("two", Site.UPDATE, only_noise))
    rows = []
    for name in ("one", "two"):
        result = played(experiment(defences=[name]), 2)
        rows += [row for k in range(2) for row in result.sent(k).values()]
    assert len({tuple(row[:4].tolist()) for row in rows}) == 2 * 2 * 4


# State.


@final
class Decaying(Defence[Updates], Stateful):
    """Scales by a factor that shrinks each round, and remembers each client's last norm."""

    def __init__(self) -> None:
        self.factor = 1.0
        self.last: dict[int, Tensor] = {}

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        self.factor *= 0.7
        before = torch.stack([self.last.get(i, torch.tensor(1.0)) for i in signal.ids])
        self.last.update(zip(signal.ids, signal.params.norm(dim=1), strict=True))
        return signal.with_params(signal.params * self.factor / (1 + before[:, None]))

    def state(self) -> dict[str, Any]:
        return {"factor": self.factor, "last": {str(i): norm for i, norm in self.last.items()}}

    def restore(self, state: Any) -> None:
        self.factor = state["factor"]
        self.last = {int(i): norm for i, norm in state["last"].items()}


DECAYING = plugin("decaying", Layer[Empty](site=Site.UPDATE, build=lambda _: Decaying()))


@pytest.mark.parametrize("stops", [1, 2, 4])
def test_plugins_with_state_resume_to_the_same_bits(offer: Offer, tmp_path: Path, stops: int) -> None:
    offer(DECAYING)

    def given(rounds: int) -> Any:
        federation = {"clients": 6, "cohort": 4, "rounds": rounds, "server": {"momentum": 0.9}}
        return experiment(mlp, defences=["decaying"], federation=federation)

    whole, tree = ran(given(5), tmp_path / "whole")
    made = built(given(5))

    class Stopping(Exception):
        pass

    class Log:
        def metrics(self, step: int, values: Any) -> None:
            if step == stops:
                raise Stopping

    from sparring.run import run_cell

    with pytest.raises(Stopping):
        run_cell(made, "lab", tmp_path / "cut", Log(), resume=False)
    again, other = ran(given(5), tmp_path / "cut", resume=True)
    assert again.history == whole.history
    assert torch.equal(tree["row"], other["row"])
    assert torch.equal(tree["extras"]["velocity"], other["extras"]["velocity"])
    assert tree["plugins"]["decaying"]["factor"] == other["plugins"]["decaying"]["factor"]


# What a passive attack is given.


@final
class Reading(PassiveAttack[UpdateView]):
    seen: list[UpdateView] = []  # noqa: RUF012

    @hookimpl
    def attack_observe(self, view: UpdateView, ctx: Setup) -> Finding | None:
        self.seen.append(view)
        return None


def reading(rounds: tuple[int, ...] | None) -> AttackSpec[Empty]:
    reader = Reader[Empty](tap=lambda _: Tap(("update",), rounds), build=lambda _: Reading(), signature=Signature(keeps=ALL))
    return AttackSpec(api=1, name="reading", config=Empty, summary="reads", game="reconstruction", reader=reader)


def test_a_tap_holds_what_was_sent_and_what_it_answered(offer: Offer, tmp_path: Path) -> None:
    offer(reading((0, 2)), defence("noisy", Site.UPDATE, noisy))
    given = experiment(attacks=[{"reading": {"clients": [0, 3]}}], defences=["noisy"])
    result = played(given)
    Reading.seen.clear()
    ran(given, tmp_path)
    (view,) = Reading.seen
    assert [(c.round, c.client) for c in view] == [(0, 0), (0, 3), (2, 0), (2, 3)]
    for capture in view:
        assert capture.client is not None
        assert torch.equal(capture.row, result.sent(capture.round)[capture.client])
        assert torch.equal(capture.parameters, result.states[capture.round].row)
        assert capture.labels is None
    assert view.settings is None


def test_labels_and_settings_are_shown_where_the_threat_model_grants_them(offer: Offer, tmp_path: Path) -> None:
    offer(reading((0,)))
    threat = {"knows": ["labels", "local-settings"]}
    given = experiment(attacks=["reading"], threat_model=threat)
    made = built(given)
    assert Knows("labels") in made.resolved.sources
    Reading.seen.clear()
    ran(given, tmp_path)
    (view,) = Reading.seen
    for capture in view:
        assert capture.client is not None
        assert capture.labels is not None
        own = made.work.data.clients[capture.client]
        assert sorted(capture.labels.tolist()) == sorted(own.y.tolist())
    assert view.settings == made.work.settings


def test_what_a_model_defence_replaced_is_told(offer: Offer, tmp_path: Path) -> None:
    offer(defence("smooth", Site.MODEL, lambda plan, ctx: plan.adapted(lambda module: module, "relu: ReLU becomes Tanh")))
    outcome, _ = ran(experiment(defences=["smooth"]), tmp_path)
    assert "model: relu: ReLU becomes Tanh" in outcome.notes
