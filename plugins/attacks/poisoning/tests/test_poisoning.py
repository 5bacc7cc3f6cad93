"""Laws of the poisoning attacks: what is sent, what is read, and what one aggregation step makes of it."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_poisoning.alie import z_max
from sparring_poisoning.plugin import sparring_plugins
from torch import Tensor

from sparring.checker import walk
from sparring.context import Round, Wire
from sparring.errors import ConfigError
from sparring.facts import Clipped, Controls, Fact, Knows, Sensitivity, Space, Summable
from sparring.keys import Key
from sparring.layout import Layout
from sparring.signals import Updates
from sparring.signature import Step
from sparring.sites import Site

SPECS = {spec.name: spec for spec in sparring_plugins()}
CONTROL = Controls("client", "update")


def updates(rows: Tensor, buffers: int = 0, first: int = 0) -> Updates:
    parts = [("w", (rows.shape[1] - buffers,), "parameter"), ("running", (buffers,), "buffer")]
    ids = tuple(range(first, first + len(rows)))
    return Updates(rows, Layout.build(parts), ids, torch.arange(1.0, len(rows) + 1))


def context(n: int, benign: Tensor | None = None, buffers: int = 0) -> Round:
    honest = None if benign is None else updates(benign, buffers, first=n - len(benign))
    wire = Wire(0, lambda stage, client: False)
    return Round(0, 1, Key(0), wire, layer="attack", cohort=tuple(range(n)), benign=benign, honest=honest)


def attacked(name: str, signal: Updates, ctx: Round, **options: object) -> Updates:
    spec = SPECS[name]
    (layer,) = spec.layers
    return layer.build(spec.config(**options)).attack_transform(signal, ctx)


def trimmed_mean(rows: Tensor, f: int) -> Tensor:
    return rows.sort(dim=0).values[f : len(rows) - f].mean(dim=0)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize(("n", "m", "z"), [(50, 10, 0.253), (51, 24, 1.446)])
def test_z_of_the_paper(n: int, m: int, z: float) -> None:
    assert z_max(n, m) == pytest.approx(z, abs=1e-3)


@given(n=st.integers(1, 500), data=st.data())
def test_z_leaves_enough_benign_supporters(n: int, data: st.DataObject) -> None:
    """In expectation, s benign values lie beyond z: with the m of the attack they are a majority of n."""
    m = data.draw(st.integers(0, n))
    z = z_max(n, m)
    assert math.isfinite(z)
    if 0 < m < n // 2 + 1 < n:
        supporters = (n - m) * (1 - NormalDist().cdf(z))
        assert supporters + m == pytest.approx(n // 2 + 1, abs=1e-6)
    if m < n:
        assert z_max(n + 2, m + 1) >= z - 1e-9


@given(scale=st.floats(1e-3, 1e3), m=st.integers(0, 6), buffers=st.integers(0, 3))
@settings(deadline=None)
def test_sign_flip_sends_minus_c_times_the_own_update(scale: float, m: int, buffers: int) -> None:
    signal = updates(torch.randn(m, 8), buffers)
    out = attacked("sign-flip", signal, context(10), scale=scale)
    torch.testing.assert_close(out.params, -scale * signal.params)
    assert torch.equal(out.rows[:, 8 - buffers :], signal.rows[:, 8 - buffers :])
    assert (out.ids, out.layout) == (signal.ids, signal.layout)
    assert out.weights is signal.weights


@given(
    m=st.integers(1, 6), benign=st.integers(1, 9), z=st.none() | st.floats(-3, 3), knowledge=st.sampled_from(["own", "benign"])
)
@settings(deadline=None)
def test_alie_sends_mean_less_z_deviations(m: int, benign: int, z: float | None, knowledge: str) -> None:
    signal = updates(torch.randn(m, 8, dtype=torch.float64), 2)
    before = signal.rows.clone()
    seen = torch.randn(benign, 8, dtype=torch.float64)
    out = attacked("alie", signal, context(m + benign, seen, 2), z=z, knowledge=knowledge)
    rows = (seen if knowledge == "benign" else signal.rows)[:, :6].numpy()
    used = z_max(m + benign, m) if z is None else z
    expected = np.mean(rows, axis=0) - used * np.std(rows, axis=0)
    np.testing.assert_allclose(out.params, np.tile(expected, (m, 1)), rtol=1e-12, atol=1e-12)
    assert torch.equal(out.rows[:, 6:], signal.rows[:, 6:])
    assert torch.equal(signal.rows, before)
    assert (out.ids, out.layout) == (signal.ids, signal.layout)
    out.rows[0] += 1
    assert m == 1 or torch.equal(out.params[1], out.params[-1])


def test_alie_reads_only_what_its_knowledge_names() -> None:
    signal, other = updates(torch.randn(3, 5)), updates(torch.randn(3, 5))
    one, two = context(10, torch.randn(7, 5)), context(10, torch.randn(7, 5))

    def sent(signal: Updates, ctx: Round, knowledge: str) -> Tensor:
        return attacked("alie", signal, ctx, knowledge=knowledge, z=1.0).rows

    assert torch.equal(sent(signal, one, "own"), sent(signal, two, "own"))
    assert torch.equal(sent(signal, one, "own"), sent(signal, replace(one, benign=None, honest=None), "own"))
    assert not torch.equal(sent(signal, one, "own"), sent(other, one, "own"))
    assert torch.equal(sent(signal, one, "benign"), sent(other, one, "benign"))
    assert not torch.equal(sent(signal, one, "benign"), sent(signal, two, "benign"))


def test_alie_is_refused_benign_updates_that_it_is_not_granted() -> None:
    with pytest.raises(ConfigError, match=r"'attack' has knowledge: benign.*knows: \[benign-updates\]"):
        attacked("alie", updates(torch.randn(3, 5)), context(10), knowledge="benign")


@pytest.mark.parametrize("knowledge", ["own", "benign"])
def test_alie_at_the_edges(knowledge: str) -> None:
    nobody = torch.zeros(0, 5)
    none = updates(nobody)
    assert attacked("alie", none, context(4, torch.randn(4, 5)), knowledge=knowledge) is none
    every = updates(torch.randn(4, 5))
    alone = attacked("alie", every, context(4, nobody), knowledge=knowledge)
    torch.testing.assert_close(alone.rows, every.rows.mean(0).expand(4, 5))
    one = updates(torch.randn(1, 5))
    if knowledge == "own":
        assert torch.equal(attacked("alie", one, context(9), knowledge=knowledge, z=2.0).rows, one.rows)


@pytest.mark.parametrize("seed", range(5))
def test_scaled_sign_flip_of_a_quarter_reverses_the_mean_but_not_the_trimmed_mean(seed: int) -> None:
    """Twenty Gaussian updates around a common direction, five of them flipped and scaled by 4."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(2000, generator=generator)
    rows = direction + 0.5 * torch.randn(20, 2000, generator=generator)
    honest = rows[5:].mean(0)
    bad = attacked("sign-flip", updates(rows[:5]), context(20), scale=4.0)
    sent = torch.cat([bad.rows, rows[5:]])
    assert cosine(sent.mean(0), honest) < -0.5
    along = float(sent.mean(0) @ direction / direction.square().sum())
    assert along == pytest.approx(1 - (1 + 4) * 0.25, abs=0.05)
    assert cosine(trimmed_mean(sent, 5), honest) > 0.9
    assert cosine(rows.mean(0), honest) > 0.9


