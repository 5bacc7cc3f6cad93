"""What is found of a released classifier: by slopes that agree, within the budget, chosen by loss, by whatever name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sparring_model_inversion.losses import LOSSES, doubt
from sparring_model_inversion.mi_face import MIFace
from sparring_model_inversion.model_inversion import ModelInversion
from sparring_model_inversion.oracle import Black, White
from sparring_model_inversion.plugin import MIFaceConfig, ModelInversionConfig
from torch import Tensor, nn

from sparring.errors import ConfigError
from sparring.keys import Key
from sparring.layout import Layout
from sparring.local import cross_entropy
from sparring.record import budgeted
from sparring.roles import PassiveAttack
from sparring.signals import DataShape, ModelPlan
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import SHAPE, Tiny, make_setup, tiny_plan
from sparring.testing.inverted import victim
from sparring.testing.released import taught
from sparring.views import ModelView, QueryView, Representatives

Attack = PassiveAttack[ModelView | QueryView]
QUICK_FACE = {"iterations": 60, "lr": 1.0}
QUICK = {"iterations": 60, "restarts": 2}
FEW: Mapping[str, Attack] = {
    "mi-face": MIFace(MIFaceConfig.model_validate(QUICK_FACE)),
    "model-inversion": ModelInversion(ModelInversionConfig.model_validate(QUICK)),
}
BOTH = pytest.mark.parametrize("attack", FEW.values(), ids=FEW)


def white(module: nn.Module, shape: DataShape = SHAPE, plan: ModelPlan | None = None) -> ModelView:
    layout = Layout.of(module)
    return ModelView(shape, cross_entropy, (0,), (layout.row(module),), layout, plan or tiny_plan(), module)


def black(module: nn.Module, budget: int | None = None, shape: DataShape = SHAPE) -> QueryView:
    return QueryView(shape, cross_entropy, budgeted(module, budget), budget)


def found(attack: Attack, view: ModelView | QueryView) -> Representatives:
    result = attack.attack_observe(view, make_setup("attack"))
    assert isinstance(result, Representatives)
    return result


def inputs(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *SHAPE.inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["doubt", *LOSSES])
def test_numeric_slopes_in_all_directions_are_those_of_autograd(name: str) -> None:
    """To O(r^2): the logits of `Tiny` are smooth, and so is the largest other logit where no two are equal."""
    loss = doubt if name == "doubt" else LOSSES[name]
    module, x, y = Tiny().double(), inputs(4).double(), torch.arange(4)
    value, slope = White(white(module), loss, 0.0).slope(x, y)
    errors = []
    for radius in (0.4, 0.2):
        config = MIFaceConfig(reads="query", directions=64, radius=radius)
        near, numeric = Black(black(module), loss, config, 0, make_setup("attack")).slope(x, y)
        assert torch.allclose(near, value, atol=radius**2)
        errors.append(float((numeric - slope).norm() / slope.norm()))
    assert errors[1] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_slopes_in_few_directions_are_right_in_the_mean() -> None:
    """Each is a projection onto n of D directions times D / n, of variance |g|^2 (D / n - 1) in all."""
    module, x, y = Tiny().double(), inputs(1).double(), torch.tensor([2])
    _, slope = White(white(module), doubt, 0.0).slope(x, y)
    n, draws, D = 16, 400, 64
    oracle = Black(black(module), doubt, MIFaceConfig(reads="query", directions=n, radius=1e-3), 0, make_setup("attack"))
    mean = torch.stack([oracle.slope(x, y)[1] for _ in range(draws)]).mean(0)
    error = float((mean - slope).norm() / slope.norm())
    assert error == pytest.approx(((D / n - 1) / draws) ** 0.5, rel=0.35)
    assert oracle.spent == 2 * n * draws


@given(budget=st.integers(1, 5000), name=st.sampled_from(sorted(FEW)))
@example(budget=71, name="model-inversion")
@example(budget=4000, name="model-inversion")
@settings(deadline=None, max_examples=20)
def test_the_budget_is_never_exceeded_and_where_it_ended_the_search_it_is_spent(budget: int, name: str) -> None:
    """Less is left than a step costs, or the choice among starts, which is kept back."""
    step, choice = {"mi-face": (4 * 16, 0), "model-inversion": (8 * 16, 8 * 9)}[name]
    asked: list[int] = []
    guarded = budgeted(victim(0).module, budget)

    def answer(x: Tensor) -> Tensor:
        found = guarded(x)
        asked.append(len(x))
        return found

    result = found(FEW[name], QueryView(SHAPE, cross_entropy, answer, budget))
    assert result.cost == sum(asked) <= budget
    if any("budget" in note for note in result.notes):
        assert budget - result.cost < max(step, choice)
    if budget >= 60 * step + choice:
        assert not any("budget" in note for note in result.notes)
    assert any("unseen" in note for note in result.notes) == (budget < choice)


@BOTH
def test_answers_alone_find_what_the_parameters_do(attack: Attack) -> None:
    known = victim(0)
    for view in (white(known.module), black(known.module)):
        result = found(attack, view)
        x = torch.cat([result.inputs[label] for label in range(4)])
        assert known.module(x).argmax(1).tolist() == [0, 1, 2, 3]


@BOTH
@given(seed=st.integers(0, 100))
@settings(deadline=None, max_examples=5)
def test_other_names_for_the_classes_are_other_names_for_what_is_found(attack: Attack, seed: int) -> None:
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    known = victim(0).module
    renamed = Tiny()
    renamed.load_state_dict(known.state_dict())
    with torch.no_grad():
        for name in ("3.weight", "3.bias"):
            last = renamed.get_parameter(name)
            last.copy_(last[order].clone())
    for view in (white, black):
        first, second = found(attack, view(known)), found(attack, view(renamed))
        for new, old in enumerate(order.tolist()):
            assert torch.allclose(second.inputs[new], first.inputs[old], atol=1e-2)


def test_of_several_starts_the_one_of_least_loss_over_shifted_copies_is_found() -> None:
    config = ModelInversionConfig(iterations=3, restarts=5, shift=1)
    view = white(victim(0).module)
    chosen = found(ModelInversion(config), view).inputs

    def loss(x: Tensor, label: int) -> float:
        copies = [x.roll((i, j), (-2, -1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        z = torch.stack([view.predict(copy) for copy in copies])[:, 0]
        others = [k for k in range(4) if k != label]
        return float((z[:, others].amax(1) - z[:, label]).mean())

    single = found(ModelInversion(config.model_copy(update={"restarts": 1})), view).inputs
    assert all(loss(chosen[label], label) <= loss(single[label], label) + 1e-5 for label in range(4))
    assert any(loss(chosen[label], label) < loss(single[label], label) - 1e-3 for label in range(4))


@pytest.mark.parametrize("seed", range(4))
def test_the_slope_of_a_rolled_input_is_rolled_back(seed: int) -> None:
    """Adam's first step is lr times the sign of the slope: of a linear model, the weights of the class, rolled back."""

    def linear() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    W = torch.randn(4, *SHAPE.inputs, generator=torch.Generator().manual_seed(seed))
    module = linear()
    with torch.no_grad():
        module.get_parameter("1.weight").copy_(W.flatten(1))
    lr, setup = 0.05, replace(make_setup("attack"), key=Key(seed))
    generator = setup.generator()
    turn = torch.randint(-2, 3, (1, 2), generator=generator)[0].tolist()
    start = torch.rand(1, *SHAPE.inputs, generator=generator)
    assert turn != [0, 0]
    config = ModelInversionConfig(loss="logit", iterations=1, restarts=1, lr=lr, tv=0, l2=0, shift=2)
    result = ModelInversion(config).attack_observe(white(module, plan=ModelPlan(linear, SHAPE)), setup)
    for label in range(4):
        expected = (start + lr * W[label].roll([-by for by in turn], (-2, -1)).sign()).clamp(0, 1)
        assert torch.allclose(result.inputs[label], expected, atol=1e-5)


