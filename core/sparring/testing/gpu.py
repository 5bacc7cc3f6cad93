"""Checks on a CUDA device: the same numbers as on the CPU, no waiting for each client, memory in proportion to the signal."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from sparring.context import Round
from sparring.layout import Layout
from sparring.local import Batch
from sparring.signals import Broadcast, Cohort, Release, Updates
from sparring.sites import Site
from sparring.testing.fixtures import Tiny, make_layout, make_updates
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.local import CLIENTS, make_batch, make_plan
from sparring.testing.stage import clip_bounds, clipped, outcome, same
from sparring.testing.state import IN_ROUNDS
from sparring.testing.subject import Trial, layers
from sparring.train import pure_loss

NEAR = 1e-4
"""Largest difference between devices, relative to the norm: float32 sums in another order."""
LIKE = 0.2
"""How far the size of a random change may differ between devices, whose streams differ."""
WAITS = 6
"""Waits that a layer may need in a round: to refuse what is not finite, to fetch a choice, to bring noise to the device."""
SHARE = 1.25
ALLOWANCE = 16 << 20
"""Bytes for workspaces and blocks of columns, whatever the size of the signal."""
COLUMNS = 1 << 21


def cuda() -> torch.device:
    """The CUDA device, or `Inapplicable`."""
    if not torch.cuda.is_available():
        raise Inapplicable("no CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


def moved(value: Any, device: torch.device) -> Any:
    """A signal or a context with its tensors on ``device``; layouts and plans stay."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Updates | Cohort | Release | Broadcast):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value) if f.init})
    if isinstance(value, Mapping):
        return {name: moved(item, device) for name, item in value.items()}
    if isinstance(value, Round):
        return replace(value, parameters=moved(value.parameters, device))
    return value


def difference(found: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor], random: bool) -> str | None:
    """What is wrong with the outcome on one device, where ``expected`` is that on another; None where they agree."""
    shapes = [[(tuple(t.shape), t.dtype) for t in outcomes] for outcomes in (found, expected)]
    if shapes[0] != shapes[1]:
        return f"shapes and types are {shapes[0]}, not {shapes[1]}"
    for k, (here, there) in enumerate(zip(found, expected, strict=True)):
        one, other = here.cpu().double(), there.cpu().double()
        if random and k < len(before) and before[k].shape == one.shape:
            start = before[k].cpu().double()
            sizes = float((one - start).norm()), float((other - start).norm())
            if abs(sizes[0] - sizes[1]) > LIKE * max(sizes):
                return f"what it adds at random has norm {sizes[0]:.4g}, not {sizes[1]:.4g}"
        elif not random and float((one - other).norm()) > NEAR * float(other.norm().clamp(min=1e-30)):
            return f"they differ by {float((one - other).norm() / other.norm()):.2g} of their norm"
    return None


def compare(trial: Trial, device: torch.device) -> str | None:
    """How what a layer makes on ``device`` differs from what it makes on the CPU."""
    signal = trial.signal()
    expected = outcome(trial.site, trial.apply(trial.build(), signal, trial.context()))
    again = outcome(trial.site, trial.apply(trial.build(), signal, trial.context(seed=1)))
    placed = trial.apply(trial.build(), moved(signal, device), moved(trial.context(), device))
    stray = {t.device.type for t in outcome(trial.site, placed)[:1]} - {device.type}
    if stray:
        return f"its output lies on {', '.join(stray)}"
    return difference(outcome(trial.site, placed), expected, outcome(trial.site, signal), not same(expected, again))


@check(IN_ROUNDS)
def devices_agree(trial: Trial) -> None:
    """Law: on a GPU a layer or rule makes, there, what it makes on the CPU, within float tolerance; noise has the same size.
    Why: a finding must not depend on the machine, and a row that comes back to the CPU is copied in every round.
    If this fails: make new tensors with `new_zeros`, or on `rows.device`; draw on the CPU and move the noise.
    """
    found = compare(trial, cuda())
    demand(found is None, f"on the GPU and on the CPU: {found}")


@contextmanager
def _mode(mode: str) -> Iterator[None]:
    held = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(held)


def waits(call: Callable[[], object]) -> int:
    """How often a warmed-up call waits for the device."""
    call()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught, _mode("warn"):
        warnings.simplefilter("always")
        call()
    return sum("synchronizing" in str(warning.message) for warning in caught)


