"""Checks of what runs inside a training step: samplers' lots and gradient rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from scipy import stats
from torch import Tensor
from torch.func import vmap

from sparring.claims import GaussianEvent
from sparring.facts import PoissonSampled
from sparring.local import Batch, Client, GradientRule, LocalPlan
from sparring.sites import Site
from sparring.testing.fixtures import SHAPE, Tiny
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.subject import Trial, layers
from sparring.train import pure_loss

RULES = layers(Site.GRADIENT, kinds=("defences", "attacks"))
CLIENTS = (Client(3, 200, 20, 30), Client(11, 50, 5, 10))
RARE = 1e-7
Grads = dict[str, Tensor]


def make_plan(trial: Trial) -> LocalPlan:
    """The plan that a local layer makes of plain training."""
    plan: LocalPlan = trial.apply(trial.build(), trial.signal(), trial.context())
    return plan


def _module() -> Tiny:
    return Tiny(6).double()


def _params() -> Grads:
    return {name: p.detach().clone() for name, p in _module().named_parameters()}


def make_batch(size: int, seed: int = 0, scale: float = 1.0) -> Batch:
    """A lot of ``size`` random examples in float64, inputs up to ``scale``."""
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.rand(size, *SHAPE.inputs, generator=generator, dtype=torch.float64)
    return Batch(x, torch.randint(SHAPE.classes, (size,), generator=generator))


def _numbers(rule: GradientRule, client: Client) -> Grads:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in rule.numbers(client).items()}


def gradient_of(plan: LocalPlan, batch: Batch, client: Client = CLIENTS[0], params: Grads | None = None) -> Grads:
    """The gradient of a lot under a plan's rule, by parameter."""
    loss = pure_loss(_module().train(), plan)
    return plan.gradient.grads(loss, params or _params(), batch, _numbers(plan.gradient, client))


def flat(grads: Mapping[str, Tensor]) -> Tensor:
    """A gradient as one vector [p]."""
    return torch.cat([grads[name].reshape(-1) for name in _params()])


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


@check(layers(Site.SAMPLER, kinds=("defences", "attacks")))
def sampler_lots(trial: Trial) -> None:
    """Law: a sampler yields `client.steps` lots of distinct indices, none over `largest`; PoissonSampled means coins.
    Why: accountants amplify by a rate at which each example enters by itself; strategies pad lots to `largest`.
    If this fails: draw one coin per example and step from the given generator, and never cap or top up a lot.
    """
    sampler = make_plan(trial).sampler
    for size, batch in ((200, 20), (7, 7), (1, 1)):
        client = Client(3, size, batch, 300)
        lots = list(sampler.batches(client, torch.Generator().manual_seed(1)))
        again = list(sampler.batches(client, torch.Generator().manual_seed(1)))
        demand(len(lots) == client.steps, f"{len(lots)} lots for {client.steps} steps")
        repeats = all(torch.equal(a, b) for a, b in zip(lots, again, strict=True))
        demand(repeats, "one generator state gave two sequences of lots")
        drawn = torch.cat(lots)
        demand(bool(((drawn >= 0) & (drawn < size)).all()), f"an index lies outside 0 .. {size - 1}")
        demand(all(len(lot.unique()) == len(lot) for lot in lots), "an example is twice in one lot")
        most, largest = max(map(len, lots)), sampler.largest(client)
        demand(most <= largest, f"a lot has {most} examples, largest() says {largest}")
        if size == 200 and any(f.meets(PoissonSampled("example")) for f in trial.signature.gives):
            demand_poisson(lots, size)


def demand_poisson(lots: list[Tensor], n: int) -> None:
    """Raise `AssertionError` unless lots of ``n`` examples look like coins at one rate."""
    steps = len(lots)
    sizes = torch.tensor([len(lot) for lot in lots], dtype=torch.float64)
    q = float(sizes.mean()) / n
    ratio = float(sizes.var()) / (n * q * (1 - q)) if 0 < q < 1 else 1.0
    low, high = (stats.chi2.ppf(p, steps - 1) / (steps - 1) for p in (RARE, 1 - RARE))
    demand(low < ratio < high, f"it says PoissonSampled, but the variance of lot sizes is {ratio:.2g} times that of coins")
    counts = torch.bincount(torch.cat(lots), minlength=n).double()
    spread = (counts - steps * q).abs().max() / math.sqrt(max(steps * q * (1 - q), 1e-12))
    demand(float(spread) < 6.5, f"an example enters {float(spread):.2g} deviations off the common rate {q:.3g}")


@check(RULES)
def gradient_vmap(trial: Trial) -> None:
    """Law: `grads` under `vmap` over clients gives what each client gets alone.
    Why: the stacked strategy runs it so; it must give the numbers of the others.
    If this fails: no Python branch, `.item()` or in-place write on what is mapped; take per-client numbers from `numbers`.
    """
    plan = make_plan(trial)
    start, own = _params(), [_numbers(plan.gradient, client) for client in CLIENTS]
    params = {name: torch.stack([p, 0.9 * p]) for name, p in start.items()}
    lots = [make_batch(7, 1), make_batch(7, 2, 5.0)]
    masks = torch.ones(2, 7, dtype=torch.float64)
    numbers = {name: torch.stack([n[name] for n in own]) for name in own[0]}
    loss = pure_loss(_module().train(), plan)

    def one(p: Grads, x: Tensor, y: Tensor, mask: Tensor, n: Grads) -> Grads:
        return plan.gradient.grads(loss, p, Batch(x, y, mask), n)

    try:
        many = vmap(one)(params, torch.stack([b.x for b in lots]), torch.stack([b.y for b in lots]), masks, numbers)
    except (RuntimeError, ValueError) as error:
        raise AssertionError(f"grads fails under vmap: {error}") from error
    for k, client in enumerate(CLIENTS):
        alone = flat(gradient_of(plan, lots[k], client, {name: p[k] for name, p in params.items()}))
        off = _off(flat({name: g[k] for name, g in many.items()}), alone)
        demand(off < 1e-9, f"client {client.id}'s gradient under vmap is off by {off:.2g}")


