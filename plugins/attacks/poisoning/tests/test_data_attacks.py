"""Laws of the attacks on data: whose labels and inputs change, within which bound, and what is wanted of the model."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sparring_poisoning.data import aim, drawn, surrogate
from sparring_poisoning.feature_collision import FeatureCollision
from sparring_poisoning.gradient_matching import GradientMatching, gradient, misalignment
from sparring_poisoning.input_perturbation import ascended, wrong
from sparring_poisoning.plugin import sparring_plugins
from sparring_poisoning.plugin_data import (
    FeatureCollisionConfig,
    GradientMatchingConfig,
    InputPerturbationConfig,
    TargetedLabelFlipConfig,
)
from torch import nn

from sparring.context import Setup
from sparring.errors import ConfigError
from sparring.facts import Clipped, Controls, Knows, Sensitivity, Summable
from sparring.keys import Key
from sparring.local import embed
from sparring.signals import ClientData, DataShape, Examples
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import tiny_data, tiny_lab, tiny_public

SPECS = {spec.name: spec for spec in sparring_plugins()}
TRAINING = ("input-perturbation", "gradient-matching", "feature-collision")
CLEAN = ("gradient-matching", "feature-collision")
CTX = Setup(Key(0), "attack", lab=tiny_lab().called("attack"))
TEST = tiny_public(40)


def layer(name: str, **options: object) -> Any:
    return SPECS[name].layers[0].build(SPECS[name].config(**options))


def labelled(y: list[int], classes: int) -> ClientData:
    labels = torch.tensor(y, dtype=torch.long)
    return ClientData({4: Examples(torch.rand(len(y), 2), labels)}, DataShape((2,), classes))


@given(
    y=st.lists(st.integers(0, 4), max_size=40),
    kind=st.sampled_from(["mirror", "next", "random"]),
    fraction=st.floats(0.01, 1),
    classes=st.integers(5, 9),
)
@settings(deadline=None)
def test_flipped_labels(y: list[int], kind: Any, fraction: float, classes: int) -> None:
    data = labelled(y, classes)
    after = layer("label-flip", kind=kind, fraction=fraction).attack_transform(data, CTX).clients[4]
    before = data.clients[4].y
    changed = after.y != before
    middle = before * 2 == classes - 1
    most = max(1, round(fraction * len(y))) if y else 0
    assert int(changed.sum()) <= most
    if kind != "mirror" or not bool(middle.any()):
        assert int(changed.sum()) == most
    expected = {"mirror": classes - 1 - before, "next": (before + 1) % classes}
    if kind in expected:
        assert torch.equal(after.y[changed], expected[kind][changed])
    assert bool(((after.y >= 0) & (after.y < classes)).all())
    assert after.x is data.clients[4].x


def test_random_labels_are_uniform_over_the_others() -> None:
    data = labelled([1] * 3000, 4)
    counts = layer("label-flip", kind="random").attack_transform(data, CTX).clients[4].y.bincount(minlength=4)
    assert int(counts[1]) == 0
    assert (counts[[0, 2, 3]] - 1000).abs().max() < 5 * (3000 * 2 / 9) ** 0.5


def test_dense_labels_flip_position_by_position() -> None:
    y = torch.randint(3, (5, 4, 4))
    data = ClientData({1: Examples(torch.rand(5, 1, 4, 4), y)}, DataShape((1, 4, 4), 3, "segmentation"))
    assert torch.equal(layer("label-flip").attack_transform(data, CTX).clients[1].y, 2 - y)


@given(seed=st.integers(0, 99), fraction=st.floats(0.01, 1))
@settings(deadline=None)
def test_pairs_relabel_their_own_sources_alone(seed: int, fraction: float) -> None:
    """A chain, 0 as 1 and 1 as 2: no example goes two steps."""
    data = tiny_data(3, 30, seed=seed)
    attack = layer("targeted-label-flip", pairs=((0, 1), (1, 2)), fraction=fraction)
    after = attack.attack_transform(data, CTX)
    for client, own in after.clients.items():
        before = data.clients[client].y
        for source, target in ((0, 1), (1, 2)):
            mine = before == source
            moved = own.y[mine] == target
            n = int(mine.sum())
            assert int(moved.sum()) == (min(n, max(1, round(fraction * n))) if n else 0)
            assert bool((own.y[mine][~moved] == source).all())
        assert torch.equal(own.y[before > 1], before[before > 1])


def test_its_objective_is_the_source_classes_as_their_targets() -> None:
    attack = layer("targeted-label-flip", pairs=((3, 1), (0, 2)))
    found = attack.objective(TEST, CTX)
    assert found.index is not None
    assert set(found.index.tolist()) == set(torch.nonzero((TEST.y == 0) | (TEST.y == 3))[:, 0].tolist())
    assert torch.equal(found.inputs, TEST.x[found.index])
    assert torch.equal(found.wanted, torch.where(TEST.y[found.index] == 3, 1, 2))
    with pytest.raises(ConfigError, match="no test example is of their source classes"):
        attack.objective(TEST.take(TEST.y == 1), CTX)
    with pytest.raises(ConfigError, match="names class 9; the data have classes 0 to 3"):
        layer("targeted-label-flip", pairs=((9, 1),)).attack_transform(tiny_data(), CTX)
    for pairs in (((0, 0),), ((0, 1), (0, 2)), ()):
        with pytest.raises(ValidationError):
            TargetedLabelFlipConfig(pairs=pairs)


@given(m=st.integers(0, 30), fraction=st.floats(0.01, 1))
def test_a_share_is_drawn_without_replacement(m: int, fraction: float) -> None:
    found = drawn(torch.arange(m) * 3, fraction, torch.Generator().manual_seed(m))
    assert len(found) == (min(m, max(1, round(fraction * m))) if m else 0)
    assert len(set(found.tolist())) == len(found)
    assert set(found.tolist()) <= set(range(0, 3 * m, 3))


@pytest.mark.parametrize("labels", ["predicted", "true"])
@pytest.mark.parametrize("eps", [1 / 255, 0.1, 1.0])
def test_perturbed_inputs_stay_in_their_bound_and_range(labels: str, eps: float) -> None:
    data = tiny_data(2, 20)
    after = layer("input-perturbation", labels=labels, eps=eps, alpha=eps / 3).attack_transform(data, CTX)
    for client, own in after.clients.items():
        before = data.clients[client]
        assert float((own.x - before.x).abs().max()) <= eps + 1e-6
        assert 0 <= float(own.x.min()) <= float(own.x.max()) <= 1
        assert not torch.equal(own.x, before.x)
        assert bool((own.y == before.y).all()) if labels == "true" else bool((own.y != before.y).all())


def test_inputs_outside_the_unit_interval_keep_their_own_range() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    x = 20 * torch.rand(6, 4) - 10
    config = InputPerturbationConfig(eps=0.5, alpha=0.5)
    moved = ascended(module, x, torch.arange(6) % 2, torch.zeros_like(x), config)
    assert float(x.min()) <= float(moved.min()) <= float(moved.max()) <= float(x.max())
    assert float((moved - x).abs().max()) <= 0.5 + 1e-5


def test_the_ascent_raises_every_loss_of_a_convex_model_and_many_are_as_one() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).requires_grad_(False)
    x, y = TEST.x.clamp(0.2, 0.8), TEST.y
    config = InputPerturbationConfig(eps=0.1, alpha=0.05)
    start = torch.zeros_like(x)
    together = ascended(module, x, y, start, config)
    loss = [nn.functional.cross_entropy(module(z), y, reduction="none") for z in (x, together)]
    assert bool((loss[1] > loss[0]).all())
    alone = [ascended(module, x[k : k + 1], y[k : k + 1], start[:1], config) for k in range(3)]
    torch.testing.assert_close(torch.cat(alone), together[:3])
    assert bool((wrong(module, x, y) != y).all())


def test_gradients_of_parameters_and_of_poison_are_those_of_automatic_differentiation() -> None:
    module = surrogate(tiny_public(), 1, CTX)
    x, y = TEST.x[:5], TEST.y[:5]
    own = [p.detach().clone().requires_grad_(True) for p in module.parameters()]
    named = dict(zip([n for n, _ in module.named_parameters()], own, strict=True))
    loss = nn.functional.cross_entropy(torch.func.functional_call(module, named, (x,)), y)
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, own)])
    torch.testing.assert_close(gradient(module, x, y), expected)
    assert float(misalignment(module, x, y, expected)) == pytest.approx(0, abs=1e-5)
    assert float(misalignment(module, x, y, -3 * expected)) == pytest.approx(2, abs=1e-5)


def test_the_target_is_withheld_and_poison_keeps_its_labels() -> None:
    data = tiny_data(3, 24)
    for name in CLEAN:
        attack = layer(name, targets=2)
        after = attack.attack_transform(data, CTX)
        assert attack.attacked is not None
        every = torch.cat([own.x for own in after.clients.values()])
        for target in attack.attacked:
            assert not bool((every == target).flatten(1).all(1).any())
        assert sum(map(len, after.clients.values())) == sum(map(len, data.clients.values())) - 2
        counts, before = (sum(own.y.bincount(minlength=4) for own in d.clients.values()) for d in (after, data))
        assert (before - counts).tolist() == [0, 2, 0, 0]
        wanted = attack.objective(TEST, CTX)
        assert wanted.index is None
        assert torch.equal(wanted.inputs, attack.attacked)
        assert wanted.wanted.tolist() == [0, 0]
        for client, own in after.clients.items():
            for row in own.x[own.y != 0]:
                assert bool((data.clients[client].x == row).flatten(1).all(1).any())


def test_the_bound_and_what_more_restarts_and_steps_do_to_the_alignment() -> None:
    data = tiny_data(3, 24)
    aligned = {}
    for steps, restarts in ((1, 1), (40, 1), (40, 4)):
        config = GradientMatchingConfig(steps=steps, restarts=restarts, eps=0.2)
        found = aim(data, config, CTX)
        module = surrogate(found.pool, config.epochs, CTX)
        x = GradientMatching(config).craft(module, found, torch.Generator().manual_seed(0))
        base, y = found.pool.x[found.bases], found.pool.y[found.bases]
        assert float((x - base).abs().max()) <= 0.2 + 1e-6
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        wanted = gradient(module, found.attacked, torch.zeros(1, dtype=torch.long))
        aligned[steps, restarts] = float(misalignment(module, x, y, wanted))
    assert aligned[40, 1] < aligned[1, 1]
    assert aligned[40, 4] <= aligned[40, 1]


@pytest.mark.parametrize("opacity", [0.0, 0.3])
def test_collisions_come_nearer_and_no_objective_rises(opacity: float) -> None:
    data = tiny_data(3, 24)
    config = FeatureCollisionConfig(targets=2, beta=0.2, opacity=opacity)
    found = aim(data, config, CTX)
    module = surrogate(found.pool, config.epochs, CTX)
    aims = found.attacked[torch.arange(len(found.bases)) % 2]
    base = (1 - opacity) * found.pool.x[found.bases] + opacity * aims

    def objective(x: torch.Tensor) -> torch.Tensor:
        apart = (embed(module, x)[0] - embed(module, aims)[0]).square().sum(1)
        return apart + 0.2 * (x - base).square().flatten(1).sum(1)

    values = [objective(base)]
    for steps in (1, 5, 50):
        values.append(objective(FeatureCollision(replace_steps(config, steps)).craft(module, found)))
    for before, after in pairwise(values):
        assert bool((after <= before + 1e-5).all())
    assert float(values[-1].mean()) < 0.9 * float(values[0].mean())


def replace_steps(config: FeatureCollisionConfig, steps: int) -> FeatureCollisionConfig:
    return config.model_copy(update={"steps": steps})


@pytest.mark.parametrize("name", CLEAN)
def test_an_attack_without_clients_still_says_what_it_would_want(name: str) -> None:
    attack = layer(name, targets=2)
    found = attack.objective(TEST, CTX)
    assert found.index is not None
    assert TEST.y[found.index].tolist() == [1, 1]
    with pytest.raises(ConfigError, match="no test example"):
        attack.objective(TEST.take(TEST.y == 2), CTX)
    held = {c: e.take(e.y != 1) for c, e in tiny_data().clients.items()}
    with pytest.raises(ConfigError, match="hold no example of class 1"):
        attack.attack_transform(ClientData(held, tiny_data().shape), CTX)
    with pytest.raises(ValidationError, match="must be two classes"):
        layer(name, source=0)


@pytest.mark.parametrize("name", TRAINING)
def test_a_surrogate_needs_the_recipe(name: str) -> None:
    (declared,) = SPECS[name].layers
    assert Knows("recipe") in declared.facts(SPECS[name].config()).needs
    with pytest.raises(ConfigError, match=r"knows: \[recipe\]"):
        layer(name).attack_transform(tiny_data(), replace(CTX, lab=None))


@pytest.mark.parametrize("name", ["label-flip", "targeted-label-flip", *TRAINING])
def test_it_holds_data_alone_and_what_is_said_of_updates_stays_true(name: str) -> None:
    signature = SPECS[name].layers[0].facts(SPECS[name].config())
    assert Controls("client", "data") in signature.needs
    assert Controls("client", "update") not in signature.needs
    assert all(signature.survives(f) for f in (Clipped("l2", "client", "all", 1.0), Summable(), Sensitivity("client", 1.0)))


def test_the_whole_game_of_a_targeted_flip_and_of_a_clean_label_attack() -> None:
    held = {"compromised": {"fraction": 0.6, "control": "data"}}
    flipped = outcome(attacks=[{"targeted-label-flip": {"pairs": [[0, 2]]}}], threat_model=held)
    score = flipped.scores["targeted-label-flip"].measures["attack_success"]
    assert score.value > 0.8
    assert score.baseline is not None
    assert score.baseline < 0.1
    clean = outcome(attacks=[{"gradient-matching": {"steps": 3}}], threat_model={**held, "knows": ["recipe"]})
    assert len(clean.success["gradient-matching"]) == 8
    assert clean.accuracy is not None
    assert clean.accuracy > 0.9
    ungranted = outcome(attacks=["gradient-matching"], threat_model=held)
    assert "gradient-matching" not in ungranted.success
