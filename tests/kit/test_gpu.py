"""What the checks on a device conclude from their measurements; this part needs no device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparring.signals import Cohort, Updates
from sparring.sites import Site
from sparring.testing import Inapplicable
from sparring.testing.gpu import ALLOWANCE, WAITS, compare, cuda, difference, moved, too_large, too_many
from sparring.testing.stage import make_signal
from sparring.testing.subject import Trial
from tests.kit.making import defence, shifted, subject

CPU = torch.device("cpu")
X = torch.linspace(-1, 1, 50)


def test_without_a_device_the_checks_say_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(Inapplicable, match="no CUDA device"):
        cuda()


def test_outcomes_of_two_devices_agree_within_float_tolerance() -> None:
    assert difference([X * (1 + 1e-6)], [X], [0 * X], random=False) is None
    assert "differ by" in str(difference([X * 1.01], [X], [0 * X], random=False))
    assert "shapes" in str(difference([X.double()], [X], [0 * X], random=False))
    assert "shapes" in str(difference([X[:9]], [X], [0 * X], random=False))


def test_random_outcomes_agree_in_the_size_of_what_was_added() -> None:
    noise = [torch.randn(50, generator=torch.Generator().manual_seed(k)) for k in (1, 2)]
    assert difference([X + noise[0]], [X + noise[1]], [X], random=True) is None
    assert "norm" in str(difference([X + 2 * noise[0]], [X + noise[1]], [X], random=True))


def test_waits_may_be_few_but_not_grow_with_the_clients() -> None:
    assert too_many(0, 0) is None
    assert too_many(WAITS, WAITS) is None
    assert "twice as many clients" in str(too_many(1, 2))
    assert "times in a round" in str(too_many(WAITS + 1, WAITS + 1))


def test_memory_may_hold_the_output_and_a_quarter() -> None:
    given = 400 << 20
    assert too_large(given, given, given) is None
    assert too_large(int(1.5 * given), given, given) is None
    assert "fair" in str(too_large(2 * given, given, given))
    assert too_large(ALLOWANCE, 0, 0) is None
    assert "fair" in str(too_large(given, given, 4 << 20))


@pytest.mark.parametrize("site", [Site.UPDATE, Site.COHORT, Site.RELEASE, Site.BROADCAST], ids=lambda site: site.label)
def test_signals_move_with_all_their_tensors(site: Site) -> None:
    signal: Any = make_signal(site)
    there: Any = moved(signal, torch.device("meta"))
    assert type(there) is type(signal)
    assert there.layout == signal.layout
    rows = there.rows if isinstance(there, Updates) else there.base if isinstance(there, Cohort) else None
    tensor = rows if rows is not None else there.vector if site is Site.RELEASE else there.row
    assert tensor.is_meta


def test_a_layer_is_compared_with_itself_on_another_device() -> None:
    plain = subject(defence(lambda self, s, ctx: s.with_params(s.params / 2)))
    assert compare(Trial(plain, plain.main[0], False, 0), CPU) is None
    random = subject(defence(shifted))
    assert compare(Trial(random, random.main[0], False, 0), CPU) is None
