"""Laws of products, norms and projections of rows: they are what float64 says, near and far, however many columns there are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring import rowwise

COLUMNS = st.one_of(st.integers(0, 40), st.sampled_from([rowwise.BATCH - 1, rowwise.BATCH, 3 * rowwise.BATCH + 7]))


def rows_of(n: int, d: int, seed: int, near: bool, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows that are apart, or that differ by a millionth of their size."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (torch.randn(d, generator=generator, dtype=torch.float64) + 1e-6 * rows if near else rows).to(dtype)


@given(
    n=st.integers(0, 7), d=COLUMNS, seed=st.integers(0, 99), near=st.booleans(), double=st.booleans(), where=st.integers(-1, 7)
)
@settings(max_examples=60, deadline=None)
def test_products_and_norms_are_those_of_float64(n: int, d: int, seed: int, near: bool, double: bool, where: int) -> None:
    rows = rows_of(n, d, seed, near, torch.float64 if double else torch.float32)
    origin = None if where < 0 else where % n if where < n else rows_of(1, d, seed + 1, False, rows.dtype)[0]
    point = 0 if origin is None else (rows[origin] if isinstance(origin, int) else origin).double()
    apart = rows.double() - point
    size = apart.norm(dim=1)
    tolerance = 1e-6 * size[:, None] * size[None, :] + 1e-300
    assert bool(((rowwise.products(rows, origin) - apart @ apart.T).abs() <= tolerance).all())
    vector = rows[origin] if isinstance(origin, int) else origin
    assert torch.allclose(rowwise.norms(rows, vector), size, rtol=1e-6, atol=0)


@given(n=st.integers(0, 5), d=COLUMNS, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_projection_is_that_of_float64(n: int, d: int, seed: int) -> None:
    rows, vector = rows_of(n, d, seed, False), rows_of(1, d, seed + 1, False)[0]
    scale = rows.double().norm(dim=1) * vector.double().norm()
    assert bool(((rowwise.along(rows, vector) - rows.double() @ vector.double()).abs() <= 1e-6 * scale + 1e-300).all())


@pytest.mark.parametrize("origin", [None, 1, torch.full((3000,), -1e25)])
def test_what_overflows_in_float32_is_formed_in_float64(origin: Tensor | int | None) -> None:
    rows = torch.full((2, 3000), 1e25)
    rows[1] = 1
    point = torch.zeros(()) if origin is None else rows[origin] if isinstance(origin, int) else origin
    apart = rows.double() - point.double()
    assert torch.allclose(rowwise.products(rows, origin), apart @ apart.T)
    vector = None if origin is None else point
    assert torch.allclose(rowwise.norms(rows, vector), apart.norm(dim=1))


def test_half_precision_is_widened() -> None:
    rows = torch.full((2, 5000), 300.0, dtype=torch.float16)
    assert rowwise.products(rows).tolist() == [[4.5e8] * 2] * 2
    assert rowwise.norms(rows, torch.zeros(5000, dtype=torch.float16)).tolist() == pytest.approx([4.5e8**0.5] * 2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_row(value: float) -> None:
    rows = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))
    rows[2, 7] = value
    assert rowwise.norms(rows).isfinite().tolist() == [True, True, False, True]
    assert rowwise.products(rows).diagonal().isfinite().tolist() == [True, True, False, True]
    assert rowwise.products(rows, 0).diagonal().isfinite().tolist() == [True, True, False, True]