def test_a_class_is_done_at_gamma_and_the_least_cost_is_found() -> None:
    view = white(victim(0).module)
    y = torch.arange(4)
    result = found(MIFace(MIFaceConfig(iterations=2000, lr=1.0, gamma=0.2)), view)
    cost = doubt(view.predict(torch.cat([result.inputs[k] for k in range(4)])), y)
    assert bool((cost <= 0.2).all())
    assert bool((cost > 0.01).any())
    assert result.cost < 4 * 2000


def test_where_no_cost_ever_falls_patience_ends_it() -> None:
    module = Tiny()
    with torch.no_grad():
        module.get_parameter("3.weight").zero_()
    result = found(MIFace(MIFaceConfig(patience=7)), white(module))
    assert result.cost == 4 * (7 + 1)
    assert all(bool((x == 0).all()) for x in result.inputs.values())


def test_parameters_that_are_no_numbers_give_the_start_back() -> None:
    module = Tiny()
    with torch.no_grad():
        module.get_parameter("1.weight").fill_(torch.nan)
    for attack in FEW.values():
        result = found(attack, white(module))
        assert all(bool(x.isfinite().all()) for x in result.inputs.values())
    assert all(bool((x == 0).all()) for x in found(FEW["mi-face"], white(module)).inputs.values())


