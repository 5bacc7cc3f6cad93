"""Laws of what the attacks do in training and to updates, and of whole runs on a small task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_backdoor.chameleon import contrast, parted
from sparring_backdoor.model_replacement import Scaling
from sparring_backdoor.neurotoxin import quiet
from sparring_backdoor.plugin import sparring_plugins
from sparring_backdoor.task import attacked, reached, tiles
from torch import Tensor, nn

from sparring.context import Round, Setup, Wire
from sparring.errors import ConfigError
from sparring.facts import Controls, PerExample
from sparring.groups import HONEST
from sparring.keys import Key
from sparring.layout import Layout
from sparring.local import Batch, LocalPlan, cross_entropy
from sparring.run import Outcome
from sparring.signals import ClientData, Updates
from sparring.sites import Site
from sparring.stacked import Stacked
from sparring.testing.experiments import linear
from sparring.testing.fixtures import Tiny, tiny_data
from sparring.testing.stage import make_work, start
from sparring.train import Sequential

SPECS = {spec.name: spec for spec in sparring_plugins()}
QUICK = settings(deadline=None, max_examples=40)
LOCAL = {
    "constrain-and-scale": {"alpha": 0.3},
    "neurotoxin": {"ratio": 0.5},
    "chameleon": {"temperature": 0.3},
}


def plan_of(name: str, **options: object) -> LocalPlan:
    spec = SPECS[name]
    (layer,) = (layer for layer in spec.layers if layer.site.local)
    return layer.build(spec.config.model_validate(options)).attack_transform(LocalPlan(), Setup(Key(0), name))


def round_of(n: int) -> Round:
    return Round(0, 1, Key(0), Wire(0, lambda stage, client: False), layer="attack", cohort=tuple(range(n)))


def updates(rows: Tensor, buffers: int = 0) -> Updates:
    parts = [("w", (rows.shape[1] - buffers,), "parameter"), ("running", (buffers,), "buffer")]
    return Updates(rows, Layout.build(parts), tuple(range(len(rows))), torch.ones(len(rows)))


@given(n=st.integers(1, 30), data=st.data(), eta=st.floats(0.1, 2))
@QUICK
def test_scaling_by_n_over_eta_m_puts_the_attacks_mean_model_in_place_of_the_global_one(
    n: int, data: st.DataObject, eta: float
) -> None:
    m = data.draw(st.integers(1, n))
    own = torch.randn(m, 6, dtype=torch.float64)
    sent = Scaling(None, eta).attack_transform(updates(own, 2), round_of(n)).rows
    applied = eta * torch.cat([sent[:, :4], torch.zeros(n - m, 4, dtype=torch.float64)]).mean(0)
    torch.testing.assert_close(applied, own[:, :4].mean(0))
    assert torch.equal(sent[:, 4:], own[:, 4:])


@given(scale=st.floats(0.1, 100), bound=st.floats(0.1, 100), m=st.integers(0, 5))
@QUICK
def test_train_and_scale_goes_up_to_the_bound_and_no_further(scale: float, bound: float, m: int) -> None:
    own = torch.randn(m, 6, dtype=torch.float64)
    own[:1] = 0
    sent = Scaling(scale, 1.0, bound).attack_transform(updates(own), round_of(9)).rows
    norms = own.norm(dim=1)
    torch.testing.assert_close(sent.norm(dim=1), (scale * norms).clamp(max=bound))
    torch.testing.assert_close(sent * norms[:, None], own * sent.norm(dim=1)[:, None])


def test_the_proximal_step_minimises_its_objective() -> None:
    alpha, eta = 0.3, 0.7
    ((_, step),) = plan_of("constrain-and-scale", alpha=alpha).step
    origin, row = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    found = step(row, _at(origin, origin, eta)).requires_grad_(True)
    mu = (1 - alpha) / alpha
    ((found - row).square().sum() / (2 * eta) + mu * (found - origin).square().sum()).backward()
    assert found.grad is not None
    assert float(found.grad.abs().max()) < 1e-12
    ((_, free),) = plan_of("constrain-and-scale", alpha=1.0).step
    torch.testing.assert_close(free(row, _at(origin, origin, eta)), row)


def _at(origin: Tensor, previous: Tensor, lr: float):
    from sparring.local import Client, LocalContext

    return LocalContext(Client(3, 10, 5, 2), 1, 0, torch.Generator(), origin, previous, lr)


@given(moved=st.lists(st.integers(-9, 9), min_size=1, max_size=20), ratio=st.floats(0.01, 1))
@QUICK
def test_the_mask_keeps_the_coordinates_that_moved_least(moved: list[int], ratio: float) -> None:
    row = torch.tensor(moved, dtype=torch.float64)
    kept = quiet(row, torch.zeros_like(row), ratio)
    limit = sorted(map(abs, moved))[max(1, round(ratio * len(moved))) - 1]
    assert kept.tolist() == [abs(value) <= limit for value in moved]
    assert bool(quiet(row, row, ratio).all())


@pytest.mark.parametrize("strategy", [Sequential, Stacked])
def test_neurotoxin_trains_in_the_quiet_coordinates_alone(strategy: type) -> None:
    work = make_work({HONEST: plan_of("neurotoxin", ratio=0.4)})
    first = start(work)
    previous = first.row + torch.randn(first.row.shape, generator=torch.Generator().manual_seed(3))
    sent = strategy(work).train(replace(first, previous=previous), list(work.data), HONEST, 5)
    kept = quiet(first.row, previous, 0.4)
    assert bool((sent[:, ~kept] == 0).all())
    assert bool((sent[:, kept] != 0).any(1).all())
    free = strategy(work).train(replace(first, previous=None), list(work.data), HONEST, 5)
    assert bool((free != 0).float().mean() > 0.9)


def ragged() -> ClientData:
    """Clients with 24, 13 and 3 examples: lots of several sizes."""
    whole = tiny_data()
    sizes = dict(zip(whole.clients, (24, 13, 3), strict=True))
    return replace(whole, clients={c: e.take(torch.arange(sizes[c])) for c, e in whole.clients.items()})


@pytest.mark.parametrize("name", LOCAL)
def test_stacked_training_gives_the_numbers_of_sequential_training(name: str) -> None:
    work = make_work({HONEST: plan_of(name, **LOCAL[name])}, ragged())
    first = start(work)
    broadcast = replace(first, previous=first.row + 0.1 * torch.sin(torch.arange(len(first.row))))
    one, other = (strategy(work).train(broadcast, list(work.data), HONEST, 2) for strategy in (Sequential, Stacked))
    torch.testing.assert_close(other, one, atol=2e-6, rtol=1e-4)
    plain = Sequential(make_work({HONEST: LocalPlan()}, ragged())).train(broadcast, list(work.data), HONEST, 2)
    assert float((plain - one).norm()) > 0.01 * float(plain.norm())


def naive(z: Tensor, y: Tensor, real: Tensor, tau: float) -> list[float]:
    """The contrastive loss by its formula, example by example."""
    unit = [row / max(float(row.norm()), 1e-12) for row in z]
    found = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i and real[a]]
        alike = [p for p in others if y[p] == y[i]]
        total = sum(float(torch.exp(unit[i] @ unit[a] / tau)) for a in others)
        terms = [-float(unit[i] @ unit[p] / tau) + float(np.log(total)) for p in alike]
        found.append(sum(terms) / len(terms) if terms else 0.0)
    return found


@given(b=st.integers(0, 8), seed=st.integers(0, 999), tau=st.floats(0.1, 3))
@QUICK
def test_the_contrast_is_its_formula_and_sees_no_padding(b: int, seed: int, tau: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(b, 3, generator=generator, dtype=torch.float64)
    y, real = (torch.randint(high, (b,), generator=generator) for high in (3, 2))
    np.testing.assert_allclose(contrast(z, y, real == 1, tau).numpy(), naive(z, y, real, tau), rtol=1e-9, atol=1e-9)


def test_cross_entropy_teaches_the_classifier_alone_and_contrast_the_encoder_alone() -> None:
    module = Tiny()
    x, y = next(iter(tiny_data().clients.values())).x, next(iter(tiny_data().clients.values())).y
    z, outputs = parted(module, x)
    torch.testing.assert_close(outputs, module(x))
    layers = [m for m in module if isinstance(m, nn.Linear)]
    nn.functional.cross_entropy(outputs, y).backward()
    assert layers[0].weight.grad is None
    assert layers[1].weight.grad is not None
    module.zero_grad()
    contrast(z, y, torch.ones(len(y), dtype=torch.bool), 0.5).mean().backward()
    assert float(layers[0].weight.grad.norm()) > 0
    assert layers[1].weight.grad is None
    with pytest.raises(ConfigError, match="this model has none"):
        parted(nn.Flatten(), x)


def test_one_example_has_nothing_to_contrast_with() -> None:
    plan, module = plan_of("chameleon"), Tiny()
    own = next(iter(tiny_data().clients.values()))
    alone = Batch(own.x[:1], own.y[:1])
    torch.testing.assert_close(plan.loss(module, alone), cross_entropy(module, alone))


def test_needs_say_how_far_the_attack_must_hold_its_clients() -> None:
    def needs(name: str) -> set[str]:
        spec = SPECS[name]
        return {need.what for layer in spec.layers for need in layer.facts(spec.config()).needs if isinstance(need, Controls)}

    assert all(needs(name) == {"data"} for name in ("badnets", "blended", "single-pixel", "dba", "semantic", "edge-case"))
    assert needs("neurotoxin") == needs("chameleon") == {"data", "training"}
    assert needs("model-replacement") == {"data", "update"}
    assert needs("constrain-and-scale") == {"data", "training", "update"}
    assert SPECS["subgroup-degradation"].game == "subgroup"
    (_, loss) = SPECS["chameleon"].layers
    assert loss.site is Site.LOSS
    assert not loss.facts(SPECS["chameleon"].config()).survives(PerExample())


SMALL = {"rounds": 3, "evaluate_every": 1}
GROUPS = {"semantic": {"feature": {"column": "odd"}}, "subgroup-degradation": {"group": {"column": "site"}}}


def numbers(found: Outcome) -> tuple[object, object]:
    return found.success, found.history


@pytest.mark.parametrize("name", SPECS)
def test_the_same_seed_gives_the_same_numbers_in_one_process_and_in_workers(name: str) -> None:
    found = [
        attacked(name, 0.3, 4, "update", federation=SMALL, engine=engine, entry={"window": [1, 2], **GROUPS.get(name, {})})
        for engine in ("sequential", "workers")
    ]
    assert numbers(found[0]) == numbers(found[1])
    assert "diverged" not in " ".join(found[0].notes)


def test_two_attacks_hold_their_own_clients_and_are_scored_apart() -> None:
    held = {"compromised": {"clients": [1, 4, 6, 8], "control": "data"}}
    attacks = [
        {"badnets": {"clients": [4, 8], "target": 0, "fraction": 0.5}},
        {"badnets": {"clients": [1, 6], "target": 3, "fraction": 0.5, "trigger": {"corner": "top-left"}}},
    ]
    both = tiles(seed=2, threat_model=held, attacks=attacks)
    assert set(both.scores) == {"badnets", "badnets#2"}
    assert min(reached(both, label) for label in both.scores) > 0.5
    one = tiles(seed=2, threat_model=held, attacks=[attacks[0], {"badnets": {**attacks[1]["badnets"], "fraction": 0.0}}])
    assert reached(one, "badnets") > 0.5
    assert reached(one, "badnets#2") < 0.05


def test_outside_its_window_an_attack_does_nothing() -> None:
    found = attacked(
        "badnets", 1.0, 0, entry={"window": [4, 7], "fraction": 0.5}, federation={"rounds": 8, "evaluate_every": 1}
    )
    rates = dict(found.success["badnets"])
    assert max(rates[k] for k in range(4)) < 0.3
    assert rates[7] > 0.9


def test_features_without_pixels_carry_a_trigger() -> None:
    entry = {"trigger": {"size": 2, "value": 3.0}, "fraction": 0.1}
    from sparring.testing.experiments import Blobs

    found = attacked("badnets", 1.0, 0, entry=entry, dataset=Blobs(), model=linear)
    assert reached(found, "badnets") > 0.9
    assert found.accuracy == pytest.approx(tiles(dataset=Blobs(), model=linear, seed=0).accuracy, abs=0.1)
