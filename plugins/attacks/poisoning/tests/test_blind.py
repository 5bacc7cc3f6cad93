"""Laws of the attacks that look at nothing but their own update: scaling, noise, NaN, free riding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_poisoning.free_rider import FreeRider
from sparring_poisoning.plugin import sparring_plugins
from sparring_poisoning.plugin_blind import FreeRiderConfig
from torch import Tensor

from sparring.context import Round
from sparring.layout import Layout
from sparring.signals import Updates
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import make_round

SPECS = {spec.name: spec for spec in sparring_plugins()}
HELD = {"compromised": {"fraction": 0.2, "control": "update"}}


def updates(rows: Tensor, ids: tuple[int, ...] | None = None, buffers: int = 0) -> Updates:
    layout = Layout.build([("w", (rows.shape[1] - buffers,), "parameter"), ("running", (buffers,), "buffer")])
    return Updates(rows, layout, tuple(range(len(rows))) if ids is None else ids, torch.arange(1.0, len(rows) + 1))


def attacked(name: str, signal: Updates, ctx: Round, **options: object) -> Updates:
    (layer,) = SPECS[name].layers
    return layer.build(SPECS[name].config(**options)).attack_transform(signal, ctx)


def at(index: int, parameters: Tensor) -> Round:
    return replace(make_round(index=index), parameters=parameters)


@given(c=st.floats(1e-3, 1e3), m=st.integers(0, 6), buffers=st.integers(0, 3))
@settings(deadline=None)
def test_scaled_is_minus_sign_flip(c: float, m: int, buffers: int) -> None:
    signal = updates(torch.randn(m, 8), buffers=buffers)
    sent, flipped = (attacked(name, signal, make_round(), scale=c) for name in ("scaled", "sign-flip"))
    assert torch.equal(sent.params, -flipped.params)
    torch.testing.assert_close(sent.params, c * signal.params)
    assert torch.equal(sent.rows[:, 8 - buffers :], signal.rows[:, 8 - buffers :])


def test_gaussian_draws_belong_to_clients_and_rounds_and_not_to_updates() -> None:
    ids = (4, 1, 7)
    signal, other = updates(torch.randn(3, 6), ids, 2), updates(torch.randn(3, 6), ids, 2)
    sent = attacked("gaussian", signal, make_round())
    assert torch.equal(sent.params, attacked("gaussian", other, make_round()).params)
    assert torch.equal(sent.rows[:, 4:], signal.rows[:, 4:])
    turned = attacked("gaussian", signal.select((7, 4, 1)), make_round())
    assert torch.equal(sent.params, turned.select(ids).params)
    for ctx in (make_round(index=1), make_round(seed=1)):
        assert not torch.equal(sent.params, attacked("gaussian", signal, ctx).params)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("entries", ["all", "one"])
def test_non_finite_keeps_the_form_and_breaks_the_mean(value: str, entries: str) -> None:
    signal = updates(torch.randn(3, 6), (4, 1, 7), 2)
    sent = attacked("non-finite", signal, make_round(), value=value, entries=entries)
    assert (sent.ids, sent.layout, sent.rows.shape, sent.rows.dtype) == (
        signal.ids,
        signal.layout,
        signal.rows.shape,
        signal.rows.dtype,
    )
    assert sent.weights is signal.weights
    assert torch.equal(sent.rows[:, 4:], signal.rows[:, 4:])
    wrong = ~sent.params.isfinite()
    assert wrong.sum(dim=1).tolist() == ([4] * 3 if entries == "all" else [1] * 3)
    assert torch.equal(
        sent.params[wrong].nan_to_num(0, 1, -1), torch.full((int(wrong.sum()),), float(value)).nan_to_num(0, 1, -1)
    )
    assert bool(signal.rows.isfinite().all())
    assert torch.equal(sent.params.mean(0).isfinite(), ~wrong[0])


@pytest.mark.parametrize("entries", ["all", "one"])
def test_core_rejects_rows_that_are_not_finite_and_says_how_many(entries: str) -> None:
    found = outcome(threat_model=HELD, attacks=[{"non-finite": {"value": "inf", "entries": entries}}])
    assert any(note.startswith("16 updates of compromised clients held NaN or Inf") for note in found.notes)
    assert (found.accuracy or 0) > 0.9


@given(gaps=st.lists(st.integers(1, 5), min_size=1, max_size=5), m=st.integers(1, 3))
@settings(deadline=None)
def test_free_rider_sends_the_models_change_a_round(gaps: list[int], m: int) -> None:
    attack, signal = FreeRider(FreeRiderConfig()), updates(torch.randn(m, 6, dtype=torch.float64), buffers=2)
    model, index = torch.randn(6, dtype=torch.float64), 3
    first = attack.attack_transform(signal, at(index, model))
    assert not first.params.any()
    for gap in gaps:
        before, model, index = model, torch.randn(6, dtype=torch.float64), index + gap
        sent = attack.attack_transform(signal, at(index, model))
        torch.testing.assert_close(sent.params, ((model - before)[:4] / gap).expand(m, -1))
        assert torch.equal(sent.rows[:, 4:], signal.rows[:, 4:])


def test_free_rider_does_not_read_its_clients_training() -> None:
    model = torch.randn(6)
    sent = []
    for seed in (0, 1):
        attack, signal = FreeRider(FreeRiderConfig(noise=1.0)), updates(torch.randn(2, 6, generator=_seeded(seed)))
        attack.attack_transform(signal, at(0, model))
        sent.append(attack.attack_transform(signal, at(1, 2 * model)).rows)
    assert torch.equal(sent[0], sent[1])


@pytest.mark.parametrize("update", ["delta-weights", "zero"])
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_noise_of_free_riders_decays_from_the_first_change(update: str, decay: float) -> None:
    p = 20_000
    attack = FreeRider(FreeRiderConfig(update=update, noise=3.0, decay=decay))
    signal = updates(torch.zeros(1, p, dtype=torch.float64))
    models = [torch.zeros(p, dtype=torch.float64), torch.full((p,), 0.5, dtype=torch.float64)]
    models += [models[1] + k for k in (1, 2, 3)]
    for index, model in enumerate(models):
        sent = attack.attack_transform(signal, at(index, model)).params[0]
        change = model - models[index - 1] if index and update == "delta-weights" else torch.zeros(p, dtype=torch.float64)
        if index == 0:
            assert not sent.any()
        else:
            expected = 3.0 * 0.5 * index**-decay
            assert float((sent - change).std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * p))


def test_a_federation_of_free_riders_stays_where_it_is() -> None:
    everyone = {"compromised": {"fraction": 1.0, "control": "update"}}
    found = outcome(threat_model=everyone, attacks=[{"free-rider": {}}])
    assert len({accuracy for _, accuracy, _ in found.history}) == 1
    half = outcome(threat_model={"compromised": {"fraction": 0.5, "control": "update"}}, attacks=[{"free-rider": {}}])
    assert (half.accuracy or 0) > (found.accuracy or 0) + 0.3


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
