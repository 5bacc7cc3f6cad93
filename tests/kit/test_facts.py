"""Each fact of core is tested as a property of what comes out of whatever may give, keep, map or hide it."""

from __future__ import annotations

import pytest

from sparring import facts
from sparring.facts import (
    Clipped,
    Controls,
    Entangled,
    Exposure,
    Fact,
    Guarantee,
    Hardware,
    Identified,
    Judged,
    Knows,
    PerExample,
    PoissonSampled,
    PublicData,
    Readable,
    Sensitivity,
    Setting,
    Space,
    Summable,
    Weighted,
)
from sparring.testing import CHECKS, cases
from sparring.testing.granted import BY, WORLD

cases(lambda: ())
TESTED: dict[type[Fact], tuple[str, ...]] = {
    Clipped: ("clipped-given", "clipped-kept", "sensitivity-bounded", "example-clipped", "trainer-facts", "pair-bounds"),
    Sensitivity: ("sensitivity-bounded", "pair-bounds"),
    PerExample: ("per-example", "adapted-apart", "example-apart"),
    PoissonSampled: ("sampler-lots", "poisson-kept", "row-independence"),
    Summable: ("identity-kept", "summable-kept", "pair-round-trip"),
    Weighted: ("identity-kept", "weighted-kept", "trainer-facts", "pair-round-trip"),
    Judged: ("judged-given", "judged-kept"),
    Identified: ("identity-kept", "identified-kept", "trainer-facts"),
    Space: ("space-as-declared", "trainer-facts", "pair-round-trip"),
    Readable: ("sealed-rows-hide", "released-rows-hide"),
    Knows: ("granted-by-whom", "attack-reads-grants", "reader-needs-enough"),
    Controls: ("granted-by-whom",),
    Entangled: ("data-entangled",),
    PublicData: ("public-declared",),
    Hardware: ("granted-by-whom",),
}
"""Which checks test a fact; a fact that is added to core is added here, with a check that can fail."""


def test_every_fact_of_core_is_tested_by_checks_that_exist() -> None:
    kinds = {kind for kind in vars(facts).values() if isinstance(kind, type) and issubclass(kind, Fact)}
    assert set(TESTED) == kinds - {Fact, Guarantee, Exposure, Setting}
    assert all(TESTED.values())
    assert {check for checks in TESTED.values() for check in checks} <= set(CHECKS)


@pytest.mark.parametrize("kind", TESTED, ids=lambda kind: kind.__name__)
def test_every_guarantee_of_core_says_who_can_give_it(kind: type[Fact]) -> None:
    assert (kind in BY) == (not issubclass(kind, Exposure) and kind not in WORLD)
