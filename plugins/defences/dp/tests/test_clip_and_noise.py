"""Clipping bounds every row; the noise has the variance that its event claims."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sparring_dp.gauss_noise import GaussNoise
from sparring_dp.norm_clip import NormClip
from sparring_dp.plugin import GAUSS_NOISE, NORM_CLIP, GaussNoiseConfig, NormClipConfig

from sparring.checker import walk
from sparring.claims import GaussianEvent
from sparring.context import Round, Wire
from sparring.errors import CompositionError, ConfigError, NumericalError
from sparring.facts import Clipped, Identified, Space, Summable, Weighted
from sparring.keys import Key
from sparring.layout import Layout
from sparring.signals import Updates
from sparring.signature import Step


def context(*facts: Clipped, index: int = 0) -> tuple[Round, list[tuple[GaussianEvent, tuple[int, ...]]]]:
    emitted: list[tuple[GaussianEvent, tuple[int, ...]]] = []
    ctx = Round(
        index, 10, Key(3), Wire(index, lambda stage, client: False), "layer", facts=facts,
        emit=lambda event, ids: emitted.append((event, tuple(ids))),
    )  # fmt: skip
    return ctx, emitted


def updates(rows: torch.Tensor, buffers: int = 0, ids: tuple[int, ...] | None = None) -> Updates:
    parts = [("w", (rows.shape[1] - buffers,), "parameter")] + ([("b", (buffers,), "buffer")] if buffers else [])
    return Updates(rows, Layout.build(parts), ids or tuple(range(10, 10 + len(rows))), torch.ones(len(rows)))


def clip(bound: float, given_: Updates) -> Updates:
    return NormClip(NormClipConfig(bound=bound)).defence_transform(given_, context()[0])


@settings(max_examples=80, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 400), st.floats(-6, 6))
def test_clipped_rows_are_bounded_parallel_and_idempotent(bound: float, seed: int, n: int, d: int, scale: float) -> None:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * 10**scale
    signal = updates(rows)
    out = clip(bound, signal)
    before, after = rows.double().norm(dim=1), out.rows.double().norm(dim=1)
    assert (after <= bound).all()
    inside = before <= bound
    assert torch.equal(out.rows[inside], rows[inside])
    torch.testing.assert_close(out.rows, (rows.double() * (bound / before).clamp(max=1)[:, None]).float())
    assert torch.equal(clip(bound, out).rows, out.rows)
    assert (out.ids, out.layout) == (signal.ids, signal.layout)


def test_zero_and_huge_rows_and_an_empty_cohort() -> None:
    rows = torch.stack([torch.zeros(5), torch.full((5,), 1e38), torch.tensor([1e-45, 0, 0, 0, 0])])
    out = clip(2.0, updates(rows)).rows
    assert torch.equal(out[0], rows[0])
    assert torch.equal(out[2], rows[2])
    assert float(out[1].norm()) == pytest.approx(2.0)
    assert clip(1.0, updates(torch.zeros(0, 5))).rows.shape == (0, 5)


def test_buffers_neither_count_nor_change() -> None:
    rows = torch.cat([torch.full((2, 4), 0.1), torch.full((2, 3), 1e4)], dim=1)
    assert torch.equal(clip(1.0, updates(rows, buffers=3)).rows, rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_name_their_client(value: float) -> None:
    rows = torch.zeros(3, 2)
    rows[1, 0] = value
    with pytest.raises(NumericalError, match="client 11"):
        clip(1.0, updates(rows))


def test_rows_do_not_depend_on_each_other() -> None:
    noise = GaussNoise(GaussNoiseConfig(noise_multiplier=2.0))
    signal = updates(torch.randn(4, 7))
    ctx, _ = context(Clipped("l2", "client", "honest", 1.0))
    whole = noise.defence_transform(signal, ctx)
    mixed = noise.defence_transform(signal.select((13, 11)), ctx)
    assert torch.equal(mixed.rows, whole.rows[[3, 1]])
    other = noise.defence_transform(replace(signal, rows=torch.cat([signal.rows[:1], torch.zeros(3, 7)])), ctx)
    assert torch.equal(other.rows[0], whole.rows[0])


def test_noise_has_the_claimed_variance_and_is_fresh() -> None:
    z, C, n, d = 0.7, 3.0, 4, 20_000
    signal = updates(torch.ones(n, d))
    ctx, emitted = context(Clipped("l2", "client", "honest", C))
    layer = GaussNoise(GaussNoiseConfig(noise_multiplier=z))
    noise = layer.defence_transform(signal, ctx).rows - 1
    statistic = float((noise.double() / (z * C)).square().sum())
    assert stats.chi2.ppf(1e-4, n * d) < statistic < stats.chi2.ppf(1 - 1e-4, n * d)
    assert abs(float(noise.mean())) < 4 * z * C / (n * d) ** 0.5
    assert float(torch.corrcoef(noise).fill_diagonal_(0).abs().max()) < 0.04
    again = layer.defence_transform(signal, context(Clipped("l2", "client", "honest", C), index=1)[0]).rows - 1
    assert float(torch.corrcoef(torch.stack([noise[0], again[0]]))[0, 1].abs()) < 0.04
    assert emitted == [(GaussianEvent(z, unit="client", rate=1.0, steps=1), signal.ids)]


def test_noise_needs_a_bound_and_rows_that_it_covers() -> None:
    layer = GaussNoise(GaussNoiseConfig())
    with pytest.raises(ConfigError, match="norm-clip"):
        layer.defence_transform(updates(torch.zeros(2, 3)), context(Clipped("l1", "client", "honest", 1.0))[0])
    with pytest.raises(CompositionError, match="b"):
        layer.defence_transform(updates(torch.zeros(2, 3), buffers=1), context(Clipped("l2", "client", "honest", 1.0))[0])


def test_the_stack_type_checks_in_one_order_only() -> None:
    start = (Summable(), Identified(), Weighted(), Space("real"))
    layers = [
        (NORM_CLIP.name, NORM_CLIP.layers[0].facts(NormClipConfig())),
        (GAUSS_NOISE.name, GAUSS_NOISE.layers[0].facts(GaussNoiseConfig())),
    ]
    clip_, noise = (Step(name, NORM_CLIP.layers[0].site, signature) for name, signature in layers)
    good = walk([clip_, noise], start)
    assert good.ok
    assert set(good.facts) == set(start)
    assert not walk([noise, clip_], start).ok
