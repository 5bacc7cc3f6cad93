"""Against whom is derived, never declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.checker import Report, Waiver, walk
from sparring.claims import Formal, Heuristic
from sparring.facts import Clipped, Entangled, Fact, Grain, Hardware, Principal, Readable, Sensitivity, Summable, What
from sparring.protection import CONTENTS, claims, principals, protects
from sparring.schema import File, ThreatModel
from sparring.signature import ALL, Map, Signature, Step
from sparring.sites import Site
from sparring.taps import read_after
from sparring.threat import start_facts

THREAT: tuple[Fact, ...] = (
    Readable("server", "update", "client"),
    Readable("server", "update", "cohort"),
    Readable("server", "model", "round"),
    Readable("client", "model", "round"),
    Readable("outsider", "model", "run"),
    Readable("outsider", "response", "example"),
    Readable("aggregator", "update", "client"),
    Readable("server", "trace", "round"),
)
EVENT = Formal("Gaussian mechanism", "client")


def noise(site: Site, name: str = "noise", *needs: Fact) -> Step:
    """A layer that emits an event."""
    return Step(name, site, Signature(needs=needs, keeps=ALL, claims=(EVENT,)))


def hiding(site: Site, *hidden: Fact, needs: tuple[Fact, ...] = ()) -> Step:
    """A layer, such as a host, that hides."""
    return Step("host", site, Signature(needs=needs, keeps=ALL, hides=hidden))


def against(report: Report) -> tuple[Principal, ...]:
    """Whom the last claim of the stack protects against."""
    return claims(report)[-1].against


@pytest.mark.parametrize("server", ["trusted", "honest-but-curious", "malicious"])
def test_raw_data_that_are_shown_are_read_before_any_update(server: str) -> None:
    file = File.model_validate(
        {"dataset": {"name": "any"}, "model": {"name": "any"}, "threat_model": {"server": server, "raw_data": True}}
    )
    shown = start_facts(file, Signature(), Signature())
    hidden = start_facts(file.model_copy(update={"threat_model": ThreatModel(server=server)}), Signature(), Signature())
    extra = {Readable("server", "data", "example"), Readable("server", "labels", "example")}
    assert set(shown) - set(hidden) == extra
    assert set(hidden) < set(shown)
    assert {shown[fact] for fact in extra} == {"threat model"}
    assert "server" not in against(walk([noise(Site.UPDATE)], shown)), "noise on updates does not protect what was shown"


def test_local_noise_protects_from_everyone() -> None:
    assert against(walk([noise(Site.UPDATE)], THREAT)) == ("server", "client", "outsider")


def test_central_noise_protects_from_all_but_the_server() -> None:
    report = walk([noise(Site.RELEASE)], THREAT)
    assert against(report) == ("client", "outsider")
    assert not protects(report, 0, "server")


def test_central_noise_protects_from_a_server_from_which_a_host_hides_the_updates() -> None:
    enclave = hiding(Site.UPDATE, Readable("server", "update"))
    assert against(walk([enclave, noise(Site.RELEASE)], THREAT)) == ("server", "client", "outsider")


def test_an_enclave_that_hands_the_exact_sum_to_the_server_does_not_make_central_noise_protect_from_it() -> None:
    enclave = hiding(Site.UPDATE, Readable("server", "update", "client"))
    assert "server" not in against(walk([enclave, noise(Site.RELEASE)], THREAT))


def test_what_is_hidden_after_it_was_read_was_read() -> None:
    late = hiding(Site.RELEASE, Readable("server", "update"))
    assert "server" not in against(walk([late, noise(Site.RELEASE)], THREAT))


def test_dp_sgd_protects_from_readers_of_updates_but_not_of_data_labels_or_activations() -> None:
    dp_sgd = noise(Site.GRADIENT)
    assert "server" in against(walk([dp_sgd], THREAT))
    earlier: tuple[What, ...] = ("data", "labels", "activation", "gradient")
    for what in earlier:
        report = walk([dp_sgd], (*THREAT, Readable("server", what, "example"), Readable("outsider", "data", "example")))
        assert against(report) == ("client",)


def test_a_tap_that_a_layer_grants_on_the_way_counts() -> None:
    sealing = Step(
        "secagg",
        Site.UPDATE,
        Signature(keeps=ALL, gives=(Readable("server", "update", "cohort"),), hides=(Readable("server", "update", "client"),)),
    )
    rows_only = (Readable("server", "update", "client"), Readable("client", "model", "round"))
    assert "server" not in against(walk([sealing, noise(Site.RELEASE)], rows_only))
    assert "server" in against(walk([sealing, noise(Site.OPEN)], rows_only))


def test_noise_on_responses_protects_from_those_who_only_ask() -> None:
    asks = (Readable("outsider", "response", "example"),)
    assert against(walk([noise(Site.RESPONSE)], asks)) == ("outsider",)
    assert against(walk([noise(Site.RESPONSE)], THREAT)) == ()


def test_an_outsider_of_whom_nothing_is_said_reads_the_model() -> None:
    assert principals(walk([], ())) == ("outsider",)
    assert against(walk([noise(Site.RELEASE)], ())) == ("outsider",)
    assert against(walk([noise(Site.RESPONSE)], ())) == ()


def test_a_principal_that_reads_nothing_from_the_start_is_not_considered() -> None:
    assert principals(walk([], THREAT[3:5])) == ("client", "outsider")


def test_sizes_and_times_are_no_contents() -> None:
    traced = (Readable("server", "trace", "round"), Readable("outsider", "trace", "round"))
    assert protects(walk([noise(Site.UPDATE)], traced), 0, "server")
    assert set(get_args(What)) - CONTENTS == {"trace"}


@pytest.mark.parametrize(
    ("what", "grain", "site"),
    [
        ("update", "example", Site.UPDATE),
        ("update", "client", Site.UPDATE),
        ("update", "group", Site.OPEN),
        ("update", "cohort", Site.OPEN),
        ("logits", "client", Site.UPDATE),
        ("model", "run", Site.RELEASE),
        ("response", "example", Site.RESPONSE),
        ("data", "client", Site.DATA),
    ],
)
def test_each_thing_is_read_behind_its_site(what: What, grain: Grain, site: Site) -> None:
    assert read_after(what, grain) is site


def test_every_readable_thing_has_a_reading_point() -> None:
    for what in get_args(What):
        for grain in (None, *get_args(Grain)):
            assert isinstance(read_after(what, grain), Site)


readables = st.builds(
    Readable,
    st.sampled_from(["server", "client", "outsider"]),
    st.sampled_from(get_args(What)),
    st.sampled_from(get_args(Grain)),
)
sites = st.sampled_from([Site.DATA, Site.BATCH, Site.GRADIENT, Site.UPDATE, Site.OPEN, Site.RELEASE, Site.RESPONSE])


@given(st.lists(readables, max_size=6), st.lists(sites, min_size=2, max_size=4).map(sorted), readables)
def test_more_readers_and_later_events_never_protect_from_more(
    start: Sequence[Fact], at: list[Site], another: Readable
) -> None:
    report = walk([noise(site, str(k)) for k, site in enumerate(at)], start)
    more = walk(report.steps, (*start, another))
    for principal in ("server", "client"):
        kept = [protects(report, i, principal) for i in range(len(at))]
        assert kept == sorted(kept, reverse=True)
        assert all(protects(report, i, principal) or not protects(more, i, principal) for i in range(len(at)))


def test_a_hide_that_rests_on_a_waived_need_protects_from_nobody() -> None:
    enclave = hiding(Site.UPDATE, Readable("server", "update"), needs=(Hardware("tee"),))
    steps = [enclave, noise(Site.RELEASE)]
    assert "server" in against(walk(steps, (*THREAT, Hardware("tee"))))
    waived = walk(steps, THREAT, [Waiver(Hardware("tee"), "no hardware here")])
    assert waived.ok
    assert against(waived) == ("client", "outsider")


def test_claims_that_rest_on_a_waived_need_are_withdrawn_and_say_why() -> None:
    shaky = Step("clip", Site.UPDATE, Signature(needs=(Summable(),), gives=(Clipped("l2", "client", "all", 1.0),), keeps=ALL))
    mean = Step("mean", Site.AGGREGATE, Signature(keeps=ALL, maps=(Map(Clipped("l2", "client"), Sensitivity("client")),)))
    central = noise(Site.RELEASE, "central", Sensitivity("client"))
    other = noise(Site.UPDATE, "other")
    report = walk([other, shaky, mean, central], THREAT, [Waiver(Summable(), "we know better")])
    lines = {line.name: line for line in claims(report)}
    assert lines["other"].withdrawn is None
    assert lines["central"].withdrawn == "'clip' needs Summable, waived: we know better"
    assert "withdrawn: 'clip' needs Summable" in str(lines["central"])
    assert str(lines["other"]) == "'other': formal: Gaussian mechanism, per client, against server, client, outsider"


def test_claims_of_a_stack_that_does_not_type_check_are_withdrawn() -> None:
    (line,) = claims(walk([noise(Site.UPDATE, "noise", Clipped("l2"))], THREAT))
    assert line.withdrawn == "'noise' needs Clipped(l2), which does not hold"


def test_every_claim_of_every_layer_has_a_line() -> None:
    two = replace(noise(Site.UPDATE), signature=Signature(keeps=ALL, claims=(EVENT, Heuristic("blurs"))))
    lines = claims(walk([two, noise(Site.RELEASE, "late")], THREAT))
    assert [(line.name, line.claim) for line in lines] == [("noise", EVENT), ("noise", Heuristic("blurs")), ("late", EVENT)]


def test_no_formal_claim_stands_behind_a_layer_that_entangles_clients() -> None:
    mixing = Step("filter", Site.DATA, Signature(gives=(Entangled(),), keeps=ALL, claims=(Heuristic("it filters"),)))
    before, behind = (claims(walk(steps, THREAT)) for steps in ([noise(Site.UPDATE)], [mixing, noise(Site.UPDATE)]))
    assert before[-1].withdrawn is None
    assert behind[0].withdrawn is None
    assert "'filter'" in (behind[-1].withdrawn or "")
