"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from sparring.layout import Layout
from sparring.likeness import psnr
from sparring.local import Batch, LocalPlan
from sparring.testing.fixtures import make_setup, smooth
from sparring_adaptation.activation import KINDS
from sparring_adaptation.configs import PrecodeConfig
from sparring_adaptation.plugin import (
    ACTIVATION,
    DROPOUT,
    FROZEN_EXTRACTOR,
    NO_FIRST_BIAS,
    NORMALISATION,
    POOLING,
    PRECODE,
    STRIDE,
    WIDTH,
)
from sparring_adaptation.precode import AddDivergence, GaussNoise, divergence
from sparring_adaptation.scenes import (
    gradient,
    inverted,
    learnt,
    mismatch,
    model,
    network,
    passed,
    perceptron,
    plan_of,
    strided,
    stripes,
)

batch_norm = partial(network, nn.ReLU, norm=lambda: nn.BatchNorm2d(8))


def dense() -> nn.Module:
    """`strided` with ReLUs: what training on few steps learns."""
    return nn.Sequential(*(nn.ReLU() if isinstance(m, nn.Sigmoid) else m for m in strided().children()))


def _size(net: nn.Module) -> float:
    return float(sum(p.numel() for p in net.parameters()))


def _flat(net: nn.Module) -> float:
    """Share of the slopes of a network's first activation on (-3, 3) that are 0."""
    x = torch.linspace(-3, 3, 1000).requires_grad_()
    (slope,) = torch.autograd.grad(next(m for m in net.modules() if isinstance(m, KINDS))(x).sum(), x)
    return float((slope == 0).double().mean())


def activation() -> dict[str, float]:
    """Slopes, what an inversion finds through sigmoids, ReLUs and SiLUs, and accuracies."""
    relu = model(strided, ACTIVATION, to="relu")
    return {
        "share of slopes that are 0, ReLU": _flat(relu),
        "the same, undefended (sigmoid)": _flat(strided()),
        "squared error of the image found, ReLU": inverted(relu),
        "squared error of the image found, SiLU": inverted(model(strided, ACTIVATION, to="silu")),
        "squared error of the image found, undefended (sigmoid)": inverted(model(strided)),
        "accuracy on stripes, SiLU": learnt(model(network, ACTIVATION, to="silu")),
        "accuracy on stripes, undefended (ReLU)": learnt(model(network)),
    }


def pooling() -> dict[str, float]:
    """Where gradients pass behind each pooling, what an inversion finds, and accuracies."""
    kinked, soft = network, partial(network, nn.Sigmoid)
    x = torch.rand(3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    off = model(soft, POOLING)[3](x) - x.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).mean(dim=(-1, -3))  # type: ignore[index]
    return {
        "share of positions that get a gradient, avg": passed(model(soft, POOLING), 2),
        "share of positions that get a gradient, strided": passed(model(soft, POOLING, to="strided"), 2),
        "share of positions that get a gradient, undefended (max)": passed(model(soft), 2),
        "largest difference from means of windows": float(off.abs().max()),
        "squared error of the image found, strided": inverted(model(soft, POOLING, to="strided")),
        "squared error of the image found, undefended (max)": inverted(model(soft)),
        "accuracy on stripes, avg": learnt(model(kinked, POOLING)),
        "accuracy on stripes, strided": learnt(model(kinked, POOLING, to="strided")),
        "accuracy on stripes, undefended (max)": learnt(model(kinked)),
    }


