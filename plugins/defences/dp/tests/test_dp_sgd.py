"""DP-SGD's gradient is the clipped mean by definition, of bounded sensitivity, under every way of batching it."""

import pytest
import torch
from scipy import stats
from sparring_dp.dp_sgd import PoissonLots, PoissonSampler, PrivateGradient, PrivateGradients
from sparring_dp.plugin import DP_SGD, DPSGDConfig
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from sparring.claims import GaussianEvent
from sparring.context import Setup
from sparring.keys import Key
from sparring.local import Batch, Client, LocalPlan

MODEL = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
CLIENT = Client(0, 200, 20, 30)


def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(functional_call(MODEL, params, (x,)), y, reduction="none")


@pytest.fixture
def params() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(p.shape, generator=generator) * 0.3 for name, p in MODEL.named_parameters()}


def batch(size: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(size, 1, 8, 8, generator=generator), torch.randint(3, (size,), generator=generator))


def tensors(rule: PrivateGradient, client: Client = CLIENT) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in rule.numbers(client).items()}


def flat(grads: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.reshape(-1) for g in grads.values()])


def reference(params: dict[str, Tensor], b: Batch, C: float, L: float) -> Tensor:
    total = torch.zeros(sum(p.numel() for p in params.values()), dtype=torch.float64)
    for x, y in zip(b.x, b.y, strict=True):
        g = flat(grad(lambda p, x=x, y=y: loss(p, x[None], y[None]).sum())(params)).double()
        total += g * min(1.0, C / float(g.norm()))
    return total / L


@pytest.mark.parametrize("bound", [0.01, 0.5, 2.0, 1e3])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_gradient_is_the_clipped_sum_over_the_expected_lot(params: dict[str, Tensor], bound: float, chunk: int) -> None:
    rule, b = PrivateGradient(bound, 1.0, chunk), batch(17)
    found = flat(rule.grads(loss, params, b, tensors(rule)))
    torch.testing.assert_close(found.double(), reference(params, b, bound, 20.0), rtol=1e-4, atol=1e-7)


def test_a_mask_removes_padding_and_a_loose_bound_gives_the_mean(params: dict[str, Tensor]) -> None:
    rule = PrivateGradient(1e3, 1.0, 8)
    b = batch(20)
    plain = flat(grad(lambda p: loss(p, b.x, b.y).mean())(params))
    torch.testing.assert_close(flat(rule.grads(loss, params, b, tensors(rule))), plain, rtol=1e-4, atol=1e-7)
    padded = Batch(torch.cat([b.x, batch(5, 9).x]), torch.cat([b.y, batch(5, 9).y]), torch.tensor([1.0] * 20 + [0.0] * 5))
    torch.testing.assert_close(flat(rule.grads(loss, params, padded, tensors(rule))), plain, rtol=1e-4, atol=1e-7)


