"""Laws of adaptations: shapes stay, what changes is noted, functional calls are refused, and what is adapted trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sparring_adaptation.normalisation import groups_of
from sparring_adaptation.plugin import sparring_plugins
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.errors import ConfigError
from sparring.facts import PerExample
from sparring.layout import Layout
from sparring.signals import DataShape, ModelPlan
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import make_setup

SPECS: dict[str, Any] = {spec.name: spec for spec in sparring_plugins()}
SHAPE = DataShape((1, 12, 12), 3)
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(("activation", {"to": to}) for to in ("relu", "leaky-relu", "elu", "selu", "silu", "mish", "tanh", "sigmoid")),
    *(("pooling", {"to": to}) for to in ("avg", "max", "strided")),
    ("stride", {"to": "pooled"}),
    *(("normalisation", {"to": to, "groups": 3}) for to in ("group", "layer", "instance", "none")),
    *(("width", {"factor": factor}) for factor in (0.1, 0.5, 3)),
    *(("dropout", {"where": where}) for where in ("classifier", "activations")),
    *(("frozen-extractor", {"trained": n}) for n in (1, 2)),
    ("no-first-bias", {}),
    ("precode", {"size": 5}),
]
IDEMPOTENT = ("activation", "pooling", "stride", "normalisation", "frozen-extractor", "no-first-bias")


def everything() -> nn.Module:
    """A network that has something for every technique."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.GELU(), nn.Conv2d(6, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.AvgPool2d(3, 1, 1), nn.Flatten(), nn.Linear(108, 10), nn.BatchNorm1d(10), nn.PReLU(), nn.Linear(10, 3),
    )  # fmt: skip


def pyramid() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 3))


def adapt(plan: ModelPlan, name: str, **options: Any) -> ModelPlan:
    layer = SPECS[name].layers[0].build(SPECS[name].config(**options))
    after: ModelPlan = layer.defence_transform(plan, make_setup(name))
    return after


def made(plan: ModelPlan, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return plan.factory()


PLAN = ModelPlan(everything, SHAPE)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_outputs_keep_their_shape_and_parameters_are_finite_and_repeat(name: str, options: dict[str, Any]) -> None:
    plan = adapt(PLAN, name, **options)
    one, again = made(plan), made(plan)
    assert torch.equal(Layout.of(one).row(one), Layout.of(again).row(again))
    assert bool(Layout.of(one).row(one).isfinite().all())
    assert one.train()(torch.rand(4, *SHAPE.inputs)).shape == (4, 3)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_every_module_that_differs_is_noted(name: str, options: dict[str, Any]) -> None:
    plan = adapt(PLAN, name, **options)
    before, after = dict(everything().named_children()), dict(made(plan).named_children())
    changed = {key for key in before if str(before[key]) != str(after[key])}
    noted = {note.split(": ")[1].split(".")[0] for note in plan.notes if " -> " in note}
    assert plan.notes
    assert noted == changed or (name == "frozen-extractor" and noted)


@pytest.mark.parametrize(("name", "options"), [(n, o) for n, o in OPTIONS if n in IDEMPOTENT])
def test_a_second_time_changes_nothing(name: str, options: dict[str, Any]) -> None:
    once = adapt(PLAN, name, **options)
    twice = adapt(once, name, **options)
    first, second = made(once), made(twice)
    assert str(first) == str(second)
    assert once.frozen == twice.frozen


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(F.max_pool2d(x, 2).relu().flatten(1))
        return out


@pytest.mark.parametrize(
    ("name", "options", "function"),
    [
        ("activation", {"to": "tanh"}, "relu"),
        ("pooling", {}, "max_pool2d"),
        ("dropout", {"where": "activations"}, "relu"),
    ],
)
def test_what_a_forward_method_calls_is_refused_by_name(name: str, options: dict[str, Any], function: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{name}' replaces modules, but .*calls .*{function}.*write"):
        adapt(ModelPlan(Functional, SHAPE), name, **options)


def test_pooling_none_is_refused_where_the_output_would_not_fit() -> None:
    with pytest.raises(ConfigError, match="no longer runs"):
        adapt(ModelPlan(pyramid, SHAPE), "pooling", to="none")


def test_a_pooling_becomes_the_stride_of_the_convolution_before_it_with_its_weights() -> None:
    plan = ModelPlan(pyramid, SHAPE)
    before, after = made(plan), made(adapt(plan, "stride", to="strided"))
    x = torch.rand(2, *SHAPE.inputs)
    torch.testing.assert_close(after[0](x), before[0](x)[..., ::2, ::2])  # type: ignore[index]


def test_width_one_keeps_every_weight() -> None:
    one, same = made(PLAN), made(adapt(PLAN, "width", factor=1))
    assert torch.equal(Layout.of(one).row(one), Layout.of(same).row(same))


@pytest.mark.parametrize("channels", [1, 2, 6, 12, 35])
@pytest.mark.parametrize("positions", [1, 4])
@pytest.mark.parametrize("to", ["group", "layer", "instance"])
def test_groups_divide_the_channels_and_hold_two_numbers(to: Any, channels: int, positions: int) -> None:
    g = groups_of(to, 32, channels, positions)
    if channels * positions == 1:
        assert g == 0
    else:
        assert channels % g == 0
        assert channels // g * positions > 1


def test_normalisation_refuses_what_couples_examples_by_other_means() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    with pytest.raises(ConfigError, match="still depends on others"):
        adapt(ModelPlan(lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 3), Centred()), SHAPE), "normalisation")


def test_a_layer_that_takes_away_what_is_frozen_is_refused() -> None:
    frozen = adapt(PLAN, "frozen-extractor")
    with pytest.raises(ConfigError, match=r"what is frozen.*put the layer that freezes behind it"):
        adapt(frozen, "no-first-bias")


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("name", ["normalisation", "frozen-extractor", "no-first-bias", "width", "activation"])
def test_stacked_and_sequential_training_agree(name: str) -> None:
    stack = [{"normalisation": {"to": "layer"}}, *([] if name == "normalisation" else [name])]
    federation = {"clients": 4, "rounds": 2, "optimiser": {"lr": 0.1}}
    runs = [
        outcome(model=net, defences=stack, federation=federation, engine=engine).history[-1]
        for engine in ("stacked", "sequential")
    ]
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)


@pytest.mark.parametrize("name", ["dropout", "precode"])
def test_what_draws_at_random_trains_in_workers_as_in_sequence(name: str) -> None:
    federation = {"clients": 4, "rounds": 2, "optimiser": {"lr": 0.1}}
    stack = [{"normalisation": {"to": "layer"}}, name]
    runs = [
        outcome(model=net, defences=stack, federation=federation, engine=engine).history[-1]
        for engine in ("workers", "sequential")
    ]
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)
    with pytest.raises(ConfigError, match="cannot be"):
        outcome(model=net, defences=stack, federation=federation, engine="stacked")


def test_private_gradients_need_per_example_which_normalisation_gives_and_random_layers_lose() -> None:
    held = [SPECS[name].layers[0].facts(SPECS[name].config()) for name in ("normalisation", "width", "dropout", "precode")]
    assert [PerExample() in (*s.gives, *s.keeps) for s in held] == [True, True, False, False]
