"""Checks of architectures: shapes, seeds, independence of examples, and the way into a row and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.errors import DataError
from sparring.facts import PerExample
from sparring.layout import Layout
from sparring.signals import DataShape
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.subject import Trial, kind

MODELS = kind("models")
SHAPES = (
    DataShape((1, 16, 16), 10),
    DataShape((3, 32, 32), 7),
    DataShape((1, 28, 28), 2),
    DataShape((9,), 2),
    DataShape((1, 32, 32), 3, "segmentation"),
)
HUGE = 1e6


def _made(trial: Trial, shape: DataShape, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module = trial.build().module(shape)
        return module


def accepted(trial: Trial, most: int = 9) -> list[DataShape]:
    """The first shapes that the architecture does not refuse."""
    found: list[DataShape] = []
    reasons = []
    for shape in SHAPES:
        try:
            _made(trial, shape)
        except DataError as error:
            reasons.append(str(error))
            continue
        found.append(shape)
    if not found and trial.sampled:
        raise Inapplicable("; ".join(reasons))
    demand(bool(found), f"it refuses every shape that the kit has: {'; '.join(reasons)}")
    return found[:most]


def _inputs(shape: DataShape, n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape.inputs, generator=torch.Generator().manual_seed(seed))


@check(MODELS)
def output_shape(trial: Trial) -> None:
    """Law: a model returns finite logits [n, classes] ([n, classes, H, W] for segmentation), for one input and for several.
    Why: losses, games and RESPONSE layers read them so.
    If this fails: size the last layer by `shape.classes`, or refuse the shape with `DataError`.
    """
    for shape in accepted(trial):
        module = _made(trial, shape).eval()
        for n in (1, 3):
            with torch.no_grad():
                out = module(_inputs(shape, n))
            wanted = (n, shape.classes) if shape.task == "classification" else (n, shape.classes, *shape.inputs[1:])
            demand(tuple(out.shape) == wanted, f"for {n} inputs {shape.inputs} it returns {tuple(out.shape)}, not {wanted}")
            demand(bool(out.isfinite().all()), f"for inputs {shape.inputs} it returns NaN or infinity")


@check(MODELS)
def output_finite(trial: Trial) -> None:
    """Law: inputs of zeros, and huge ones, give finite outputs, in training mode as in evaluation mode.
    Why: attacks start from anywhere, and a normalisation of constants divides by zero.
    If this fails: give every normalisation an epsilon, and no exponential an input without a bound.
    """
    for shape in accepted(trial, 2):
        module = _made(trial, shape)
        for scale in (0.0, HUGE):
            x = torch.full((4, *shape.inputs), scale)
            for training in (True, False):
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    out = module.train(training)(x)
                mode = "training" if training else "evaluation"
                demand(bool(out.isfinite().all()), f"inputs of {scale:g} give NaN or infinity in {mode} mode")


@check(MODELS)
def weights_seeded(trial: Trial) -> None:
    """Law: weights are drawn from torch's global generator: the same seed gives the same ones, another seed others.
    Why: core seeds it before it builds; clients and workers build the same model again.
    If this fails: use torch's initialisers without a generator of your own, and no other source.
    """
    shape = accepted(trial, 1)[0]
    layout = Layout.of(_made(trial, shape))
    first, again, other = (layout.row(_made(trial, shape, seed)) for seed in (1, 1, 2))
    demand(torch.equal(first, again), "one seed gave two sets of weights")
    demand(not torch.equal(first, other), "two seeds gave the same weights")


@check(MODELS)
def per_example(trial: Trial) -> None:
    """Law: where PerExample is given, an example's output in training mode does not depend on the others in its batch.
    Why: DP-SGD clips per-example gradients; BatchNorm makes them a fiction.
    If this fails: use GroupNorm or LayerNorm; or do not give PerExample.
    """
    if not any(isinstance(fact, PerExample) for fact in trial.signature.gives):
        raise Inapplicable("it does not give PerExample")
    for shape in accepted(trial, 2):
        demand_apart(_made(trial, shape), shape)


def demand_apart(module: nn.Module, shape: DataShape) -> None:
    """Raise `AssertionError` where an example's output in training mode depends on the others in its batch."""
    module = module.double().train()
    x, other = _inputs(shape, 4).double(), 3 * _inputs(shape, 4, 1).double()
    mixed = torch.cat([x[:1], other[1:]])
    x.requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = module(x)[0]
        torch.manual_seed(0)
        off = float((module(mixed)[0] - out).abs().max().detach())
    demand(off < 1e-9, f"replacing other examples moves an output by {off:.2g}")
    (slope,) = torch.autograd.grad(out.sum(), x)
    demand(float(slope[1:].abs().max()) == 0, "the output of one example has a gradient in another's input")


@check(MODELS)
def row_round_trip(trial: Trial) -> None:
    """Law: a model's row, loaded into another instance, gives the same outputs and the same row.
    Why: a row is all that the server and the clients exchange.
    If this fails: keep every number that the output depends on in a parameter or a floating buffer.
    """
    shape = accepted(trial, 1)[0]
    first, second = _made(trial, shape, 1).eval(), _made(trial, shape, 2).eval()
    layout = Layout.of(first)
    demand(layout == Layout.of(second), "two instances have different layouts")
    row = layout.row(first)
    layout.load(second, row)
    demand(torch.equal(row, layout.row(second)), "the row that was loaded is not the row that is read")
    with torch.no_grad():
        x = _inputs(shape, 3)
        demand(torch.equal(first(x), second(x)), "two instances with one row give different outputs")