@pytest.mark.parametrize("knowledge", ["own", "benign"])
def test_alie_shifts_the_trimmed_mean_from_within_the_honest_spread(knowledge: str) -> None:
    """The attack of (n, m) = (51, 24) against a trim of 24; the same rows without it are the control."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(51, 4000, generator=generator)
    honest = rows[24:]
    bad = attacked("alie", updates(rows[:24]), context(51, honest), knowledge=knowledge)
    inside = (bad.params[0] >= honest.amin(0)) & (bad.params[0] <= honest.amax(0))
    assert float(inside.double().mean()) > 0.8
    shift = lambda sent: float((trimmed_mean(sent, 24) - honest.mean(0)).mean())  # noqa: E731
    assert shift(torch.cat([bad.rows, honest])) < -0.8
    assert abs(shift(rows)) < 0.05
    far = attacked("alie", updates(rows[:24]), context(51, honest), knowledge=knowledge, z=10.0)
    assert float((far.params[0] < honest.amin(0)).double().mean()) > 0.95


def test_alie_moves_the_median_by_most_of_z() -> None:
    """The attack of (n, m) = (51, 24) with the paper's z; z = 0, which sends the benign mean, is the control."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(51, 4000, generator=generator)
    honest = rows[24:]
    moved = {}
    for z in (0.0, 1.446):
        bad = attacked("alie", updates(rows[:24]), context(51, honest), knowledge="benign", z=z)
        moved[z] = float(torch.cat([bad.rows, honest]).median(0).values.mean())
    assert abs(moved[0.0]) < 0.05
    assert moved[1.446] < -1


def test_own_knowledge_needs_control_alone() -> None:
    def verdict(name: str, start: list[Fact], **options: object) -> bool:
        spec = SPECS[name]
        (layer,) = spec.layers
        return walk([Step(name, Site.UPDATE, layer.facts(spec.config(**options)))], start).ok

    assert verdict("sign-flip", [CONTROL])
    assert verdict("alie", [CONTROL])
    assert not verdict("sign-flip", [Controls("client", "data")])
    assert not verdict("alie", [CONTROL], knowledge="benign")
    assert verdict("alie", [CONTROL, Knows("benign-updates")], knowledge="benign")


@pytest.mark.parametrize("name", ["sign-flip", "alie"])
def test_what_was_said_of_all_rows_is_lost_and_of_honest_ones_kept(name: str) -> None:
    spec = SPECS[name]
    (layer,) = spec.layers
    signature = layer.facts(spec.config())
    assert spec.game == "poisoning"
    assert signature.survives(Clipped("l2", "client", "honest", 1.0))
    assert not signature.survives(Clipped("l2", "client", "all", 1.0))
    assert all(signature.survives(fact) for fact in (Summable(), Space("real"), Sensitivity("client", 1.0)))


def test_rows_that_depend_on_benign_updates_lose_sensitivity() -> None:
    spec = SPECS["alie"]
    assert not spec.layers[0].facts(spec.config(knowledge="benign")).survives(Sensitivity("client", 1.0))


def test_the_light_module_imports_no_torch() -> None:
    code = "import sys, sparring_poisoning.plugin as p; list(p.sparring_plugins()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