def too_many(few: int, many: int) -> str | None:
    """What is wrong with the numbers of waits for some clients and for twice as many; None where nothing is."""
    if many > few:
        return f"it waits for the device {few} times in a round, and {many} times with twice as many clients"
    return f"it waits for the device {few} times in a round, where {WAITS} do" if few > WAITS else None


def _signal(trial: Trial, n: int, layout: Layout, device: torch.device) -> Any:
    updates = clipped(make_updates(n, layout=layout), clip_bounds(trial.facts))
    if trial.site is Site.UPDATE:
        return moved(updates, device)
    if trial.site in (Site.COHORT, Site.AGGREGATE):
        return moved(Cohort(updates.rows, layout, updates.ids, updates.weights, sources=updates.ids), device)
    if trial.site is Site.RELEASE:
        return moved(Release(updates.rows[0], layout, 60.0, n), device)
    raise Inapplicable("the kit measures rows and releases")


def _called(trial: Trial, n: int, layout: Layout, device: torch.device) -> tuple[Callable[[], Any], Any]:
    """A call of a fresh instance on a signal of ``n`` clients, and that signal."""
    signal, instance = _signal(trial, n, layout, device), trial.build()
    ids = make_updates(n, layout=layout).ids
    parameters = torch.zeros(layout.size, device=device)
    ctx = trial.context(cohort=ids, layout=layout, parameters=parameters)
    return lambda: trial.apply(instance, signal, ctx), signal


@check(IN_ROUNDS)
def waits_bounded(trial: Trial) -> None:
    """Law: a warmed-up layer or rule waits for the device a few times in a round, never once for each client.
    Why: every `.item()`, `float(...)` and `if tensor:` stops the device; in a loop over clients they take the round over.
    If this fails: compute for all rows at once, and fetch one tensor with `.tolist()`.
    """
    device, layout = cuda(), make_layout(4096)
    n = max(9, 4 * getattr(trial.config, "f", 0) + 5)
    few, many = (waits(_called(trial, k * n, layout, device)[0]) for k in (1, 2))
    found = too_many(few, many)
    demand(found is None, found or "")


@check(layers(Site.GRADIENT))
def gradient_never_waits(trial: Trial) -> None:
    """Law: a warmed-up gradient rule never waits for the device.
    Why: it runs in every step of every client; one wait in it is the speed of the whole run.
    If this fails: replace `.item()`, `float(...)`, `nonzero()` and branches on tensors by `torch.where`.
    """
    device, plan = cuda(), make_plan(trial)
    module = Tiny(6).double().to(device).train()
    loss = pure_loss(module, plan)
    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    numbers = {
        name: torch.tensor(v, dtype=torch.float64, device=device) for name, v in plan.gradient.numbers(CLIENTS[0]).items()
    }
    lot = make_batch(7, 1)
    batch = Batch(lot.x.to(device), lot.y.to(device), torch.ones(7, dtype=torch.float64, device=device))
    plan.gradient.grads(loss, params, batch, numbers)
    torch.cuda.synchronize()
    try:
        with _mode("error"):
            plan.gradient.grads(loss, params, batch, numbers)
    except RuntimeError as error:
        raise AssertionError(f"grads waits for the device: {error}") from error


def too_large(extra: int, given: int, made: int) -> str | None:
    """What is wrong with ``extra`` bytes beside an input of ``given``, for an output of ``made``; None where nothing is."""
    allowed = int(SHARE * (given + made)) - given + ALLOWANCE
    if extra <= allowed:
        return None
    mebibytes = [n >> 20 for n in (given, made, extra, allowed)]
    return "for an input of {} MiB and an output of {} it takes {} more; {} are fair".format(*mebibytes)


def _bytes(signal: Any) -> int:
    tensor = signal.vector if isinstance(signal, Release) else signal.base if isinstance(signal, Cohort) else signal.rows
    return int(tensor.nbytes)


@check(IN_ROUNDS)
def memory_proportional(trial: Trial) -> None:
    """Law: at its peak a layer or rule holds at most 1.25 times its input and output together, and 16 MiB.
    Why: a cohort's rows fill the device; a rule that sorts a copy of all of them halves the largest model.
    If this fails: work in blocks of columns, and accumulate in place on your own tensors.
    """
    device, layout = cuda(), make_layout(COLUMNS)
    if trial.sampled:
        raise Inapplicable("memory is measured under the author's configurations")
    n = max(9, 4 * getattr(trial.config, "f", 0) + 5)
    call, signal = _called(trial, n, layout, device)
    made = _bytes(call())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    found = too_large(torch.cuda.max_memory_allocated() - before, _bytes(signal), made)
    demand(found is None, found or "")