def test_stacked_clients_get_what_each_gets_alone(params: dict[str, Tensor]) -> None:
    rule = PrivateGradient(0.4, 1.0, 3)
    lots = [batch(7, 1), batch(7, 2)]
    clients = [CLIENT, Client(1, 50, 5, 10)]
    many = vmap(lambda p, x, y, m, n: rule.grads(loss, p, Batch(x, y, m), n))(
        {name: torch.stack([p, p]) for name, p in params.items()},
        torch.stack([b.x for b in lots]), torch.stack([b.y for b in lots]), torch.ones(2, 7),
        {name: torch.tensor([rule.numbers(c)[name] for c in clients]) for name in rule.numbers(CLIENT)},
    )  # fmt: skip
    for k, (lot, client) in enumerate(zip(lots, clients, strict=True)):
        alone = rule.grads(loss, params, lot, tensors(rule, client))
        torch.testing.assert_close(flat({name: g[k] for name, g in many.items()}), flat(alone), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_sensitivity_is_at_most_the_bound(params: dict[str, Tensor], chunk: int) -> None:
    C, rule = 0.3, PrivateGradient(0.3, 1.0, chunk)
    b = batch(12)
    whole = flat(rule.grads(loss, params, b, tensors(rule))) * 20
    moved = []
    for i in range(12):
        keep = torch.arange(12) != i
        without = flat(rule.grads(loss, params, Batch(b.x[keep], b.y[keep]), tensors(rule))) * 20
        moved.append(float((whole - without).norm()))
    assert max(moved) <= C * (1 + 1e-5)
    assert max(moved) > 0.9 * C


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_an_example_that_is_not_finite_contributes_at_most_the_bound(params: dict[str, Tensor], value: float) -> None:
    rule, b = PrivateGradient(0.3, 1.0, 64), batch(6)
    x = b.x.clone()
    x[2] = value
    keep = torch.arange(6) != 2
    with_ = flat(rule.grads(loss, params, Batch(x, b.y), tensors(rule)))
    without = flat(rule.grads(loss, params, Batch(b.x[keep], b.y[keep]), tensors(rule)))
    assert with_.isfinite().all()
    assert float((with_ - without).norm()) * 20 <= 0.3 * (1 + 1e-5)


def test_zero_gradients_stay_zero_and_an_empty_lot_still_gives_noise(params: dict[str, Tensor]) -> None:
    rule = PrivateGradient(1.0, 1.0, 4)
    flat_loss = lambda p, x, y: loss(p, x, y) * 0  # noqa: E731
    assert not flat(rule.grads(flat_loss, params, batch(5), tensors(rule))).any()
    empty = rule.grads(loss, params, batch(0), tensors(rule))
    assert not flat(empty).any()
    assert {name: g.shape for name, g in empty.items()} == {name: p.shape for name, p in params.items()}
    assert float(rule.noise(50, rule.numbers(CLIENT), torch.Generator().manual_seed(0)).abs().min()) > 0


def test_noise_has_the_claimed_variance_on_the_sum() -> None:
    sigma, C, size = 1.3, 0.5, 40_000
    rule = PrivateGradient(C, sigma, 64)
    generator = torch.Generator().manual_seed(0)
    first, second = (rule.noise(size, rule.numbers(CLIENT), generator) for _ in range(2))
    on_sum = first.double() * 20 / (sigma * C)
    assert stats.chi2.ppf(1e-4, size) < float(on_sum.square().sum()) < stats.chi2.ppf(1 - 1e-4, size)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.03


def test_lots_are_poisson_samples() -> None:
    client = Client(0, 200, 20, 2000)
    lots = list(PoissonSampler().batches(client, torch.Generator().manual_seed(5)))
    assert len(lots) == 2000
    counts = torch.stack([torch.bincount(lot, minlength=200) for lot in lots]).double()
    assert set(counts.unique().tolist()) == {0.0, 1.0}
    sizes = counts.sum(1)
    assert float(sizes.mean()) == pytest.approx(20, abs=4 * (18 / 2000) ** 0.5)
    assert float(sizes.var()) == pytest.approx(18, rel=0.15)
    each = counts.sum(0)
    assert float(((each - 200) ** 2 / 180).sum()) < stats.chi2.ppf(1 - 1e-4, 200)
    assert max(len(lot) for lot in lots) <= PoissonSampler().largest(client)


def test_extreme_rates() -> None:
    generator = torch.Generator().manual_seed(5)
    assert [len(lot) for lot in PoissonSampler().batches(Client(0, 9, 9, 3), generator)] == [9, 9, 9]
    assert list(PoissonSampler().batches(Client(0, 0, 1, 0), generator)) == []
    rare = list(PoissonSampler().batches(Client(0, 50, 1, 200), generator))
    assert min(len(lot) for lot in rare) == 0


def test_plan_and_event() -> None:
    config = DPSGDConfig(bound=0.5, noise_multiplier=1.1)
    plan = LocalPlan()
    for layer, made in zip(DP_SGD.layers, (PoissonLots(config), PrivateGradients(config)), strict=True):
        assert type(layer.build(config)) is type(made)
        plan = made.defence_transform(plan, Setup(Key(0), layer="dp-sgd"))
    assert isinstance(plan.sampler, PoissonSampler)
    assert plan.gradient_owner == "dp-sgd"
    assert plan.gradient.event(CLIENT) == GaussianEvent(1.1, unit="example", rate=0.1, steps=30)
    assert plan.gradient.numbers(CLIENT) == {"bound": 0.5, "expected": pytest.approx(20), "sigma": 1.1}
