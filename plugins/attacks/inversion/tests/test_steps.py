"""Laws of inversion through several local steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from sparring_inversion.fedavg_inversion import LOTS, FedavgInversion
from sparring_inversion.inverting_gradients import InvertingGradients
from sparring_inversion.matching import Stack, cosine, distance, stacks
from sparring_inversion.plugin import InvertingGradientsConfig
from sparring_inversion.plugin_steps import FEDAVG_INVERSION, FedavgInversionConfig
from sparring_inversion.unroll import courses, gradients, unrolled
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Setup
from sparring.errors import ConfigError
from sparring.facts import Knows
from sparring.keys import Key
from sparring.lab import Lab
from sparring.layout import Layout
from sparring.likeness import assigned, psnr
from sparring.local import cross_entropy
from sparring.signals import DataShape, Examples, ModelPlan
from sparring.views import AggregateView, Capture, LocalSettings, Reconstruction, UpdateView

CTX = Setup(Key(0), "attack")
SHAPE = DataShape((1, 8, 8), 10)
QUICK = {"iterations": 100, "restarts": 1, "lr": 0.1, "momentum": 0.9, "snapshots": 0}


def sgd(
    lr: float = 0.3,
    *,
    momentum: float = 0.0,
    decay: float = 0.0,
    batch: int | None = None,
    epochs: int = 1,
    steps: int | None = None,
) -> LocalSettings:
    return LocalSettings("fedavg", lr, momentum, decay, batch, epochs, steps)


GRADIENT = LocalSettings("fedsgd", 0.3, 0.0, 0.0, None, 1, None)


def digits(count: int) -> tuple[Tensor, Tensor]:
    """8x8 digits in [0, 1]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    index = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))[:count]
    return torch.tensor(data.images / 16)[index, None], torch.tensor(data.target).long()[index]


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 10))


def trained(settings: LocalSettings, x: Tensor, y: Tensor, batch: int = 1) -> UpdateView:
    """What a server receives from core's own clients that hold ``batch`` examples each, and train by ``settings``."""
    torch.manual_seed(0)
    module = tiny().to(x.dtype)
    layout, plan = Layout.of(module), ModelPlan(tiny, SHAPE)
    row, captures = layout.row(module), []
    lab = Lab(plan, layout, settings, Key(0), torch.device("cpu"), x.dtype)
    for client, (xs, ys) in enumerate(zip(x.split(batch), y.split(batch), strict=True)):
        sent = lab.update(row, Examples(xs, ys), client)
        captures.append(Capture(0, client, row, sent, layout, plan, 1, len(xs), ys))
    return UpdateView(SHAPE, cross_entropy, captures, settings)


def summed(view: UpdateView) -> AggregateView:
    """The mean of all rows of a view, of clients with equally many examples."""
    row = torch.stack([c.row for c in view.captures]).mean(0)
    labels = torch.cat([c.labels for c in view.captures if c.labels is not None])
    capture = replace(view.captures[0], client=None, row=row, count=len(view.captures), examples=len(labels), labels=labels)
    return AggregateView(view.shape, view.loss, [capture], view.settings)


def alone(view: UpdateView | AggregateView) -> Stack:
    (stack,) = stacks(view, "granted")
    return stack


def attack(view: UpdateView | AggregateView, ctx: Setup = CTX, /, **options: object) -> Reconstruction:
    return FedavgInversion(FedavgInversionConfig.model_validate({**QUICK, **options})).attack_observe(view, ctx)


def plain(view: UpdateView | AggregateView, **options: object) -> Reconstruction:
    return InvertingGradients(InvertingGradientsConfig.model_validate({**QUICK, **options})).attack_observe(view, CTX)


def quality(found: Reconstruction, x: Tensor, batch: int = 1) -> float:
    """Median PSNR over all images, after assignment."""
    reached = []
    for client, xs in enumerate(x.split(batch)):
        inputs = found.inputs[0, client]
        reached += [psnr(inputs[i], xs[j]) for i, j in assigned(inputs, xs)]
    return float(torch.tensor(reached).median())


class TestCourses:
    def test_an_epoch_takes_every_example_once_and_steps_cut_epochs_short(self) -> None:
        (course,) = courses(5, 1, sgd(batch=2, epochs=2))
        assert course.lots == (slice(0, 2), slice(2, 4), slice(4, 5)) * 2
        assert courses(5, 1, sgd(batch=2, steps=4))[0].lots == course.lots[:4]
        assert courses(5, 1, sgd(batch=9))[0].lots == courses(5, 1, GRADIENT)[0].lots == (slice(0, 5),)

    def test_examples_are_dealt_among_clients_and_those_without_any_take_no_step(self) -> None:
        dealt = courses(5, 2, sgd(batch=2))
        assert [(c.size, c.lots) for c in dealt] == [(3, (slice(0, 2), slice(2, 3))), (2, (slice(3, 5),))]
        assert [c.size for c in courses(2, 3, sgd())] == [1, 1]


