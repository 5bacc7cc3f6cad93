"""The one line: which tests it makes, which names it refuses, and what the sampler tries."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from sparring.facts import Clipped, Identified, Space, Summable, Weighted
from sparring.hookspecs import hookimpl
from sparring.roles import SITES, ActiveAttack, Defence
from sparring.signals import Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import AnySpec, AttackSpec, Config, DefenceSpec, Empty, Layer
from sparring.testing import CHECKS, Case, Inapplicable, cases, conformance
from sparring.testing.configs import unbounded
from sparring.testing.sampler import samples
from sparring.testing.subject import PLAYED


class HalvedConfig(Config):
    factor: float = Field(0.5, gt=0, le=1, description="factor")
    times: int = Field(1, ge=1, le=1000, description="how often")
    mode: Literal["plain", "loud"] = Field("plain", description="mode")
    deep: bool = Field(False, description="whether")


class Halved(Defence[Updates]):
    def __init__(self, config: HalvedConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Any) -> Updates:
        return signal.with_params(signal.params * self.config.factor)


KEEPS = (Summable(), Identified(), Weighted(), Space("real"), Clipped(unit="client"))
LAYER = Layer[Any](site=Site.UPDATE, build=Halved, signature=Signature(keeps=KEEPS), acts="always")
HALVED = DefenceSpec(api=1, name="halved", config=HalvedConfig, summary="halves updates", layers=(LAYER,))


def plugins() -> Iterable[AnySpec]:
    return (HALVED,)


XFAIL = {
    "halved::acts-as-declared": "factor 1 changes nothing, and is drawn as the upper bound",
    "halved::light-import": "this module holds the heavy class too",
    **{f"halved::card-{law}": "this module is no distribution" for law in ("given", "reproduces", "falls")},
}
test_halved = conformance(plugins, xfail=XFAIL)


def parameters(function: Any) -> dict[str, Any]:
    (mark,) = [m for m in function.pytestmark if m.name == "parametrize"]
    return {p.id: p for p in mark.args[1]}


def test_one_test_per_technique_and_check_that_applies() -> None:
    found = parameters(test_halved)
    assert "halved::row-independence" in found
    assert "halved::permutation-invariance" not in found
    assert {name.split("::")[1] for name in found} < set(CHECKS)
    (mark,) = found["halved::acts-as-declared"].marks
    assert mark.kwargs["strict"]
    assert mark.kwargs["raises"] is AssertionError


@pytest.mark.parametrize("given", [
    {"xfail": {"halved::row-independance": "typo"}},
    {"xfail": {"halfed::row-independence": "typo"}},
    {"slow": ["halved::reconstruction-control"]},
    {"examples": {"halfed": [{}]}},
    {"fast": {"halfed": {}}},
])  # fmt: skip
def test_a_name_that_matches_nothing_is_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"matches nothing here; (did you mean|known)"):
        conformance(plugins, **given)


def test_an_expected_failure_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="no reason"):
        conformance(plugins, xfail={"halved::row-independence": " "})


def test_slow_cases_are_marked() -> None:
    marked = parameters(conformance(plugins, slow=["halved::row-independence"]))
    assert [m.name for m in marked["halved::row-independence"].marks] == ["slow"]


def test_examples_may_be_functions_of_an_empty_folder() -> None:
    seen: list[Path] = []

    def example(folder: Path) -> dict[str, Any]:
        seen.append(folder)
        assert not list(folder.iterdir())
        return {"factor": 0.25}

    (case, *_) = cases(plugins, examples={"halved": [example]})
    assert [c.factor for c in case.subject.main if isinstance(c, HalvedConfig)] == [0.5, 0.25]
    assert len(seen) == 1


@pytest.mark.parametrize("site", PLAYED, ids=lambda site: site.label)
@pytest.mark.parametrize("kind", ["defence", "attack"])
def test_every_site_has_a_stage_on_which_a_layer_that_only_looks_on_keeps_every_law(site: Site, kind: str) -> None:
    signal = next(signal for signal, sites in SITES.items() if site in sites)
    role: Any = Defence if kind == "defence" else ActiveAttack

    def body(namespace: dict[str, Any]) -> None:
        namespace[f"{kind}_transform"] = hookimpl(lambda self, signal, ctx: signal)

    made = types.new_class("Idle", (role[signal],), {}, body)
    layer = Layer[Any](site=site, build=lambda config: made(), signature=Signature(keeps=ALL), acts="never")
    spec: AnySpec = DefenceSpec(api=1, name="idle", config=Empty, summary="idle", layers=(layer,))
    if kind == "attack":
        spec = AttackSpec(api=1, name="idle", config=Empty, summary="idle", game="poisoning", layers=(layer,))
    beside = {"light-import", "entry-point", "attack-acts", "card-given", "card-reproduces", "card-falls"}
    for case in cases(lambda: (spec,)):
        if case.check.name not in beside:
            with contextlib.suppress(Inapplicable):
                case.run()


def test_one_failure_names_technique_check_configuration_value_law_and_fix() -> None:
    case = next(c for c in cases(plugins) if c.id == "halved::acts-as-declared")
    with pytest.raises(
        AssertionError, match=r"^halved::acts-as-declared with factor=1.0: .*changed nothing\n  law: (.|\n)*fix: "
    ):
        case.run()


def test_what_cannot_be_tested_is_skipped_with_the_reason() -> None:
    case: Case = next(c for c in cases(plugins) if c.id == "halved::state-restores")
    with pytest.raises(Inapplicable, match="keeps no state"):
        case.run()


def test_the_sampler_tries_bounds_literals_and_switches_one_at_a_time() -> None:
    found = [config.model_dump(exclude_unset=True) for config in samples(HalvedConfig())]
    assert {"mode": "loud"} in found
    assert {"deep": True} in found
    assert {"factor": 1.0} in found
    assert all(len(options) == 1 for options in found)
    assert all(options.get("times", 1) <= 3 for options in found)
    assert found == [config.model_dump(exclude_unset=True) for config in samples(HalvedConfig())]


@pytest.mark.parametrize(("hint", "fault"), [
    (int, "without ge"),
    (Annotated[int, Field(ge=0)], None),
    (Annotated[float | None, Field(lt=2)], None),
    (str, "without max_length"),
    (Annotated[str, Field(pattern="^a$")], None),
    (Annotated[tuple[int, ...], Field(max_length=3)], "in a tuple, a int"),
    (tuple[Annotated[int, Field(ge=0)], ...], "without max_length"),
    (tuple[Annotated[int, Field(ge=0)], bool], None),
    (Annotated[dict[str, bool], Field(max_length=3)], "in a dict, a str"),
    (Literal["a"] | bool | None, None),
    (object, "no bounds"),
])  # fmt: skip
def test_bounds_are_looked_for_in_every_part_of_a_type(hint: Any, fault: str | None) -> None:
    found = unbounded(hint)
    assert (found is None) if fault is None else (found is not None and fault in found)
