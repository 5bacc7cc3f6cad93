"""Laws of triggers and of poisoned data: what changes, how much of it, and what the objective asks for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sparring_backdoor.badnets import patch
from sparring_backdoor.blended import blend
from sparring_backdoor.configs import BlendedConfig, DBAConfig, Group, Patch, SinglePixelConfig
from sparring_backdoor.dba import PARTS, bars
from sparring_backdoor.edge_case import tail
from sparring_backdoor.plugin import sparring_plugins
from sparring_backdoor.single_pixel import pixel
from torch import Tensor

from sparring.context import Setup
from sparring.errors import ConfigError
from sparring.keys import Key
from sparring.signals import ClientData, DataShape, Examples

SPECS = {spec.name: spec for spec in sparring_plugins()}
QUICK = settings(deadline=None, max_examples=40)
TRIGGERED = ("badnets", "single-pixel", "blended", "dba", "model-replacement", "constrain-and-scale", "neurotoxin", "chameleon")
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


def setup(layer: str = "attack", seed: int = 0) -> Setup:
    return Setup(Key(seed), layer)


def images(n: int, seed: int = 0, shape: tuple[int, ...] = (1, 8, 8), classes: int = 4) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    return Examples(torch.rand(n, *shape, generator=generator), y, {"site": torch.arange(n) % 3})


def data(sizes: tuple[int, ...], shape: tuple[int, ...] = (1, 8, 8)) -> ClientData:
    held = {client: images(n, client, shape) for client, n in zip((7, 2, 31, 4, 18), sizes, strict=False)}
    return ClientData(held, DataShape(shape, 4))


def layer(name: str, **options: object):
    """The DATA layer of an attack."""
    spec = SPECS[name]
    return spec.layers[0].build(spec.config.model_validate(options))


def poisoned(name: str, signal: ClientData, **options: object) -> ClientData:
    return layer(name, **options).attack_transform(signal, setup())


MAKES = {
    "patch": patch(Patch(size=2, margin=1)),
    "pixel": pixel(SinglePixelConfig(value=0.7)),
    "bars": bars(DBAConfig()),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 6), (12,)])
def test_a_trigger_is_idempotent_keeps_the_range_and_leaves_the_rest_alone(make, shape: tuple[int, ...]) -> None:
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    trigger = make(shape, setup(), None)
    once = trigger(x)
    assert torch.equal(trigger(once), once)
    assert 0 <= float(once.min()) <= float(once.max()) <= 1
    outside = trigger.mask == 0
    assert torch.equal(once[:, outside], x[:, outside])
    assert bool((once[:, ~outside] == trigger.pattern[~outside]).all())
    assert 0 < int((~outside).sum()) < outside.numel()
    assert torch.equal(x, before)


@given(size=st.integers(1, 4), margin=st.integers(0, 3), corner=st.sampled_from(CORNERS), value=st.floats(0, 1, width=32))
@QUICK
def test_a_patch_lies_where_it_is_said_to(size: int, margin: int, corner: str, value: float) -> None:
    trigger = patch(Patch(size=size, margin=margin, corner=corner, value=value))((2, 7, 9), setup(), None)
    expected = torch.zeros(7, 9)
    for row in range(size):
        for column in range(size):
            r, c = margin + row, margin + column
            expected[6 - r if corner.startswith("bottom") else r, 8 - c if corner.endswith("right") else c] = 1
    assert torch.equal(trigger.mask, expected.expand(2, 7, 9))
    assert float(trigger(torch.full((1, 2, 7, 9), 0.5))[0, 0][expected == 1].unique()) == value


@given(alpha=st.floats(0.01, 1), seed=st.integers(0, 99))
@QUICK
def test_blended_mixes_with_one_pattern_for_all(alpha: float, seed: int) -> None:
    make = blend(BlendedConfig(alpha=alpha))
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    at_training, at_test = (make((1, 8, 8), setup(name, seed), k) for name, k in (("a", 3), ("a/objective", None)))
    assert torch.equal(at_training.pattern, at_test.pattern)
    mixed = at_training(x)
    torch.testing.assert_close(mixed, (1 - alpha) * x + alpha * at_test.pattern.double(), atol=1e-6, rtol=0)
    assert 0 <= float(mixed.min()) <= float(mixed.max()) <= 1
    other = blend(BlendedConfig(alpha=alpha, pattern=1))((1, 8, 8), setup("a", seed), None)
    assert not torch.equal(other.pattern, at_test.pattern)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 12), (20,)])
def test_the_parts_of_dba_are_disjoint_and_make_the_whole(shape: tuple[int, ...]) -> None:
    make = bars(DBAConfig())
    parts = [make(shape, setup(), k).mask for k in range(PARTS)]
    assert torch.equal(sum(parts[1:], parts[0]), make(shape, setup(), None).mask)
    assert len({int(part.sum()) for part in parts}) == 1
    assert torch.equal(make(shape, setup(), PARTS + 1).mask, parts[1])


def test_each_client_of_dba_poisons_with_the_part_of_its_rank() -> None:
    signal = data((10, 10, 10, 10, 10))
    after = poisoned("dba", signal, fraction=1.0)
    for rank, client in enumerate(sorted(signal)):
        part = bars(DBAConfig())((1, 8, 8), setup(), rank)
        assert torch.equal(after.clients[client].x, part(signal.clients[client].x))
    assert list(after) == list(signal)


@given(n=st.integers(0, 40), fraction=st.floats(0, 1), name=st.sampled_from(TRIGGERED))
@QUICK
def test_exactly_the_share_is_poisoned_and_the_rest_untouched(n: int, fraction: float, name: str) -> None:
    signal = data((n, 9))
    before = signal.clients[7].x.clone()
    after = poisoned(name, signal, fraction=fraction, target=2).clients[7]
    own = signal.clients[7]
    changed = (after.x != own.x).flatten(1).any(1)
    assert int(changed.sum()) == round(fraction * n)
    assert bool((after.y[changed] == 2).all())
    assert torch.equal(after.y[~changed], own.y[~changed])
    assert torch.equal(after.groups["site"], own.groups["site"])
    assert torch.equal(own.x, before)


def test_another_seed_poisons_other_examples_and_another_client_too() -> None:
    signal = data((40, 40))
    changed = []
    for seed in (0, 1):
        after = layer("badnets").attack_transform(signal, setup(seed=seed))
        changed += [(after.clients[c].x != signal.clients[c].x).flatten(1).any(1) for c in signal]
    assert all(not torch.equal(a, b) for k, a in enumerate(changed) for b in changed[:k])


@pytest.mark.parametrize("name", TRIGGERED)
def test_the_objective_is_the_trigger_on_every_test_example_of_another_class(name: str) -> None:
    test = images(60, 5)
    instance = layer(name, target=1)
    found = instance.objective(test, setup("attack/objective"))
    assert found.index is not None
    assert torch.equal(found.index, (test.y != 1).nonzero()[:, 0])
    assert bool((found.wanted == 1).all())
    assert bool(found.counted(test.y).all())
    trigger = instance.make((1, 8, 8), setup("attack"), None)
    assert torch.equal(found.inputs, trigger(test.x[found.index]))
    again = instance.objective(test, setup("attack/objective"))
    assert torch.equal(again.inputs, found.inputs)


BAD = {
    "a patch too large": ("badnets", {"trigger": {"size": 9}}, "needs 9 pixels, an input has 8"),
    "a value that is no brightness": ("badnets", {"trigger": {"value": 2.0}}, "value is 2; pixels lie in"),
    "a class that is not there": ("blended", {"target": 4}, "target is 4; classes here are 0 to 3"),
    "a pixel outside": ("single-pixel", {"row": 8}, "row is 8; it must be from -8 to 7"),
    "bars too long": ("dba", {"length": 4}, "needs 9 columns, an input has 8"),
    "a column that is not there": ("semantic", {"feature": {"column": "age"}}, "no group column 'age'; they have: site"),
    "a source that is not there": ("edge-case", {"source": 9}, "source is 9"),
    "a flip to no class": ("subgroup-degradation", {"target": 7}, "target is 7"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_with_value_rule_and_fix(case: str) -> None:
    name, options, text = BAD[case]
    with pytest.raises(ConfigError, match=text):
        poisoned(name, data((10,)), **options)


@pytest.mark.parametrize("name", ["badnets", "semantic", "subgroup-degradation"])
def test_other_tasks_than_classification_are_refused(name: str) -> None:
    dense = replace(data((4,)), shape=DataShape((1, 8, 8), 4, "segmentation"))
    with pytest.raises(ConfigError, match="the task here is segmentation"):
        poisoned(name, dense)


def test_sequences_of_vectors_have_no_place_for_a_patch() -> None:
    with pytest.raises(ConfigError, match=r"into images \[C, H, W\] or feature vectors \[F\]; inputs here are \[5, 8\]"):
        poisoned("badnets", data((4,), (5, 8)))


def test_feature_vectors_take_values_beyond_brightness() -> None:
    signal = data((10,), (6,))
    after = poisoned("badnets", signal, fraction=1.0, trigger={"size": 2, "value": -3.5}).clients[7]
    assert bool((after.x[:, -2:] == -3.5).all())
    assert torch.equal(after.x[:, :-2], signal.clients[7].x[:, :-2])


def rows(x: Tensor) -> set[tuple[float, ...]]:
    return set(map(tuple, x.flatten(1).tolist()))


@given(sizes=st.tuples(st.integers(0, 20), st.integers(0, 20)), fraction=st.floats(0, 1), source=st.none() | st.integers(0, 3))
@QUICK
def test_semantic_poison_is_what_has_the_feature_and_repeats_of_it(
    sizes: tuple[int, int], fraction: float, source: int | None
) -> None:
    signal = data(sizes)
    after = poisoned("semantic", signal, feature={"column": "site", "value": 2}, source=source, target=3, fraction=fraction)
    has = {c: (e.groups["site"] == 2) & (source is None or e.y == source) for c, e in signal.clients.items()}
    having = set().union(*(rows(e.x[has[c]]) for c, e in signal.clients.items()))
    for client, own in signal.clients.items():
        n, made = len(own), after.clients[client]
        bad = torch.tensor([row in having for row in map(tuple, made.x.flatten(1).tolist())], dtype=torch.bool)
        assert len(made) == n
        assert int(bad.sum()) == (max(int(has[client].sum()), round(fraction * n)) if having else 0)
        assert bool((made.y[bad] == 3).all())
        kept = ~bad
        assert torch.equal(made.x[kept], own.x[kept])
        assert torch.equal(made.y[kept], own.y[kept])


@pytest.mark.parametrize("name", ["semantic", "edge-case"])
def test_natural_objectives_are_unchanged_test_examples_of_other_classes(name: str) -> None:
    test = images(80, 3)
    options = {"feature": {"brighter_than": 0.5}} if name == "semantic" else {"source": 1, "tail": 0.2}
    found = layer(name, target=0, **options).objective(test, setup())
    assert found.index is not None
    assert torch.equal(found.inputs, test.x[found.index])
    assert bool((test.y[found.index] != 0).all())
    if name == "semantic":
        assert torch.equal(found.index, ((test.x.flatten(1).mean(1) > 0.5) & (test.y != 0)).nonzero()[:, 0])


@given(n=st.integers(1, 30), share=st.floats(0.01, 1), seed=st.integers(0, 99))
@QUICK
def test_the_tail_is_what_lies_farthest_from_the_mean_of_its_class(n: int, share: float, seed: int) -> None:
    own = images(n, seed)
    inside = tail(own, 1, share)
    members = [k for k in range(n) if int(own.y[k]) == 1]
    assert int(inside.sum()) == (max(1, round(share * len(members))) if members else 0)
    if members:
        mu = own.x[members].double().mean(0)
        far = {k: float((own.x[k].double() - mu).norm()) for k in members}
        assert all(far[k] <= min(far[j] for j in members if inside[j]) + 1e-9 for k in members if not inside[k])
        assert not bool(inside[own.y != 1].any())


def test_a_feature_that_no_test_example_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no test example of another class than 0 has site = 9"):
        layer("semantic", feature={"column": "site", "value": 9}).objective(images(20), setup())
    with pytest.raises(ConfigError, match="no test example has site = 9"):
        layer("subgroup-degradation", group={"column": "site", "value": 9}).objective(images(20), setup())


@given(fraction=st.floats(0, 1), source=st.none() | st.integers(0, 3), target=st.none() | st.integers(0, 3))
@QUICK
def test_labels_are_flipped_in_the_group_and_class_alone(fraction: float, source: int | None, target: int | None) -> None:
    signal = data((40, 11))
    group = {"column": "site", "value": 1}
    after = poisoned("subgroup-degradation", signal, group=group, fraction=fraction, source=source, target=target)
    for client, own in signal.clients.items():
        made = after.clients[client]
        open_to = (own.groups["site"] == 1) & (source is None or own.y == source)
        goal = (own.y + 1) % 4 if target is None else torch.full_like(own.y, target)
        flipped = made.y != own.y
        assert torch.equal(made.x, own.x)
        assert not bool((flipped & ~open_to).any())
        assert torch.equal(made.y[flipped], goal[flipped])
        if target is None:
            assert int(flipped.sum()) == round(fraction * int(open_to.sum()))


def test_the_objective_of_a_subgroup_is_all_of_it_and_counts_what_it_flips() -> None:
    test = images(60, 8)
    found = layer("subgroup-degradation", group={"column": "site", "value": 1}, source=2, target=0).objective(test, setup())
    assert found.index is not None
    assert torch.equal(found.index, (test.groups["site"] == 1).nonzero()[:, 0])
    assert torch.equal(found.counted(test.y), test.y[found.index] == 2)
    assert bool((found.wanted[found.counted(test.y)] == 0).all())


def test_a_group_is_chosen_by_a_column_or_by_brightness() -> None:
    assert (Group().column, Group().value, Group().brighter_than) == (None, None, 0.5)
    race = Group(column="race")
    assert (race.value, race.brighter_than) == (1, None)
    assert Group.model_validate_json(race.model_dump_json()) == race
    for wrong in ({"column": "race", "brighter_than": 0.3}, {"value": 1}, {"column": ""}):
        with pytest.raises(ValidationError):
            Group.model_validate(wrong)


def test_the_light_module_imports_no_torch() -> None:
    code = "import sys, sparring_backdoor.plugin as p; list(p.sparring_plugins()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
