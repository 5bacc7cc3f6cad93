"""Restart-iterations per second of `inverting-gradients` against the plain loop, as ratios in one run.

Run: python benchmarks/inversion.py [--repeats 5]. The plain loop is what is usually written: ``torch.autograd.grad`` with
``create_graph=True``, one restart at a time, the same objective, box and signed Adam. One 32x32 image, labels known, an
untrained network; both with the threads that torch takes by itself. A ratio of 2 means twice as many restart-iterations in the
same time. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from sparring_inversion.inverting_gradients import InvertingGradients
from sparring_inversion.plugin import InvertingGradientsConfig
from sparring_zoo.plugin import CONVNET, RESNET20
from torch import Tensor, nn

from sparring.context import Setup
from sparring.keys import Key
from sparring.layout import Layout
from sparring.local import cross_entropy
from sparring.signals import DataShape, ModelPlan
from sparring.views import Capture, UpdateView

SHAPE = DataShape((3, 32, 32), 10)
Run = Callable[[UpdateView, int, int], None]


def nets() -> dict[str, Callable[[], nn.Module]]:
    """ConvNet and ResNet-20 (GroupNorm: one image has no batch statistics)."""
    made = {"ConvNet": (CONVNET, {"width": 48}), "ResNet-20": (RESNET20, {"norm": "group"})}
    return {name: partial(spec.build(spec.config(**options)).module, SHAPE) for name, (spec, options) in made.items()}


def capture(factory: Callable[[], nn.Module]) -> UpdateView:
    """What one client sends for one random image under FedSGD."""
    torch.manual_seed(0)
    module = factory()
    layout = Layout.of(module)
    parameters, x, y = layout.row(module), torch.rand(1, *SHAPE.inputs), torch.zeros(1, dtype=torch.long)
    nn.functional.cross_entropy(module.eval()(x), y).backward()
    row = torch.zeros_like(parameters)
    for s in layout.segments:
        slope = dict(module.named_parameters())[s.name].grad
        row[s.start : s.stop] = 0 if slope is None else -slope.reshape(-1)
    return UpdateView(SHAPE, cross_entropy, [Capture(0, 0, parameters, row, layout, ModelPlan(factory, SHAPE), labels=y)], None)


def plain(view: UpdateView, restarts: int, iterations: int) -> None:
    """One restart after another."""
    seen = view.captures[0]
    module = seen.module()
    targets = [seen.gradient[s.start : s.stop].view(s.shape) for s in seen.layout.segments]
    named = dict(module.named_parameters())
    parameters = [named[s.name] for s in seen.layout.segments]
    assert seen.labels is not None
    for _ in range(restarts):
        x = torch.rand(1, *SHAPE.inputs, requires_grad=True)
        adam = torch.optim.Adam([x], lr=0.05)
        for _ in range(iterations):
            adam.zero_grad()
            loss = nn.functional.cross_entropy(module(x), seen.labels)
            slopes = torch.autograd.grad(loss, parameters, create_graph=True)
            objective = 1 - cosine(slopes, targets) + 3e-3 * (x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean())
            objective.backward()
            assert x.grad is not None
            x.grad.sign_()
            adam.step()
            with torch.no_grad():
                x.clamp_(0, 1)


def cosine(one: tuple[Tensor, ...], other: list[Tensor]) -> Tensor:
    """The cosine over the concatenated gradient."""
    inner = torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
    lengths = [torch.stack([g.square().sum() for g in gs]).sum().sqrt() for gs in (one, other)]
    return inner / (lengths[0] * lengths[1])


def ours(view: UpdateView, restarts: int, iterations: int, compiled: bool = False) -> None:
    """The plugin."""
    config = InvertingGradientsConfig(iterations=iterations, restarts=restarts, snapshots=0, compiled=compiled)
    InvertingGradients(config).attack_observe(view, Setup(Key(0), "inversion"))


def seconds(run: Run, view: UpdateView, restarts: int, iterations: int) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    run(view, restarts, iterations)
    return time.perf_counter() - begun


def main() -> None:
    """Print a line for each network and number of restarts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, taken in turn")
    parser.add_argument("--iterations", type=int, default=60, help="of one restart")
    parser.add_argument("--compile", nargs="*", default=["ConvNet"], help="networks that are measured compiled too")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, factory in nets().items():
        view = capture(factory)
        print(f"{name} ({view.captures[0].layout.parameters:,} parameters)")
        ways = {"eager": ours, **({"compiled": partial(ours, compiled=True)} if name in given.compile else {})}
        for restarts in (1, 8):
            for way, run in ways.items():
                report(way, run, view, restarts, given)


def report(way: str, run: Run, view: UpdateView, restarts: int, given: argparse.Namespace) -> None:
    """Print a line: both in turn, so that what else the machine does meets both; what compiling takes, apart."""
    plain(view, restarts, 3)
    begun = time.perf_counter()
    run(view, restarts, 3)
    first = time.perf_counter() - begun
    again = seconds(run, view, restarts, 3)
    pairs = [[seconds(one, view, restarts, given.iterations) for one in (plain, run)] for _ in range(given.repeats)]
    # A compiled run compiles anew; what that takes is counted once, below, and not against every iteration.
    start = again if way == "compiled" else 0.0
    ratios = sorted(slow / (fast - start) for slow, fast in pairs)
    rate = restarts * given.iterations / statistics.median(slow for slow, _ in pairs)
    spread = f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]"
    compiling = f", {first:.0f} s to compile ({again:.1f} s again)" if way == "compiled" else ""
    times = f"{statistics.median(ratios):5.2f} times {spread}{compiling}"
    print(f"  {way:8} {restarts} restart(s): plain {rate:6.1f} a second, {times}", flush=True)


if __name__ == "__main__":
    main()