def stride() -> dict[str, float]:
    """The averaged output against every position of a dense convolution, what an inversion finds, and accuracies."""
    before, after = model(strided), model(strided, STRIDE)
    convolution = before[0]  # type: ignore[index]
    x, _ = stripes(4, 4)
    whole = nn.functional.conv2d(x, convolution.weight, convolution.bias, padding=1)
    windows = whole.unflatten(-1, (4, 2)).unflatten(-3, (4, 2))
    return {
        "largest difference of pooled from means of the dense output": float(
            (after[0](x) - windows.mean(dim=(-1, -3))).abs().max().detach()  # type: ignore[index]
        ),
        "largest difference of undefended from every second position": float(
            (convolution(x) - whole[..., ::2, ::2]).abs().max().detach()
        ),
        "strides above 1 behind strided, in place of poolings": float(
            sum(isinstance(m, nn.Conv2d) and m.stride == (2, 2) for m in model(network, STRIDE, to="strided").modules())
        ),
        "squared error of the image found, pooled": inverted(after),
        "squared error of the image found, undefended": inverted(before),
        "accuracy on stripes, pooled": learnt(model(dense, STRIDE)),
        "accuracy on stripes, undefended": learnt(model(dense)),
    }


def normalisation() -> dict[str, float]:
    """How examples are coupled, which numbers of batches a row holds, copied parameters, and accuracies."""

    def marked() -> nn.Module:
        net = batch_norm()
        net[1].load_state_dict({"weight": 2 * torch.ones(8), "bias": 3 * torch.ones(8)}, strict=False)  # type: ignore[index]
        return net

    defended, plain = model(marked, NORMALISATION, groups=4), model(marked)
    x = torch.randn(5, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    out = defended[1](x).detach()  # type: ignore[index]
    return {
        "coupling of examples": _coupling(defended),
        "coupling of examples, undefended": _coupling(plain),
        "batch statistics in a row": float(sum(s.stop - s.start for s in Layout.of(defended).segments if s.role == "buffer")),
        "batch statistics in a row, undefended": float(
            sum(s.stop - s.start for s in Layout.of(plain).segments if s.role == "buffer")
        ),
        "mean of an example's group over the copied beta": float(out[0, :2].mean()) / 3,
        "deviation of an example's group over the copied gamma": float(out[0, :2].std(correction=0)) / 2,
        "accuracy on stripes": learnt(model(batch_norm, NORMALISATION, groups=4)),
        "accuracy on stripes, undefended": learnt(model(batch_norm)),
    }


def _coupling(net: nn.Module) -> float:
    """How far the first example's output moves, in training, when the others of its batch are ten times as bright."""
    x, _ = stripes(4, 5)
    net = net.double().train()
    with torch.no_grad():
        return float((net(x.double())[0] - net(torch.cat([x[:1], 10 * x[1:]]).double())[0]).abs().max())


def width() -> dict[str, float]:
    """Numbers of parameters by hand, what an inversion finds, and accuracies."""
    return {
        "parameters at factor 0.25": _size(model(strided, WIDTH, factor=0.25)),
        "parameters at factor 2": _size(model(strided, WIDTH, factor=2)),
        "parameters, undefended": _size(model(strided)),
        "squared error of the image found, factor 0.25": inverted(model(strided, WIDTH, factor=0.25)),
        "squared error of the image found, undefended": inverted(model(strided)),
        "accuracy on stripes, factor 0.25": learnt(model(network, WIDTH, factor=0.25)),
        "accuracy on stripes, undefended": learnt(model(network)),
    }


def dropout() -> dict[str, float]:
    """Shares of zeros, gradients under other masks than the client's, and accuracies."""
    defended = model(network, DROPOUT, p=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kept = defended[7][0](torch.ones(100, 1000))  # type: ignore[index]
    return {
        "share of zeros before the classifier at p = 0.3": float((kept == 0).double().mean()),
        "mean of ones behind it": float(kept.mean()),
        "mismatch at the true image, classifier": mismatch(model(network, DROPOUT)),
        "mismatch at the true image, activations": mismatch(model(network, DROPOUT, where="activations")),
        "mismatch at the true image, undefended": mismatch(model(network)),
        "accuracy on stripes": learnt(model(network, DROPOUT)),
        "accuracy on stripes, undefended": learnt(model(network)),
    }


def frozen_extractor() -> dict[str, float]:
    """Trained numbers of an update by hand, frozen layers after training, what inversion finds, and accuracies."""
    plan = plan_of(network, FROZEN_EXTRACTOR)
    net, start = model(network, FROZEN_EXTRACTOR), model(network)
    accuracy = learnt(net)
    moved = [float((a - b).abs().max().detach()) for a, b in zip(net.parameters(), start.parameters(), strict=True)]
    return {
        "trained numbers of an update": float(Layout.of(net, plan.frozen).parameters),
        "trained numbers of an update, undefended": float(Layout.of(start).parameters),
        "largest change of a frozen number": max(moved[:4]),
        "largest change of a trained number": max(moved[4:]),
        "squared error of the image found": inverted(model(strided, FROZEN_EXTRACTOR)),
        "squared error of the image found, undefended": inverted(model(strided)),
        "accuracy on stripes": accuracy,
        "accuracy on stripes, undefended": learnt(start),
    }


def no_first_bias() -> dict[str, float]:
    """The closed form with and without bias gradients, what rows still tell, and accuracies."""
    image, y = smooth(1, torch.Generator().manual_seed(0)).double(), torch.tensor([1])

    def found(net: nn.Module) -> tuple[Tensor, Tensor]:
        """x by dividing by the bias gradient (1 where there is none), and the longest row of the weights' gradient."""
        first, second, *_ = gradient(net.double(), image, y)
        i = first.norm(dim=1).argmax()
        return first[i] / (second[i] if second.dim() == 1 else 1.0), first[i]

    x = image.flatten()
    (divided, row), (plain, _) = found(model(perceptron, NO_FIRST_BIAS)), found(model(perceptron))
    scaled = row.abs() / row.abs().max() * x.max()
    return {
        "largest error of dW / db": float((divided - x).abs().max()),
        "largest error of dW / db, undefended": float((plain - x).abs().max()),
        "cosine of the image and a row of dW, absolute": float(torch.cosine_similarity(row, x, dim=0).abs()),
        "largest error of a row scaled to the image's known maximum": float((scaled - x).abs().max()),
        "PSNR of dW / db": psnr(divided, x),
        "accuracy on stripes": learnt(model(perceptron, NO_FIRST_BIAS)),
        "accuracy on stripes, undefended": learnt(model(perceptron)),
    }


def precode() -> dict[str, float]:
    """The divergence by hand, its part of the loss, gradients under other noise than the client's, and accuracies."""
    net = model(network, PRECODE, size=32)
    x, y = stripes(6, 6)
    bottleneck = net[7][0]  # type: ignore[index]
    loss = AddDivergence(PrecodeConfig(beta=0.5)).defence_transform(LocalPlan(), make_setup("precode")).loss
    with torch.no_grad():
        plain, whole = LocalPlan().loss(net.eval(), Batch(x, y)), loss(net.eval(), Batch(x, y))
        bottleneck.encoder.weight.zero_()
        bottleneck.encoder.bias.copy_(torch.cat([torch.ones(32), torch.full((32,), 5.5413248546)]))
        known = loss(net, Batch(x, y)) - LocalPlan().loss(net, Batch(x, y))
    one = torch.ones(2, 3)
    return {
        "KL of N(0, 1), 3 variables": float(divergence(0 * one, one)[0]),
        "KL of N(1, 1), 3 variables": float(divergence(one, one)[0]),
        "beta times KL in the loss where mu = 1, sigma = 1, K = 32, beta = 0.5": float(known.mean()),
        "least part of the divergence in the loss": float((whole - plain).min()),
        "mismatch at the true image": mismatch(model(network, PRECODE)),
        "mismatch at the true image, undefended": mismatch(model(network)),
        "noise modules": float(sum(isinstance(m, GaussNoise) for m in net.modules())),
        "squared error of the image found by matching at mu": inverted(model(strided, PRECODE)),
        "accuracy on stripes": learnt(model(network, PRECODE, size=32)),
        "accuracy on stripes, undefended": learnt(model(network)),
    }