@check(RULES)
def gradient_eager(trial: Trial) -> None:
    """Law: the eager path of a gradient rule, where it has one, leaves the gradient of `grads` in `.grad`, in place.
    Why: it is the same mechanism, faster; the engine reads the tensors that `.grad` was.
    If this fails: compare clipping, division and masking of the two; accumulate into `.grad` with `+=` or `backward()`.
    """
    plan = make_plan(trial)
    for batch in (make_batch(7, 1), make_batch(7, 2, 40.0)):
        module = _module().train()
        for p in module.parameters():
            p.grad = torch.zeros_like(p)
        held = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        if not plan.gradient.eager(module, plan.loss, batch, plan.gradient.numbers(CLIENTS[0])):
            raise Inapplicable("it offers no eager path")
        off = _off(flat(held), flat(gradient_of(plan, batch)))
        demand(off < 1e-5, f"the eager gradient is off by {off:.2g} of its norm")


def deviation(rule: GradientRule, client: Client) -> float:
    """The standard deviation of a rule's noise; it must be normal."""
    noise = rule.noise(100_000, rule.numbers(client), torch.Generator().manual_seed(2))
    if noise is None:
        return 0.0
    sigma = float(noise.double().std())
    p = stats.kstest(noise.double().numpy(), stats.norm(0, sigma).cdf).pvalue
    demand(p > RARE, f"its noise is not normal (p = {p:.1g})")
    return sigma


@check(RULES)
def gradient_sensitivity(trial: Trial) -> None:
    """Law: one example, whatever it is, moves the gradient by at most the noise's deviation over the event's multiplier, in L2.
    Why: this ratio is the sensitivity that the accountant reads from the event; beyond it epsilon is false.
    If this fails: clip each example's whole gradient, divide by the expected lot, never the realised, scale noise by both.
    """
    plan = make_plan(trial)
    for client in CLIENTS:
        event: Any = plan.gradient.event(client)
        if event is None:
            raise Inapplicable("its gradient rule emits no event")
        if not isinstance(event, GaussianEvent) or not event.noise_multiplier:
            raise Inapplicable(f"the kit has no measure of sensitivity for {type(event).__name__}")
        allowed = deviation(plan.gradient, client) / event.noise_multiplier
        numbers = plan.gradient.numbers(client)
        if {"bound", "expected"} <= numbers.keys():
            exact = numbers["bound"] / numbers["expected"]
            demand(
                abs(allowed / exact - 1) < 0.03, f"noise says sensitivity {allowed:.4g}, bound over expected lot is {exact:.4g}"
            )
            allowed = exact * (1 + 1e-5) / 1.03
        for size in (1, 6):
            for scale in (1.0, 1e3, 1e100):
                lot, extra = make_batch(size, 4), make_batch(1, 5, scale)
                more = Batch(torch.cat([lot.x, extra.x]), torch.cat([lot.y, extra.y]))
                moved = float((flat(gradient_of(plan, more, client)) - flat(gradient_of(plan, lot, client))).norm())
                found = f"one example (scale {scale:g}) beside {size} moves the gradient by {moved:.6g}, allowed {allowed:.6g}"
                demand(moved <= 1.03 * allowed, found)


@check(RULES)
def padding_ignored(trial: Trial) -> None:
    """Law: rows whose mask is 0 have no influence on a gradient.
    Why: strategies pad lots to one size.
    If this fails: multiply per-example terms by `batch.mask`, and count examples by it.
    """
    plan = make_plan(trial)
    lot, junk = make_batch(7, 1), make_batch(3, 9, 50.0)
    ones, zeros = torch.ones(7, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    padded = Batch(torch.cat([lot.x, junk.x]), torch.cat([lot.y, junk.y]), torch.cat([ones, zeros]))
    off = _off(flat(gradient_of(plan, padded)), flat(gradient_of(plan, Batch(lot.x, lot.y, ones))))
    demand(off < 1e-9, f"padding moves the gradient by {off:.2g} of its norm")


@check(RULES)
def empty_lot(trial: Trial) -> None:
    """Law: an empty lot gives a finite gradient, whether it has no rows or none that is real.
    Why: Poisson sampling draws empty lots, and one NaN ends the run.
    If this fails: never divide by the number of rows of a lot.
    """
    plan = make_plan(trial)
    hollow = make_batch(4, 1)
    lots = (make_batch(0), Batch(hollow.x, hollow.y, torch.zeros(4, dtype=torch.float64)))
    for lot, what in zip(lots, ("no rows", "padding alone"), strict=True):
        demand(bool(flat(gradient_of(plan, lot)).isfinite().all()), f"a lot of {what} gives NaN or infinity")