class TestUnroll:
    @pytest.mark.parametrize("settings", [GRADIENT, sgd(), sgd(steps=1, batch=9)])
    def test_one_step_on_all_examples_is_the_plain_look(self, settings: LocalSettings) -> None:
        x, y = digits(6)
        stack = alone(trained(settings, x, y, 3))
        dummies = torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        one, other = unrolled(stack, settings)(dummies), stack.look(dummies)
        assert all(one.gradient[name].equal(g) for name, g in other.gradient.items())
        assert torch.allclose(one.loss, other.loss)

    @pytest.mark.parametrize("settings", [sgd(batch=2, epochs=3), sgd(momentum=0.7, decay=0.05, batch=2, steps=4)])
    def test_it_is_what_torch_sgd_does(self, settings: LocalSettings) -> None:
        x, y = digits(5)
        stack = alone(trained(settings, x, y, 5))
        net = stack.captures[0].module().train()
        optimiser = torch.optim.SGD(net.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay)
        order = [torch.arange(5).split(2)[t % 3] for t in range(settings.steps or 3 * settings.epochs)]
        before = [p.detach().clone() for p in net.parameters()]
        for lot in order:
            optimiser.zero_grad()
            F.cross_entropy(net(x[lot]), y[lot]).backward()
            optimiser.step()
        made = unrolled(stack, settings)(x[None]).gradient
        for (name, after), start in zip(net.named_parameters(), before, strict=True):
            assert torch.allclose(made[name][0] * settings.lr * len(order), start - after.detach(), atol=1e-12)

    @pytest.mark.parametrize("settings", [GRADIENT, sgd(), sgd(1.0, steps=5), sgd(momentum=0.5, decay=0.01, epochs=4)])
    def test_true_inputs_give_what_core_s_client_sends_in_length_too(self, settings: LocalSettings) -> None:
        x, y = digits(6)
        stack = alone(trained(settings, x, y, 3))
        assert distance(unrolled(stack, settings)(x.view(2, 3, 1, 8, 8)).gradient, stack).max() < 1e-20

    def test_lots_in_unknown_order_bound_the_match_the_more_the_longer_the_steps(self) -> None:
        """True inputs, another order than the client's: no longer 1, but nearer than one gradient."""
        x, y = digits(8)
        gaps = []
        for lr in (0.01, 0.1):
            settings = sgd(lr, batch=1, epochs=2)
            stack = alone(trained(settings, x, y, 4))
            true = x.view(2, 4, 1, 8, 8)
            gap = (1 - cosine(unrolled(stack, settings)(true).gradient, stack)).mean()
            assert 1e-6 < gap < (1 - cosine(stack.gradient(true), stack)).mean()
            gaps.append(gap)
        assert gaps[0] < 0.1 * gaps[1]

    def test_an_aggregate_is_the_mean_of_its_clients_own_courses(self) -> None:
        x, y = digits(6)
        settings = sgd(steps=4)
        stack = alone(summed(trained(settings, x, y, 2)))
        assert distance(unrolled(stack, settings)(x[None]).gradient, stack) < 1e-20
        assert distance(unrolled(stack, settings)(x.roll(1, 0)[None]).gradient, stack) > 1e-6

    def test_no_step_length_gives_the_gradient_again_and_again(self) -> None:
        x, y = digits(2)
        stack = alone(trained(sgd(steps=3), x, y))
        made = unrolled(stack, sgd(0.0, steps=3))(x[:, None]).gradient
        assert all(torch.allclose(made[name], g) for name, g in stack.gradient(x[:, None]).items())

    def test_its_slope_is_that_of_finite_differences(self) -> None:
        x, y = digits(2)
        settings = sgd(0.5, momentum=0.5, batch=1, epochs=2)
        stack = alone(trained(settings, x, y, 2))
        look = unrolled(stack, settings)
        at, way = 0.5 * x[None] + 0.2, torch.randn(1, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        dummies = at.clone().requires_grad_()
        (slope,) = torch.autograd.grad(cosine(look(dummies).gradient, stack).sum(), dummies)
        ends = [cosine(look(at + h * way).gradient, stack).sum() for h in (1e-5, -1e-5)]
        assert float((slope * way).sum()) == pytest.approx(float((ends[0] - ends[1]) / 2e-5), rel=1e-4)

    def test_what_is_not_sgd_is_refused(self) -> None:
        settings = sgd()
        stack = alone(trained(settings, *digits(1)))
        with pytest.raises(ConfigError, match="clients train by adam, and only the SGD"):
            unrolled(stack, replace(settings, algorithm="adam"))


class TestAttack:
    def test_for_one_gradient_it_is_inverting_gradients(self) -> None:
        x, y = digits(2)
        view = trained(GRADIENT, x.float(), y)
        one, other = attack(view, iterations=20), plain(view, iterations=20)
        assert all(one.inputs[key].equal(other.inputs[key]) for key in other.inputs)
        assert (one.cost, one.notes) == (other.cost, ())

    @pytest.mark.parametrize(("batch", "settings"), [(1, sgd(0.1, steps=5)), (2, sgd(0.1, steps=3))])
    def test_it_beats_one_gradient_and_noise_gives_nothing(self, batch: int, settings: LocalSettings) -> None:
        x, y = digits(4)
        view = trained(settings, x.float(), y, batch)
        assert quality(attack(view), x, batch) > quality(plain(view), x, batch) + 3
        draw = torch.Generator().manual_seed(1)
        noise = [replace(c, row=torch.randn(c.row.shape, generator=draw)) for c in view.captures]
        grey = float(torch.tensor([psnr(torch.full_like(image, 0.5), image) for image in x]).mean())
        assert quality(attack(replace(view, captures=noise)), x, batch) <= grey + 3

    def test_the_right_guess_is_as_good_as_knowledge_and_needs_no_grant(self) -> None:
        x, y = digits(2)
        view = trained(sgd(0.1, steps=3), x.float(), y)
        known = attack(view, iterations=20)
        guess = {"local": "guessed", "client_lr": [0.1], "client_steps": [3]}
        guessed = attack(replace(view, settings=None), iterations=20, **guess)
        assert all(known.inputs[key].equal(guessed.inputs[key]) for key in known.inputs)
        needs = [FEDAVG_INVERSION.reader.facts(FedavgInversionConfig.model_validate(o)).needs for o in ({}, guess)]  # type: ignore[union-attr]
        assert [Knows("local-settings") in n for n in needs] == [True, False]

    def test_search_takes_the_guess_of_least_loss_whatever_the_scale_of_the_row(self) -> None:
        x, y = digits(3)
        view = trained(sgd(0.1, steps=4), x.float(), y)
        search = {"local": "searched", "client_lr": [0.01, 0.1, 1.0], "client_steps": [4], "trial": 30, "iterations": 5}
        for factor in (1.0, 0.01):
            scaled = replace(view, captures=[replace(c, row=factor * c.row) for c in view.captures], settings=None)
            found = attack(scaled, **search)
            assert "lr 0.1 for 4 steps has the least loss" in found.notes[0]
            assert found.cost == 3 * 4 * (3 * (30 + 1) + (5 + 1))

    def test_lots_that_are_not_known_are_noted(self) -> None:
        x, y = digits(2)
        for settings, notes in ((sgd(batch=1), (LOTS,)), (sgd(batch=2, steps=3), ())):
            assert attack(trained(settings, x.float(), y, 2), iterations=1).notes == notes

    def test_captures_of_one_broadcast_and_different_numbers_of_clients_are_simulated_apart(self) -> None:
        x, y = digits(4)
        settings = sgd(0.1, steps=2)
        sums = [summed(trained(settings, x.float(), y, batch)).captures[0] for batch in (2, 1)]
        sums[1] = replace(sums[1], round=1)
        both = attack(AggregateView(SHAPE, cross_entropy, sums, settings), iterations=10)
        for capture in sums:
            single = attack(AggregateView(SHAPE, cross_entropy, [capture], settings), iterations=10)
            key = (capture.round, None)
            assert both.inputs[key].equal(single.inputs[key])
        assert both.cost == (2 + 4) * 2 * 11

    def test_long_training_is_refused_and_settings_that_are_not_granted_are(self) -> None:
        view = trained(sgd(0.01, steps=5), *digits(1))
        assert gradients(alone(view), sgd(0.01, steps=5)) == 5
        with pytest.raises(ConfigError, match="5 local steps, and longest is 4"):
            attack(view, longest=4)
        with pytest.raises(ConfigError, match="set local: guessed"):
            attack(replace(view, settings=None))

    def test_progress_rises_to_one_over_search_and_attack(self) -> None:
        seen: list[float] = []
        ctx = replace(CTX, progress=lambda text, fraction: seen.append(fraction))
        view = trained(sgd(0.1, steps=2), *digits(1))
        attack(view, ctx, local="searched", client_lr=[0.1, 0.2], client_steps=[2], trial=10, iterations=10)
        assert seen == sorted(seen)
        assert seen[-1] == pytest.approx(1)

    @pytest.mark.parametrize(
        "options",
        [
            {"client_lr": [0.1]},
            {"local": "guessed"},
            {"local": "guessed", "client_lr": [0.1, 0.2], "client_steps": [2]},
            {"local": "searched", "client_lr": [0.1], "client_epochs": [2]},
            {"local": "guessed", "client_lr": [0.1], "client_epochs": [2], "client_steps": [2]},
        ],
    )
    def test_guesses_that_do_not_fit_are_refused(self, options: dict[str, object]) -> None:
        with pytest.raises(ValidationError, match=r"set one|set local|several values"):
            FedavgInversionConfig.model_validate(options)
