"""What the checker reports, and the field's sentences as local signatures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sparring.checker import Missing, Report, Waiver, sight, walk
from sparring.claims import Formal
from sparring.explain import Known, explain, ordered
from sparring.facts import (
    Clipped,
    Controls,
    Fact,
    Hardware,
    Identified,
    Knows,
    PerExample,
    PoissonSampled,
    PublicData,
    Readable,
    Sensitivity,
    Space,
    Summable,
    Weighted,
)
from sparring.signature import ALL, Map, Signature, Step, compose
from sparring.sites import Site
from sparring.taps import Tap

ROWS = Readable("server", "update", "client")
SUM = Readable("server", "update", "cohort")
AT_RULE = Readable("aggregator", "update", "client")
START: tuple[Fact, ...] = (ROWS, SUM, AT_RULE, Knows("architecture"), PerExample())
CARRIED = (Summable(), Identified(), Weighted(), Space("real"))

train = Step("training", Site.TRAINER, Signature(gives=(Summable(), Identified(), Weighted(), Space("real")), keeps=ALL))
clip = Step(
    "norm-clip",
    Site.UPDATE,
    Signature(needs=(Space("real"),), gives=(Clipped("l2", "client", "all", 1.0),), keeps=(*CARRIED, PerExample())),
)
noise = Step(
    "gauss-noise",
    Site.UPDATE,
    Signature(needs=(Clipped("l2", "client"),), keeps=CARRIED, claims=(Formal("Gaussian mechanism", "client"),)),
)
signs = Step("sign-sgd", Site.UPDATE, Signature(keeps=(Identified(), Space("real"))))
seal = Step(
    "secagg",
    Site.UPDATE,
    Signature(
        needs=(Summable(),),
        gives=(Space("sealed"),),
        keeps=(Summable(), Weighted(), Clipped()),
        hides=(Readable("server", "update", "client"), Readable("aggregator", "update", "client")),
        claims=(Formal("secure sum", "client"),),
    ),
)
tee = Step("tee", Site.UPDATE, Signature(needs=(Hardware("tee"),), keeps=ALL, hides=(Readable("server", "update", "client"),)))
krum = Step("krum", Site.AGGREGATE, Signature(needs=(AT_RULE, Space("real")), keeps=ALL))
mean = Step(
    "mean",
    Site.AGGREGATE,
    Signature(needs=(Summable(),), keeps=(Weighted(),), maps=(Map(Clipped("l2", "client"), Sensitivity("client")),)),
)
central = Step(
    "central-noise",
    Site.RELEASE,
    Signature(needs=(Sensitivity("client"),), claims=(Formal("central Gaussian mechanism", "client"),)),
)
dp_sgd = Step("dp-sgd", Site.GRADIENT, Signature(needs=(PerExample(),), keeps=ALL, claims=(Formal("DP-SGD", "example"),)))
mixup = Step("mixup", Site.BATCH, Signature(keeps=()))
inversion = Tap(("update", "aggregate")).options()


def verdict(*steps: Step, start: Sequence[Fact] = START, known: Sequence[Known] = ()) -> str:
    """The explanation of a stack."""
    return explain(walk(steps, start), dict.fromkeys(start, "threat model"), known)


def needs(report: Report) -> list[tuple[str, str]]:
    """What is missing: the layer and its clause."""
    return [(report.steps[m.step].name, " or ".join(map(str, m.clause))) for m in report.missing]


def test_every_missing_need_of_every_layer_is_reported_at_once() -> None:
    report = walk([noise, mean, central, krum], ())
    assert not report.ok
    assert needs(report) == [
        ("gauss-noise", "Clipped(l2, client)"),
        ("mean", "Summable"),
        ("central-noise", "Sensitivity(client)"),
        ("krum", "Readable(aggregator, update, client)"),
        ("krum", "Space(real)"),
    ]
    text = verdict(noise, mean, central, krum, start=())
    assert text.startswith("does not type-check (6 faults): gauss-noise >> mean >> central-noise >> krum")
    assert text.count(" needs ") >= 5


def test_an_unmet_need_does_not_cause_the_next_one() -> None:
    report = walk([train, replace(clip, signature=replace(clip.signature, needs=(Knows("labels"),))), noise], START)
    assert needs(report) == [("norm-clip", "Knows(labels)")]


def test_who_lost_a_fact_is_named() -> None:
    report = walk([train, clip, signs, seal], START)
    (missing,) = report.missing
    assert missing.lost == ((Summable(), 2),)
    text = verdict(train, clip, signs, seal)
    assert "hint: Summable is lost at 2: 'sign-sgd' does not keep it." in text
    text = verdict(train, seal, krum)
    assert "hint: Readable(aggregator, update, client) is lost at 1: 'secagg' hides it." in text
    assert "no later layer can restore Readable(aggregator, update, client)" in text


def test_a_fact_lost_twice_is_blamed_on_the_last_loser() -> None:
    again = replace(clip, name="clip-again")
    report = walk([train, clip, replace(signs, name="first"), again, replace(signs, name="second"), noise], START)
    blamed = [report.steps[i].name for m in report.missing for fact, i in m.lost if isinstance(fact, Clipped)]
    assert blamed == ["second"]


def test_the_table_shows_facts_gained_and_lost_with_their_sources() -> None:
    text = verdict(train, clip, noise)
    assert text.startswith("type-checks: training >> norm-clip >> gauss-noise")
    rows = {line.split()[2]: line for line in text.splitlines() if line[:5].strip().isdigit()}
    assert "+Clipped(l2, client, all, bound=1)" in rows["norm-clip"]
    assert "-Clipped(l2, client, all, bound=1)" in rows["gauss-noise"]
    assert "threat model" in text
    assert "-->" in verdict(train, noise)


def test_an_order_that_type_checks_is_found_within_a_site() -> None:
    report = walk([train, noise, clip, mean], START)
    order = ordered(report)
    assert order == (train, clip, noise, mean)
    assert "hint: this order type-checks: training >> norm-clip >> gauss-noise >> mean" in verdict(train, noise, clip, mean)
    assert ordered(walk([train, clip, noise], START)) is None


def test_no_order_is_found_by_moving_a_layer_to_another_site() -> None:
    early = replace(noise, site=Site.STEP)
    assert ordered(walk([early, train, clip], START)) is None


def test_layers_that_step_back_are_put_in_the_order_of_their_sites() -> None:
    assert ordered(walk([mean, noise, clip, train], START)) == (train, clip, noise, mean)


def test_an_order_is_found_among_many_layers_of_one_site() -> None:
    chain = [
        Step(str(k), Site.UPDATE, Signature(needs=(PoissonSampled("client"),) if k else (), gives=gives, keeps=ALL))
        for k, gives in ((0, (PoissonSampled("client"),)), *((k, ()) for k in range(1, 9)))
    ]
    report = walk([*reversed(chain)], ())
    order = ordered(report)
    assert order is not None
    assert order[0] is chain[0]
    impossible = Step("last", Site.RELEASE, Signature(needs=(Knows("recipe"),)))
    began = time.perf_counter()
    assert ordered(walk([*chain, impossible], ())) is None
    assert time.perf_counter() - began < 5


def test_an_order_respects_what_is_waived() -> None:
    waived = Waiver(Knows("labels"), "assumed")
    second = replace(noise, signature=replace(noise.signature, needs=(Clipped("l2", "client"), Knows("labels"))))
    assert ordered(walk([train, second, clip], START, [waived])) == (train, clip, second)


def test_a_layer_that_would_help_is_named_and_one_that_is_absent_comes_with_its_distribution() -> None:
    unstamped = (Clipped("l2", "client"),)
    here, there = Known("norm-clip", unstamped), Known("l2-clip", unstamped, install="sparring-clips")
    text = verdict(train, noise, known=(here, there, Known("other", (Space("ring"),))))
    assert "hint: 'norm-clip' gives Clipped(l2, client): add it before 'gauss-noise'" in text
    assert "hint: 'l2-clip' gives Clipped(l2, client); it is not installed: pip install sparring-clips" in text
    assert "'other'" not in text
    strict = replace(noise, signature=Signature(needs=(Clipped("l2", "client", "honest"),)))
    assert "'norm-clip' gives" in verdict(train, strict, known=(here,))


def test_the_hint_names_the_layer_that_lacks_the_fact() -> None:
    other = replace(noise, name="laplace-noise")
    text = verdict(train, noise, other, known=(Known("norm-clip", (Clipped("l2", "client"),)),))
    assert "add it before 'gauss-noise'" in text
    assert "add it before 'laplace-noise'" in text


@pytest.mark.parametrize(
    ("need", "hint"),
    [
        (Knows("labels"), "grant it in the threat model (it will be logged): knows: [labels]"),
        (Controls("client", "update"), "grant it in the threat model: compromised: {control: ...}"),
        (Controls("server", "broadcast"), "grant it in the threat model: server: malicious"),
        (PublicData(), "choose a dataset that offers public data"),
        (Hardware("tee"), "declare the hardware in the threat model: hardware: [tee]"),
        (Readable("outsider", "data", "example"), "is an assumption of the threat model, which does not make it"),
    ],
)
def test_the_assumption_to_grant_is_named(need: Fact, hint: str) -> None:
    assert hint in verdict(Step("layer", Site.UPDATE, Signature(needs=(need,))))


def test_a_slot_that_is_owned_has_one_owner() -> None:
    report = walk([dp_sgd, replace(dp_sgd, name="other")], START)
    (disorder,) = report.disorders
    assert disorder.step == 1
    assert disorder.rule == "and 'dp-sgd' both own local.gradient; keep one of them"
    assert "'other' and 'dp-sgd' both own local.gradient" in verdict(dp_sgd, replace(dp_sgd, name="other"))
    assert walk([replace(mixup, site=Site.STEP), replace(mixup, site=Site.STEP)], ()).ok


def test_a_composite_owns_the_slots_at_its_ends() -> None:
    both = compose(Step("augment", Site.BATCH, Signature(keeps=ALL)), dp_sgd)
    assert both is not None
    assert not walk([both, dp_sgd], START).ok
    assert compose(both, dp_sgd) is None


def test_dp_sgd_then_mixup_steps_back_and_mixup_then_dp_sgd_misses_per_example() -> None:
    backwards = walk([dp_sgd, mixup], START)
    assert [d.rule for d in backwards.disorders] == ["acts at local.batch, after 'dp-sgd' at local.gradient"]
    forwards = walk([mixup, dp_sgd], START)
    assert not forwards.disorders
    assert needs(forwards) == [("dp-sgd", "PerExample")]
    assert forwards.missing[0].lost == ((PerExample(), 0),)
    assert ordered(backwards) is ordered(forwards) is None


def test_waivers_taint_the_layer_and_every_layer_whose_need_was_met_through_it() -> None:
    shaky = replace(clip, signature=replace(clip.signature, needs=(Knows("recipe"),)))
    waiver = Waiver(Knows("recipe"), "because")
    for stack, rest in (([shaky, noise], {"gauss-noise"}), ([shaky, mean, central], {"central-noise"})):
        report = walk([dp_sgd, train, *stack], START, [waiver])
        assert report.ok
        assert [m.waiver for m in report.missing] == [waiver]
        named = {report.steps[i].name: report.steps[origin].name for i, origin in report.tainted.items()}
        assert named == dict.fromkeys({"norm-clip"} | rest, "norm-clip")


def test_a_need_that_is_also_met_without_the_waived_layer_is_not_tainted() -> None:
    shaky = Step("shaky", Site.UPDATE, Signature(needs=(Knows("recipe"),), gives=(Clipped("l2", "client", "all"),), keeps=ALL))
    clean = Clipped("l2", "client", "honest")
    report = walk([shaky, noise], (clean,), [Waiver(Knows("recipe"), "because")])
    assert set(report.tainted) == {0}
    exact = replace(noise, signature=Signature(needs=((Clipped("l2", "client", "all"), clean),)))
    assert set(walk([shaky, exact], (clean,), [Waiver(Knows("recipe"), "because")]).tainted) == {0}
    assert set(walk([shaky, noise], (), [Waiver(Knows("recipe"), "because")]).tainted) == {0, 1}


def test_a_waiver_covers_needs_that_it_describes_and_no_others() -> None:
    waiver = Waiver(Clipped("l2"), "small models")
    assert walk([train, noise], START, [waiver]).ok
    assert not walk([train, noise], START, [Waiver(Clipped("l1"), "wrong norm")]).ok
    text = explain(walk([train, noise], START, [waiver]), {})
    assert "waived: 'gauss-noise' needs Clipped(l2, client) (small models)" in text
    assert text.startswith("type-checks")


def test_a_later_alternative_degrades_a_layer() -> None:
    either = Step("reader", Site.RELEASE, Signature(needs=((ROWS, SUM),), keeps=ALL))
    assert walk([either], START).degraded == {}
    assert walk([seal, either], (*START, Summable())).degraded == {1: SUM}


def test_krum_after_a_sealing_layer_is_refused() -> None:
    report = walk([train, seal, krum], START)
    assert ("krum", "Readable(aggregator, update, client)") in needs(report)
    assert walk([train, krum], START).ok
    assert walk([train, seal, mean], START).ok


def test_an_enclave_keeps_krum_and_blinds_the_server() -> None:
    report = walk([train, tee, krum], (*START, Hardware("tee")))
    assert report.ok
    seen = sight(report, Signature(), Tap(("update",)).options())
    assert (seen.outcome, seen.blinded_by) == ("blind", ("tee",))
    assert sight(report, Signature(), Tap(("update",), by="aggregator").options()).outcome == "runs"
    assert needs(walk([train, tee, krum], START)) == [("tee", "Hardware(tee)")]


def test_an_enclave_does_not_restore_what_was_sealed() -> None:
    report = walk([train, seal, tee, krum], (*START, Hardware("tee")))
    assert needs(report) == [("krum", "Readable(aggregator, update, client)"), ("krum", "Space(real)")]
    assert all(report.steps[i].name == "secagg" for m in report.missing for _, i in m.lost)
    assert ordered(report) is None


def test_clipping_what_is_sealed_is_refused() -> None:
    report = walk([train, seal, clip, mean], START)
    assert needs(report) == [("norm-clip", "Space(real)")]
    assert ordered(report) == (train, clip, seal, mean)


def test_an_attack_runs_is_degraded_or_blind_and_by_which_layer() -> None:
    known = Signature(needs=(Knows("architecture"),), keeps=ALL)
    plain = sight(walk([train, mean], START), known, inversion)
    assert (plain.outcome, plain.view, plain.blinded_by, str(plain)) == ("runs", "update", (), "runs on the update view")
    summed = sight(walk([train, seal, mean], START), known, inversion)
    assert (summed.outcome, summed.view, summed.blinded_by) == ("degraded", "aggregate", ("secagg",))
    assert str(summed) == "degraded to the aggregate view by secagg"
    silent = Step("silence", Site.OPEN, Signature(keeps=ALL, hides=(Readable("server", "update"),)))
    nothing = sight(walk([train, seal, mean, silent], START), known, inversion)
    assert (nothing.outcome, nothing.blinded_by) == ("blind", ("secagg",))
    assert str(nothing) == "blind: secagg hides Readable(server, update, client)"


def test_what_was_never_granted_is_not_credited_to_a_layer() -> None:
    trusted = [fact for fact in START if fact not in (ROWS, SUM)]
    seen = sight(walk([train, seal, mean], trusted), Signature(), inversion)
    assert (seen.outcome, seen.unmet) == ("ungranted", (ROWS,))
    assert str(seen) == "not granted: the threat model gives no Readable(server, update, client)"
    unknown = Signature(needs=(Knows("labels"),), keeps=ALL)
    seen = sight(walk([train, seal, mean], START), unknown, Tap(("update",)).options())
    assert (seen.outcome, seen.blinded_by, seen.unmet) == ("ungranted", (), (Knows("labels"),))


def test_a_view_that_a_layer_denies_outranks_one_that_was_never_granted() -> None:
    only_rows = [fact for fact in START if fact != SUM]
    seen = sight(walk([train, seal, mean], only_rows), Signature(), inversion)
    assert (seen.outcome, seen.blinded_by) == ("blind", ("secagg",))


def test_an_attack_reads_behind_the_site_of_its_tap_and_not_further_on() -> None:
    late = Step("late", Site.RELEASE, Signature(keeps=ALL, hides=(ROWS,)))
    assert sight(walk([train, mean, late], START), Signature(), inversion).outcome == "runs"


def test_an_attack_without_views_is_judged_at_the_start() -> None:
    active = Signature(needs=(Controls("client", "update"),), keeps=ALL)
    assert sight(walk([train], START), active, ()).outcome == "ungranted"
    granted = sight(walk([train], (*START, Controls("client", "update"))), active, ())
    assert (granted.outcome, str(granted)) == ("runs", "runs")


def test_a_stack_of_ten_is_checked_in_under_ten_milliseconds_and_a_pair_in_a_tenth() -> None:
    stack = [train, *(replace(s, name=f"{s.name}-{k}") for k in range(4) for s in (clip, noise)), mean]
    seconds = {len(steps): [0.0] * 20 for steps in (stack, [clip, noise])}
    for k in range(20):
        for steps in (stack, [clip, noise]):
            began = time.perf_counter()
            report = walk(steps, START)
            seconds[len(steps)][k] = time.perf_counter() - began
            assert isinstance(report.missing, tuple)
    assert min(seconds[10]) < 10e-3
    assert min(seconds[2]) < 0.1e-3


def test_a_missing_need_is_a_value() -> None:
    (missing,) = walk([noise], ()).missing
    assert missing == Missing(0, (Clipped("l2", "client"),), ())
