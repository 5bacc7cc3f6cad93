"""What the reference cards of architectures measure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.signals import DataShape
from sparring.specs import ModelSpec
from sparring_zoo.plugin import CNN6_SPEC, CONVNET, LENET_CAFFE, LENET_ZHU, MLP_SPEC, RESNET9, RESNET20
from sparring_zoo.resnet import Residual
from sparring_zoo.resnet20 import Block

CIFAR, MNIST = DataShape((3, 32, 32), 10), DataShape((1, 28, 28), 10)
SMALL = DataShape((1, 12, 12), 2)
XOR = (torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1, 1, 0]))


def _network(spec: ModelSpec[Any], shape: DataShape, **options: Any) -> nn.Module:
    """The network of a technique, its parameters always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(spec.config(**options)).module(shape)


def _size(network: nn.Module) -> float:
    return float(sum(p.numel() for p in network.parameters()))


def _constant(network: nn.Module, weight: float, bias: float, last: float = 1.0) -> nn.Module:
    """The network with all weights and biases at constants, but for its last layer: its weights ``last``, its biases 0."""
    *_, final_weight, final_bias = network.parameters()
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(bias if p.dim() == 1 else weight)
        final_weight.fill_(last)
        final_bias.zero_()
    return network


def _receptive_field(network: nn.Module, side: int) -> float:
    """Rows of the input on which one unit in the middle of the last convolution depends."""
    convolutions = nn.Sequential(*list(_constant(network, 0.01, 0.0).children())[:-2])
    x = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps = convolutions(x)
    (slope,) = torch.autograd.grad(maps[0, 0, maps.shape[2] // 2, maps.shape[3] // 2], x)
    return float((slope[0, 0].abs().sum(dim=1) > 0).sum())


def _stripes(n: int, seed: int, side: int) -> tuple[Tensor, Tensor]:
    """Stripes two pixels wide at a random phase, with noise: horizontal (class 0) or vertical (1).

    The four phases of a direction add up to the same even grey, so a linear model is near chance.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    phase = torch.randint(4, (n,), generator=generator)
    wave = ((torch.arange(side) + phase[:, None]) % 4 < 2).float()
    across = wave[:, :, None].expand(n, side, side)
    x = torch.where((y == 0)[:, None, None], across, across.mT)
    return 0.6 * x[:, None] + 0.4 * torch.rand(n, 1, side, side, generator=generator), y


def _learnt(network: nn.Module, steps: int, lr: float, side: int = 12) -> float:
    """Accuracy on other stripes after ``steps`` of gradient descent on 64."""
    (x, y), (fresh, labels) = _stripes(64, 0, side), _stripes(400, 1, side)
    optimiser = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimiser.step()
    with torch.no_grad():
        return float((network(fresh).argmax(dim=1) == labels).double().mean())


def lenet_zhu() -> dict[str, float]:
    """Size, shape and smoothness against the paper's description; and the attack for which the network was made."""
    uniform = torch.cat([p.detach().flatten() for p in _network(LENET_ZHU, CIFAR, init="uniform").parameters()])
    output = _constant(_network(LENET_ZHU, CIFAR), 0.0, 0.0)(torch.ones(1, *CIFAR.inputs))
    return {
        "parameters on 3x32x32 and 10 classes": _size(_network(LENET_ZHU, CIFAR)),
        "output where convolutions give 0": float(output[0, 0].detach()),
        "receptive field of the last convolution": _receptive_field(_network(LENET_ZHU, DataShape((1, 64, 64), 10)), 64),
        "largest parameter of init uniform": float(uniform.abs().max()),
        "variance of the parameters of init uniform": float(uniform.var()),
        "squared error of an image found from its gradient": _leakage(),
    }


def _leakage() -> float:
    """Mean squared error of an 8x8 image that L-BFGS finds by matching the gradient of its loss, the label known."""
    network = _network(LENET_ZHU, DataShape((1, 8, 8), 4), init="uniform").double()
    parameters, label = list(network.parameters()), torch.tensor([1])
    at = torch.arange(8, dtype=torch.float64) / 8
    image = torch.sigmoid(3 * torch.outer(torch.sin(6 * at), torch.cos(4 * at)))[None, None]
    seen = torch.autograd.grad(F.cross_entropy(network(image), label), parameters)
    guess = torch.rand(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.LBFGS([guess], max_iter=40, history_size=40, line_search_fn="strong_wolfe")

    def distance() -> Tensor:
        optimiser.zero_grad()
        found = torch.autograd.grad(F.cross_entropy(network(guess), label), parameters, create_graph=True)
        loss = torch.stack([(a - b).square().sum() for a, b in zip(found, seen, strict=True)]).sum()
        loss.backward()
        return loss

    optimiser.step(distance)
    return float((guess.detach() - image).square().mean())


def lenet_caffe() -> dict[str, float]:
    """Size, reach and shape against the sums of its layers; and whether it learns what a linear model cannot."""
    network = _constant(_network(LENET_CAFFE, MNIST), 1.0, 0.0)
    hidden = network[:-1](torch.ones(1, *MNIST.inputs))  # type: ignore[index]
    return {
        "parameters on 1x28x28 and 10 classes": _size(network),
        "receptive field of the second convolution": _reach(_network(LENET_CAFFE, DataShape((1, 40, 40), 10))),
        "hidden unit on an image of ones": float(hidden[0, 0].detach()) / (25 * 20 * 25),
        "accuracy on stripes": _learnt(_network(LENET_CAFFE, DataShape((1, 16, 16), 2)), steps=30, lr=0.05, side=16),
    }


def _reach(network: nn.Module) -> float:
    """Rows on which a unit of the second convolution depends, whichever of its inputs win: averages in place of maxima."""
    first = [nn.AvgPool2d(2) if isinstance(m, nn.MaxPool2d) else m for m in list(network.children())[:4]]
    return _receptive_field(nn.Sequential(*first, nn.Flatten(), nn.Linear(1, 1)), 40)


def convnet() -> dict[str, float]:
    """Size and shapes against the sums of its layers and LeCun et al.; and whether it learns what a linear model cannot."""
    shape = DataShape((1, 16, 16), 10)
    first, second = (m for m in _network(CONVNET, shape).modules() if isinstance(m, nn.Conv2d))
    maps = first(torch.ones(1, *shape.inputs))
    lit, dark = (_constant(_network(CONVNET, MNIST), 0.0, sign)(torch.ones(1, *MNIST.inputs)) for sign in (1.0, -1.0))
    return {
        "parameters on 1x28x28 and 10 classes": _size(_network(CONVNET, MNIST)),
        "units of a first map on 16x16": float(maps[0, 0].numel()),
        "units of a second map on 16x16": float(second(maps)[0, 0].numel()),
        "receptive field of the second convolution": _receptive_field(_network(CONVNET, DataShape((1, 32, 32), 10)), 32),
        "output where convolutions give 1": float(lit[0, 0].detach()),
        "output where convolutions give -1": float(dark[0, 0].detach()),
        "accuracy on stripes": _learnt(_network(CONVNET, SMALL, width=8), steps=30, lr=0.1),
        "accuracy on stripes of a linear model": _learnt(_network(MLP_SPEC, SMALL, hidden=[]), steps=30, lr=0.1),
    }


def cnn6() -> dict[str, float]:
    """Sizes of both variants, and the scaling of a network without biases."""
    network = _network(CNN6_SPEC, CIFAR)
    x = torch.rand(2, *CIFAR.inputs, generator=torch.Generator().manual_seed(0)).double()
    last = next(m for m in network.modules() if isinstance(m, nn.Linear))
    fewer = _size(network) - _size(_network(CNN6_SPEC, CIFAR, deficient=True))
    wide = network.double()
    with torch.no_grad():
        error = (wide(2 * x) - 2 * wide(x)).abs().max()
    return {
        "parameters on 3x32x32 and 10 classes": _size(network),
        "parameters that CNN6-d has fewer": fewer,
        "inputs of the last layer on 32x32": float(last.in_features),
        "receptive field of the last convolution": _receptive_field(_network(CNN6_SPEC, DataShape((1, 128, 128), 10)), 128),
        "error of f(2x) = 2 f(x)": float(error),
    }


def mlp() -> dict[str, float]:
    """Exclusive or by a network of known weights and by logistic regression, against a textbook; and size and learning."""
    x, y = XOR
    wide = _network(MLP_SPEC, DataShape((30,), 10), hidden=[32, 16])
    network = _network(MLP_SPEC, DataShape((2,), 2), hidden=[2])
    values = ([[1.0, 1.0], [1.0, 1.0]], [0.0, -1.0], [[0.0, 0.0], [1.0, -2.0]], [0.0, 0.0])
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), values, strict=True):
            parameter.copy_(torch.tensor(value))
        off = (network(x)[:, 1] - y).abs().max()
    linear = _network(MLP_SPEC, DataShape((2,), 2), hidden=[])
    optimiser = torch.optim.SGD(linear.parameters(), lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        F.cross_entropy(linear(x), y).backward()
        optimiser.step()
    return {
        "parameters on 30 features, 32 and 16 hidden, 10 classes": _size(wide),
        "error on exclusive or with the textbook's weights": float(off),
        "loss of logistic regression on exclusive or": float(F.cross_entropy(linear(x), y).detach()),
        "probability that logistic regression gives to (1, 1)": float(linear(x)[3].detach().softmax(dim=0)[1]),
        "accuracy on stripes": _learnt(_network(MLP_SPEC, SMALL), steps=60, lr=0.1),
        "accuracy on stripes without hidden layers": _learnt(_network(MLP_SPEC, SMALL, hidden=[]), steps=60, lr=0.1),
    }


def resnet9() -> dict[str, float]:
    """Size and depth against the sums of its layers; the shortcut; whether examples are coupled; and whether it learns."""
    network = _network(RESNET9, CIFAR)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    block = next(m for m in _network(RESNET9, SMALL, width=4).modules() if isinstance(m, Residual))
    x = torch.rand(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        change = (block(x) - x).abs().max()
    return {
        "parameters on 3x32x32 and 10 classes": _size(network),
        "layers with weights": float(len(layers)),
        "change that a residual pair of zero weights makes": float(change),
        "coupling of examples with norm group": _coupling(RESNET9, "group"),
        "coupling of examples with norm batch": _coupling(RESNET9, "batch"),
        "accuracy on stripes": _learnt(_network(RESNET9, SMALL, width=4), steps=20, lr=0.05),
    }


def resnet20() -> dict[str, float]:
    """Sizes and depth against the sums of its layers and the paper; shortcuts; coupling of examples; and whether it learns."""
    network, projected = _network(RESNET20, CIFAR), _network(RESNET20, CIFAR, shortcut="projection")
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    x = torch.rand(2, *CIFAR.inputs, generator=torch.Generator().manual_seed(0))
    stem = list(network.children())[:-3]
    with torch.no_grad():
        for parameter in (p for m in stem if isinstance(m, Block) for p in m.parameters()):
            parameter.zero_()
        first, found = nn.Sequential(*stem[:3])(x), nn.Sequential(*stem)(x)
    change = (found[:, :16] - first[:, :, ::4, ::4]).abs().max() + found[:, 16:].abs().max()
    return {
        "parameters on 3x32x32 and 10 classes, shortcut pad": _size(network),
        "parameters on 3x32x32 and 10 classes, shortcut projection": _size(projected),
        "layers with weights": float(len(layers)),
        "change that stages of zero weights make": float(change),
        "coupling of examples with norm group": _coupling(RESNET20, "group"),
        "coupling of examples with norm batch": _coupling(RESNET20, "batch"),
        "accuracy on stripes": _learnt(_network(RESNET20, SMALL, width=4), steps=20, lr=0.05),
    }


def _coupling(spec: ModelSpec[Any], norm: str) -> float:
    """How far the first example's output moves, in training, when the others of its batch are ten times as bright."""
    network = _network(spec, SMALL, width=4, norm=norm).double().train()
    x = torch.rand(4, *SMALL.inputs, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        return float((network(x)[0] - network(torch.cat([x[:1], 10 * x[1:]]))[0]).abs().max())
