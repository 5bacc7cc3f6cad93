"""Soteria changes one gradient, in the components of largest ratio, and no loss; it agrees with a direct computation."""

import pytest
import torch
from sparring_perturbation.plugin import SoteriaConfig
from sparring_perturbation.soteria import Soteria, jacobian_norms, kept
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from sparring.errors import ConfigError
from sparring.local import Batch, LocalPlan, cross_entropy, embed
from sparring.testing.fixtures import make_setup
from sparring.train import pure_loss


def net(norm: bool = False, drop: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        middle = [nn.BatchNorm2d(4)] if norm else []
        late = [nn.Dropout(0.5)] if drop else []
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            *middle,
            nn.Sigmoid(),
            nn.Flatten(),
            *late,
            nn.Linear(36, 10),
            nn.Tanh(),
            nn.Linear(10, 3),
        )


def batch(size: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(size, 1, 8, 8, generator=generator), torch.randint(3, (size,), generator=generator))


def plan(p: float) -> LocalPlan:
    return Soteria(SoteriaConfig(fraction=p)).defence_transform(LocalPlan(), make_setup())


def gradient(module: nn.Module, made: LocalPlan, b: Batch) -> dict[str, Tensor]:
    return made.gradient.grads(pure_loss(module, made), {k: p.detach() for k, p in module.named_parameters()}, b, {})


def direct(module: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """Representations and norms by one backward pass per example and component."""
    r = module[:-1](x)
    norms = torch.zeros_like(r)
    for i in range(len(x)):
        for j in range(r.shape[1]):
            one = x[i : i + 1].clone().requires_grad_()
            norms[i, j] = torch.autograd.grad(module[:-1](one)[0, j], one)[0].norm()
    return r.detach(), norms


def test_norms_are_those_of_one_backward_pass_per_component() -> None:
    module, b = net().eval(), batch(5)
    layer, *measured = jacobian_norms(module, b.x)
    assert layer is module[-1]
    for found, expected in zip(measured, direct(module, b.x), strict=True):
        torch.testing.assert_close(found.detach(), expected)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.6, 1.0])
def test_one_gradient_changes_and_it_is_the_outer_product_with_the_masked_representation(p: float) -> None:
    module, b = net(), batch(4)
    found, plain = gradient(module, plan(p), b), gradient(module, LocalPlan(), b)
    r, norms = direct(module, b.x)
    hidden = max(1, round(p * 10))
    mask = torch.ones_like(r)
    for i in range(4):
        for j in sorted(range(10), key=lambda j: -float(r[i, j].abs() / norms[i, j]))[:hidden]:
            mask[i, j] = 0
    slope = (module(b.x).softmax(1) - F.one_hot(b.y, 3)).detach() / 4
    torch.testing.assert_close(found["5.weight"], slope.T @ (r * mask))
    for name, expected in plain.items():
        if name != "5.weight":
            torch.testing.assert_close(found[name], expected)


def test_the_loss_is_the_same_bit_for_bit() -> None:
    module, b = net(), batch(6)
    with torch.no_grad():
        assert torch.equal(plan(0.6).loss(module, b), cross_entropy(module, b))


def test_eager_functional_and_stacked_training_agree() -> None:
    module, made, b = net(), plan(0.5), batch(6)
    pure = gradient(module, made, b)
    assert made.gradient.eager(module, made.loss, b, {})
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad, pure[name])
    theta = {k: torch.stack([p.detach(), 0.5 * p.detach()]) for k, p in module.named_parameters()}
    lots = [batch(6, 1), batch(6, 2)]
    many = vmap(lambda t, x, y: made.gradient.grads(pure_loss(module, made), t, Batch(x, y), {}))(
        theta, torch.stack([lot.x for lot in lots]), torch.stack([lot.y for lot in lots])
    )
    for k, lot in enumerate(lots):
        alone = made.gradient.grads(pure_loss(module, made), {n: t[k] for n, t in theta.items()}, lot, {})
        for name, expected in alone.items():
            torch.testing.assert_close(many[name][k], expected)


def test_examples_stay_apart_and_batch_norm_is_left_alone() -> None:
    module, b = net(), batch(5)
    whole = gradient(module, plan(0.4), b)
    each = [gradient(module, plan(0.4), Batch(b.x[i : i + 1], b.y[i : i + 1])) for i in range(5)]
    for name, expected in whole.items():
        torch.testing.assert_close(torch.stack([g[name] for g in each]).mean(0), expected)
    once, twice = net(norm=True).train(), net(norm=True).train()
    cross_entropy(once, b)
    plan(0.4).loss(twice, b)
    assert torch.equal(once[1].running_mean, twice[1].running_mean)
    assert all(m.training for m in twice.modules())


def test_dropout_draws_once() -> None:
    module, b = net(drop=True).train(), batch(5)
    losses = []
    for loss in (cross_entropy, plan(0.4).loss):
        torch.manual_seed(1)
        losses.append(loss(module, b).detach())
    assert torch.equal(*losses)


def test_ties_zeros_and_components_that_no_input_moves() -> None:
    r = torch.tensor([[0.0, 2.0, -2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    norms = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert kept(r, norms, 0.25).tolist() == [[True, True, True, False], [False, True, True, True]]
    assert kept(r, norms, 0.5).tolist() == [[True, False, True, False], [False, False, True, True]]
    assert kept(r, norms, 0.01).sum(1).tolist() == [3, 3]


def test_where_no_linear_layer_runs_it_is_refused() -> None:
    conv, module, b = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), net(), batch(2)
    outputs = module(b.x)
    for forward in (conv, lambda x: outputs):
        with pytest.raises(ConfigError, match="list soteria after"):
            plan(0.5).loss(forward, b)


def test_a_wrapped_model_is_seen_through() -> None:
    module, b, made = net(), batch(3), plan(0.5)
    made.loss(lambda x: module(x.clone()), b).mean().backward()
    for name, expected in gradient(net(), made, b).items():
        torch.testing.assert_close(dict(module.named_parameters())[name].grad, expected)


def test_an_attack_that_replays_it_has_the_derivative_of_what_it_matches() -> None:
    """The derivative of the masked gradient in the input, against finite differences, where the mask does not change."""
    module, made, b = net().double(), plan(0.4), batch(1)
    x, direction = b.x.double(), torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()

    def shown(inputs: Tensor) -> Tensor:
        return gradient(module, made, Batch(inputs, b.y))["5.weight"]

    wanted = torch.randn(3, 10, generator=torch.Generator().manual_seed(1)).double()
    (slope,) = torch.func.vjp(shown, x)[1](wanted)
    step = 1e-5
    ahead, behind = (float((shown(x + sign * step * direction) * wanted).sum()) for sign in (1, -1))
    assert float((slope * direction).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)


def test_a_functional_call_sees_the_parameters_that_it_is_given() -> None:
    module, b = net(), batch(3)
    double = {name: 2 * p.detach() for name, p in module.named_parameters()}
    other = net()
    other.load_state_dict(double)
    made = plan(0.5)
    found = made.gradient.grads(pure_loss(module, made), double, b, {})
    for name, expected in gradient(other, made, b).items():
        torch.testing.assert_close(found[name], expected)
    assert torch.equal(embed(other, b.x)[1], functional_call(module, double, (b.x,)))
