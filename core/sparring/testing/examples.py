"""Checks of PerExample, PoissonSampled and per-example Clipped: what one example does stays its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring.facts import Clipped, PerExample, PoissonSampled
from sparring.local import Batch, Client, LocalContext, LocalPlan, Sampler
from sparring.sites import Site
from sparring.testing.fixtures import IDS, SHAPE, Tiny, tiny_plan
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.local import CLIENTS, demand_poisson, flat, gradient_of, make_batch, make_plan
from sparring.testing.models import demand_apart
from sparring.testing.stage import holds
from sparring.testing.subject import Trial, layers

BOTH = ("defences", "attacks")
STEPS = layers(Site.BATCH, Site.LOSS, Site.GRADIENT, kinds=BOTH)
LOTS = layers(Site.BROADCAST, Site.SAMPLER, Site.BATCH, kinds=BOTH)
SIZE = 6


def _replaced(lot: Batch, other: Batch, k: int) -> Batch:
    """The lot with example ``k`` of another in its place."""
    mask = torch.arange(SIZE) == k
    return Batch(torch.where(mask.view(-1, 1, 1, 1), other.x, lot.x), torch.where(mask, other.y, lot.y))


def _changed(before: Sequence[Tensor], after: Sequence[Tensor]) -> set[int]:
    """Rows in which two outputs differ; all of them where they differ in length."""
    if any(a.shape != b.shape for a, b in zip(before, after, strict=True)):
        return set(range(max(len(before[0]), len(after[0]))))
    differ = [(a != b).flatten(1).any(1) if a.dim() > 1 else a != b for a, b in zip(before, after, strict=True)]
    return set(torch.stack(differ).any(0).nonzero().flatten().tolist())


def _influences(outputs: Callable[[Batch], Sequence[Tensor]]) -> list[set[int]]:
    """For each example of a lot, the rows of the output that change with it."""
    lot, other = make_batch(SIZE, 1), make_batch(SIZE, 2, 0.5)
    other = Batch(other.x, (lot.y + 1) % SHAPE.classes)
    whole = outputs(lot)
    return [_changed(whole, outputs(_replaced(lot, other, k))) for k in range(SIZE)]


def batched(plan: LocalPlan, lot: Batch) -> Batch:
    """The lot behind the plan's batch functions, with fresh streams."""
    for k, (_, change) in enumerate(plan.batch):
        lot = change(lot, LocalContext(Client(3, 200, SIZE, 30), 0, 0, torch.Generator().manual_seed(k)))
    return lot


def _rows(plan: LocalPlan, lot: Batch) -> Sequence[Tensor]:
    made = batched(plan, lot)
    return (made.x, made.y, *(() if made.mask is None else (made.mask,)))


def _losses(plan: LocalPlan, lot: Batch) -> Sequence[Tensor]:
    with torch.no_grad():
        return (plan.loss(Tiny(6).double(), lot),)


@check(STEPS)
def example_apart(trial: Trial) -> None:
    """Law: inside a step that keeps or gives PerExample, what an example adds to rows, losses or gradient is its own.
    Why: DP-SGD clips each example's gradient; an example that acts through others is not clipped.
    If this fails: compute each row from one example, or do not keep PerExample (mixup, batch statistics, contrast).
    """
    if not holds(trial.signature, PerExample()):
        raise Inapplicable("it does not keep PerExample")
    plan = make_plan(trial)
    if trial.site is Site.GRADIENT:
        _gradient_apart(plan)
        return
    outputs = _rows if trial.site is Site.BATCH else _losses
    found = _influences(lambda lot: outputs(plan, lot))
    for k, rows in enumerate(found):
        shared = [j for j in range(k) if found[j] & rows]
        demand(not shared, f"it keeps PerExample, but one row of its output depends on examples {[*shared, k]} of a lot")


def _gradient_apart(plan: LocalPlan) -> None:
    def with_one(others: int, one: int) -> Tensor:
        lot, extra = make_batch(SIZE, others), make_batch(1, one)
        return flat(gradient_of(plan, Batch(torch.cat([lot.x, extra.x]), torch.cat([lot.y, extra.y]))))

    here, there = (with_one(others, 5) - with_one(others, 6) for others in (1, 2))
    off = float((here - there).norm() / here.norm().clamp(min=1e-30))
    demand(off < 1e-6, f"it keeps PerExample, but what an example adds depends on the others (off by {off:.2g})")


class Coins(Sampler):
    """Poisson lots: a coin for each example and step."""

    def batches(self, client: Client, generator: torch.Generator) -> Any:
        rate = client.batch_size / client.size
        for _ in range(client.steps):
            yield (torch.rand(client.size, generator=generator) < rate).nonzero()[:, 0]

    def largest(self, client: Client) -> int:
        return client.size


