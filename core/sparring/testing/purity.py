"""Checks of purity and randomness: inputs and global state stay as they were, draws come from the layer's own stream."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from sparring.sites import Site
from sparring.testing.kit import check, demand
from sparring.testing.stage import make_signal, outcome, same, tensors
from sparring.testing.subject import ACTING, Trial

ROUNDS = (Site.BROADCAST, Site.UPDATE, Site.COHORT, Site.AGGREGATE, Site.RELEASE)


def world() -> dict[str, Any]:
    """The state that every part of a process shares."""
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": str(np.random.get_state(legacy=False)),
        "python's random state": random.getstate(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
    }


def demand_untouched(before: dict[str, Any]) -> None:
    """Raise `AssertionError` where the world is not as it was."""
    after = world()
    changed = [name for name, value in before.items() if value != after[name]]
    demand(not changed, f"it changed {', '.join(changed)}")


def _seed_world(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def outcomes(trial: Trial, world: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """The outcome of a fresh instance with every global generator seeded by ``world``; their state is put back."""
    held = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            _seed_world(world)
            return trial.outcome(seed=seed)
    finally:
        np.random.set_state(held[0])
        random.setstate(held[1])


@check(ACTING)
def input_untouched(trial: Trial) -> None:
    """Law: a layer leaves the tensors of its input as they were, bit for bit.
    Why: signals are shared: other layers, taps and the measurement of what a layer changed read the same tensors.
    If this fails: replace operations in place (`mul_`, `clamp_`, `x[...] = `) by ones that return, or clone first.
    """
    signal = trial.signal()
    held = tensors(signal)
    before = [tensor.clone() for tensor in held]
    trial.apply(trial.build(), signal, trial.context())
    demand(same(before, held), f"it wrote into the tensors of its {type(signal).__name__}")


@check(ACTING)
def global_state_untouched(trial: Trial) -> None:
    """Law: a layer leaves the global random generators, and torch's global switches, as they were.
    Why: whatever runs next would give other numbers because this layer stands before it.
    If this fails: draw from `ctx.generator(...)`; enter modes with `with torch.no_grad():`.
    """
    instance, signal, ctx = trial.build(), trial.signal(), trial.context()
    before = world()
    trial.apply(instance, signal, ctx)
    demand_untouched(before)


@check(ACTING)
def reproducible(trial: Trial) -> None:
    """Law: the same signal under the same key gives the same bits, whatever the global generators hold.
    Why: a run must not depend on what was drawn elsewhere, nor on the number of workers.
    If this fails: draw from `ctx.generator(client)` and the generators that are given, never from global state or the clock.
    """
    first = outcomes(trial, 1)
    demand(same(first, outcomes(trial, 1)), "two fresh instances made different outputs of one signal under one key")
    demand(same(first, outcomes(trial, 2)), "its output depends on the seed of a global generator")


@check(ACTING)
def rounds_differ(trial: Trial) -> None:
    """Law: what a layer draws in one round is independent of what it draws in another.
    Why: noise that repeats can be subtracted, and the accountant counts fresh draws.
    If this fails: take `ctx.generator(...)` anew in each round, and keep no generator between rounds that restarts.
    """
    per_round = trial.site in ROUNDS or trial.site.local
    if not per_round or same(trial.outcome(seed=0), trial.outcome(seed=1)):
        return
    if trial.site.local:
        plan = trial.apply(trial.build(), trial.signal(), trial.context())
        before = make_signal(trial.site)
        drawn = [outcome(trial.site, plan, k)[0] - outcome(trial.site, before, k)[0] for k in (0, 1)]
        repeats = torch.equal(drawn[0], drawn[1])
    else:
        repeats = same(trial.outcome(index=0), trial.outcome(index=1))
    demand(not repeats, "it draws at random, and drew the same in rounds 0 and 1")
