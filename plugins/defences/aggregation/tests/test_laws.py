"""Laws of every rule of the table: order, translation, scale, agreement, and what f rows can do below and at the breakdown."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

_spec = importlib.util.spec_from_file_location("sparring_aggregation_laws", Path(__file__).with_name("laws.py"))
assert _spec is not None
assert _spec.loader is not None
laws = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = laws
_spec.loader.exec_module(laws)

EVERY = pytest.mark.parametrize("label", laws.RULES)
FLAT = settings(max_examples=50, deadline=None)


@st.composite
def cases(draw: st.DrawFn, rule: object, largest: int = 40) -> tuple[Tensor, int]:
    """Gaussian rows [n, d] in float64 and an f that the rule bears."""
    n = draw(st.integers(rule.least, largest))
    d = draw(st.integers(1, 9))
    f = draw(st.integers(0, rule.most(n)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return torch.randn(n, d, generator=generator, dtype=torch.float64), f


def permuted(data: st.DataObject, n: int) -> Tensor:
    return torch.tensor(data.draw(st.permutations(range(n))))


def test_the_table_names_every_rule() -> None:
    offered = {s.name for s in laws.SPECS.values() if s.kind == "aggregators"}
    assert {rule.name for rule in laws.RULES.values()} | set(laws.ELSEWHERE) == offered


@EVERY
@given(data=st.data())
@FLAT
def test_the_order_of_rows_does_not_matter(label: str, data: st.DataObject) -> None:
    rule = laws.RULES[label]
    rows, f = data.draw(cases(rule))
    weights = 0.5 + torch.rand(len(rows), dtype=torch.float64)
    order = permuted(data, len(rows))
    torch.testing.assert_close(
        rule.release(rows[order], f, weights[order], tuple(order.tolist())),
        rule.release(rows, f, weights),
        rtol=rule.near,
        atol=rule.near,
    )


@pytest.mark.parametrize("label", [label for label, rule in laws.RULES.items() if rule.moves])
@given(data=st.data())
@FLAT
def test_translation_passes_through(label: str, data: st.DataObject) -> None:
    rule = laws.RULES[label]
    rows, f = data.draw(cases(rule))
    shift = 10 * torch.randn(rows.shape[1], dtype=torch.float64)
    torch.testing.assert_close(rule.release(rows + shift, f), rule.release(rows, f) + shift, rtol=rule.near, atol=rule.near)


@pytest.mark.parametrize("label", [label for label, rule in laws.RULES.items() if rule.scales])
@given(data=st.data(), scale=st.one_of(st.floats(1e-3, 1e3), st.floats(-1e3, -1e-3)))
@FLAT
def test_scale_and_sign_pass_through(label: str, data: st.DataObject, scale: float) -> None:
    rule = laws.RULES[label]
    rows, f = data.draw(cases(rule))
    torch.testing.assert_close(rule.release(scale * rows, f) / scale, rule.release(rows, f), rtol=rule.near, atol=rule.near)


@EVERY
@given(n=st.integers(3, 40), d=st.integers(1, 9), data=st.data())
@FLAT
def test_identical_rows_give_that_row(label: str, n: int, d: int, data: st.DataObject) -> None:
    rule = laws.RULES[label]
    row = torch.randn(d) if rule.moves else torch.nn.functional.normalize(torch.randn(d), dim=0)
    f = data.draw(st.integers(0, rule.most(n)))
    torch.testing.assert_close(rule.release(row.expand(n, d).clone(), f), row, rtol=1e-6, atol=0)


@EVERY
@given(data=st.data())
@FLAT
def test_f_outliers_move_it_no_further_than_its_bound(label: str, data: st.DataObject) -> None:
    rule = laws.RULES[label]
    rows, f = data.draw(cases(rule))
    n, d = rows.shape
    order = permuted(data, n)
    directions = torch.randn(f if data.draw(st.booleans()) else 1, d, dtype=torch.float64).sign().expand(f, d)
    honest, clean = rows[: n - f], rule.release(rows[order], f)
    found = rule.release(torch.cat([honest, laws.FAR * directions + rows[n - f :]])[order], f)
    if rule.inside:
        assert bool(((found >= honest.amin(0) - 1e-9) & (found <= honest.amax(0) + 1e-9)).all())
        honest = torch.cat([honest, clean[None]])
    assert float((found - clean).norm()) <= rule.bound(honest, clean, n, f) * (1 + 1e-6) + 1e-9


@EVERY
@pytest.mark.parametrize("n", [7, 12, 23])
def test_at_the_breakdown_it_breaks(label: str, n: int) -> None:
    rule = laws.RULES[label]
    rows = torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    f, liars = rule.most(n), rule.breaks(n)
    clean = rule.release(rows, f, rounds=rule.rounds)
    rows[:liars] = laws.FAR
    assert float((rule.release(rows, f, rounds=rule.rounds) - clean).norm()) > rule.beyond


@EVERY
@pytest.mark.parametrize("n", [9, 33])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_never_becomes_a_number(label: str, n: int, value: float) -> None:
    """NaN or Inf in one coordinate of one row: the release is not finite there, or lies among the finite values."""
    rule = laws.RULES[label]
    rows = torch.randn(n, 5)
    rows[4, 2] = value
    found = rule.release(rows, min(1, rule.most(n)))
    low, high = (rows.nan_to_num(sign * 9, sign * 9, sign * 9) for sign in (1, -1))
    inside = (found >= low.amin(0) - 1e-6) & (found <= high.amax(0) + 1e-6)
    assert bool((~found.isfinite() | inside).all())


@EVERY
def test_nearly_equal_rows_are_told_apart(label: str) -> None:
    """Rows about 3 that differ by 1e-6, in float32: the release is that of float64, to the last bits of float32."""
    rule = laws.RULES[label]
    generator = torch.Generator().manual_seed(1)
    rows = (3 + torch.rand(1, 5000, generator=generator) + 1e-6 * torch.randn(11, 5000, generator=generator)).float()
    wanted = rule.release(rows.double(), rule.most(11))
    assert float((rule.release(rows, rule.most(11)).double() - wanted).abs().max()) <= 2e-6