@BOTH
def test_inputs_that_are_no_images_are_inverted_too(attack: Attack) -> None:
    shape = DataShape((12,), 4)

    def linear() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))

    generator = torch.Generator().manual_seed(0)
    y = torch.arange(80) % 4
    x = 0.6 * torch.rand(80, 12, generator=generator) + 0.4 * torch.eye(4).repeat_interleave(3, 1)[y]
    with torch.random.fork_rng(devices=[]):
        module = taught(linear(), x, y, 200, 0.05)
    result = found(attack, white(module, shape, ModelPlan(linear, shape)))
    bright = torch.stack([result.inputs[k].view(4, 3).mean(1) for k in range(4)])
    assert bright.argmax(1).tolist() == [0, 1, 2, 3]


@BOTH
def test_dense_tasks_are_refused(attack: Attack) -> None:
    view = white(victim(0).module, replace(SHAPE, task="segmentation"))
    with pytest.raises(ConfigError, match="segmentation"):
        found(attack, view)


class Normal(nn.Sequential):
    """A net whose first BatchNorm layer has seen bright inputs of little contrast."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 4))
        self.get_buffer("0.running_mean").fill_(0.8)
        self.get_buffer("0.running_var").fill_(0.01)


def test_statistics_of_batch_norm_draw_features_to_what_training_showed() -> None:
    module = Normal().eval()
    view = white(module, plan=ModelPlan(Normal, SHAPE))
    near = []
    for weight in (0.0, 30.0):
        config = ModelInversionConfig(loss="cross-entropy", restarts=1, tv=0, l2=0, statistics=weight)
        result = found(ModelInversion(config), view)
        x = torch.cat(list(result.inputs.values()))
        near.append((abs(float(x.mean()) - 0.8), abs(float(x.var()) - 0.01)))
        assert not result.notes
    assert near[1][0] < 0.1 < near[0][0]
    assert near[1][1] < 0.02 < near[0][1]


def test_a_net_without_batch_norm_is_noted_unless_the_prior_is_off() -> None:
    view = white(victim(0).module)
    for weight, noted in ((0.1, 1), (0.0, 0)):
        attack = ModelInversion(ModelInversionConfig.model_validate({**QUICK, "statistics": weight}))
        assert len(found(attack, view).notes) == noted


@pytest.mark.parametrize(
    ("name", "options"), [("mi-face", {"lr": 1.0}), ("mi-face", {"lr": 1.0, "reads": "query"}), ("model-inversion", {})]
)
def test_in_a_federation_an_evaluator_knows_what_is_found(name: str, options: dict[str, Any]) -> None:
    """Points of four classes, each bright in three features: one that is found for all is known once in four."""
    result = outcome(attacks=[{name: options}], threat_model={"knows": ["architecture"], "query_budget": 20_000})
    assert result.scores[name].measures["recognised"].value == 1