@check(LOTS)
def poisson_kept(trial: Trial) -> None:
    """Law: a layer that keeps PoissonSampled neither drops, adds nor mixes what the coins chose, examples or clients.
    Why: amplification by sampling counts on the coins; a lot that is cut to a size is another mechanism.
    If this fails: change values and leave lots as they are; refuse a client for reasons of its own; or do not keep the fact.
    """
    unit = "client" if trial.site is Site.BROADCAST else "example"
    if not holds(trial.signature, PoissonSampled(unit)):  # type: ignore[arg-type]
        raise Inapplicable(f"it does not keep PoissonSampled({unit})")
    if trial.site is Site.BROADCAST:
        _refuses_alone(trial)
    elif trial.site is Site.SAMPLER:
        signal = replace(trial.signal(), sampler=Coins())
        plan = trial.apply(trial.build(), signal, trial.context())
        lots = list(plan.sampler.batches(Client(3, 200, 20, 300), torch.Generator().manual_seed(1)))
        demand_poisson(lots, 200)
    else:
        _keeps_lots(make_plan(trial))


def _refuses_alone(trial: Trial) -> None:
    whole = trial.apply(trial.build(), trial.signal(), trial.context()).refused
    for some in (IDS[:3], IDS[3:]):
        part = trial.apply(trial.build(), trial.signal(), trial.context(cohort=some)).refused
        alone = {client for client in some if (client in part) != (client in whole)}
        demand(not alone, f"it keeps PoissonSampled(client), but refuses clients {sorted(alone)} by who else is there")


def _keeps_lots(plan: LocalPlan) -> None:
    for size in (SIZE, 1, 0):
        made = batched(plan, make_batch(size, 1))
        real = len(made.x) if made.mask is None else int(made.mask.sum())
        demand(real == size, f"it keeps PoissonSampled(example), but made {real} examples of a lot of {size}")
    found = _influences(lambda lot: _rows(plan, lot))
    mixed = [k for k, rows in enumerate(found) if len(rows) > 1]
    demand(not mixed, f"it keeps PoissonSampled(example), but examples {mixed} enter several rows of a lot")


@check(layers(Site.GRADIENT, kinds=BOTH))
def example_clipped(trial: Trial) -> None:
    """Law: a gradient rule that gives Clipped(norm, example, bound) adds at most the bound over the lot's size per example.
    Why: noise in a later step is scaled by this number.
    If this fails: clip each example's whole gradient before it is added, and divide by the expected lot.
    """
    given = [f for f in trial.signature.gives if isinstance(f, Clipped) and f.unit == "example" and f.bound is not None]
    if not given:
        raise Inapplicable("it gives no Clipped per example")
    plan, client = make_plan(trial), CLIENTS[0]
    for fact in given:
        assert fact.norm is not None
        assert fact.bound is not None
        for scale in (1.0, 1e3, 1e100):
            lot, extra = make_batch(SIZE, 4), make_batch(1, 5, scale)
            more = Batch(torch.cat([lot.x, extra.x]), torch.cat([lot.y, extra.y]))
            moved = flat(gradient_of(plan, more, client)) - flat(gradient_of(plan, lot, client))
            order = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}[fact.norm]
            size = float(torch.linalg.vector_norm(moved, order)) * client.batch_size
            demand(size <= fact.bound * (1 + 1e-5), f"it gives {fact}, but an example (scale {scale:g}) adds {size:.6g}")


class Coupled(nn.Sequential):
    """A small perceptron whose normalisation couples the examples of a batch: what a MODEL layer may have to mend."""

    def __init__(self) -> None:
        inputs = SHAPE.inputs[1] * SHAPE.inputs[2]
        super().__init__(nn.Flatten(), nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Linear(8, SHAPE.classes))


@check(layers(Site.MODEL, kinds=BOTH))
def adapted_apart(trial: Trial) -> None:
    """Law: a MODEL layer that gives PerExample makes any model per-example; one that keeps it leaves a per-example model so.
    Why: DP-SGD type-checks behind it, and clips gradients that must be per example.
    If this fails: replace every layer that normalises over the batch, or give and keep less.
    """
    gives = any(isinstance(fact, PerExample) for fact in trial.signature.gives)
    if not gives and not holds(trial.signature, PerExample()):
        raise Inapplicable("it does not keep PerExample")
    plan = replace(tiny_plan(), factory=Coupled) if gives else tiny_plan()
    adapted = trial.apply(trial.build(), plan, trial.context())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = adapted.factory()
    demand_apart(module, SHAPE)
