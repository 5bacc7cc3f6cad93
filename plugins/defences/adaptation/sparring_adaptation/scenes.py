"""What the cards share: small images, a network that has every part that is replaced, and what an inversion finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.signals import DataShape, ModelPlan
from sparring.specs import DefenceSpec
from sparring.testing.fixtures import make_setup, smooth

SHAPE = DataShape((1, 8, 8), 2)
Factory = Callable[[], nn.Module]


def plan_of(factory: Factory, spec: DefenceSpec[Any] | None = None, **options: Any) -> ModelPlan:
    """The plan of a factory, behind a technique where one is given."""
    plan = ModelPlan(factory, SHAPE)
    if spec is None:
        return plan
    layer: Any = spec.layers[0].build(spec.config(**options))
    after: ModelPlan = layer.defence_transform(plan, make_setup(spec.name))
    return after


def model(factory: Factory, spec: DefenceSpec[Any] | None = None, **options: Any) -> nn.Module:
    """The network of a factory, behind a technique where one is given; its parameters are always the same."""
    plan = plan_of(factory, spec, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return plan.factory()


def network(
    activation: type[nn.Module] = nn.ReLU, pool: Factory = lambda: nn.MaxPool2d(2), norm: Factory = nn.Identity
) -> nn.Module:
    """Two convolutions of 8 channels with a pooling between them, and a linear layer, on 1x8x8 images of two classes."""
    first, second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(first, norm(), activation(), pool(), second, activation(), nn.Flatten(), nn.Linear(128, 2))


def strided() -> nn.Module:
    """`network` with a stride of 2 in place of the pooling, and sigmoids."""
    first, second = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(first, nn.Sigmoid(), second, nn.Sigmoid(), nn.Flatten(), nn.Linear(128, 2))


def perceptron() -> nn.Module:
    """64 - 32 - 2 with a ReLU."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))


def stripes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Stripes two pixels wide at a random phase, with noise: horizontal (class 0) or vertical (1)."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    phase = torch.randint(4, (n,), generator=generator)
    across = ((torch.arange(8) + phase[:, None]) % 4 < 2).float()[:, :, None].expand(n, 8, 8)
    x = torch.where((y == 0)[:, None, None], across, across.mT)
    return 0.6 * x[:, None] + 0.4 * torch.rand(n, 1, 8, 8, generator=generator), y


def learnt(net: nn.Module, steps: int = 60, lr: float = 0.05) -> float:
    """Accuracy on 400 other stripes after ``steps`` of gradient descent on 128, the random parts of the network seeded."""
    (x, y), (fresh, labels) = stripes(128, 0), stripes(400, 1)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=lr, momentum=0.9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for _ in range(steps):
            optimiser.zero_grad()
            F.cross_entropy(net.train()(x), y).backward()
            optimiser.step()
    with torch.no_grad():
        return float((net.eval()(fresh).argmax(dim=1) == labels).double().mean())


def gradient(net: nn.Module, x: Tensor, y: Tensor, seed: int | None = None) -> list[Tensor]:
    """The gradient of the mean loss by trained parameter: in training with this ``seed``, or in evaluation."""
    net.train(seed is not None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        return list(torch.autograd.grad(F.cross_entropy(net(x), y), [p for p in net.parameters() if p.requires_grad]))


def mismatch(net: nn.Module) -> float:
    r"""$\|g - g'\| / \|g\|$ at the true image: g with the client's draws, g' with others."""
    net = net.double()
    x, y = stripes(1, 3)
    one, other = (torch.cat([g.flatten() for g in gradient(net, x.double(), y, seed)]) for seed in (1, 2))
    return float((one - other).norm() / one.norm())


def inverted(net: nn.Module, iterations: int = 60) -> float:
    """Mean squared error of a smooth image that L-BFGS finds by matching the gradient of its loss, the label known.

    The client's gradient has its own draws; the adversary, who does not know them, matches in evaluation.
    """
    net = net.double()
    generator = torch.Generator().manual_seed(0)
    image, y = smooth(1, generator).double(), torch.tensor([1])
    parameters = [p for p in net.parameters() if p.requires_grad]
    target = gradient(net, image, y, seed=1)
    net.eval()
    size = sum(float(g.square().sum()) for g in target)
    guess = torch.rand(image.shape, generator=generator, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.LBFGS([guess], max_iter=iterations, history_size=iterations, line_search_fn="strong_wolfe")

    def distance() -> Tensor:
        optimiser.zero_grad()
        found = torch.autograd.grad(F.cross_entropy(net(guess), y), parameters, create_graph=True)
        loss = torch.stack([(a - b).square().sum() for a, b in zip(found, target, strict=True)]).sum() / size
        loss.backward()
        return loss

    optimiser.step(distance)
    return float((guess.detach() - image).square().mean())


def passed(net: nn.Module, layer: int) -> float:
    """Share of the numbers behind layer ``layer`` of a sequence to which the loss of 16 stripes passes a gradient."""
    (x, y), parts = stripes(16, 2), list(net.eval())  # type: ignore[call-overload]
    hidden = nn.Sequential(*parts[: layer + 1])(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(nn.Sequential(*parts[layer + 1 :])(hidden), y), hidden)
    return float((slope != 0).double().mean())
