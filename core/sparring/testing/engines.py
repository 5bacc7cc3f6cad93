"""Checks of engines: their strategies train what the sequential one trains, again and again, and let go of what they hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparring.groups import HONEST
from sparring.local import LocalPlan
from sparring.signals import Broadcast, ClientData
from sparring.strategies import Strategy, Work
from sparring.testing.fixtures import make_setup, tiny_data
from sparring.testing.kit import check, demand
from sparring.testing.purity import demand_untouched, world
from sparring.testing.stage import make_work, start
from sparring.testing.subject import Trial, kind
from sparring.train import Sequential

ENGINES = kind("engines")
OTHER = "other"
NEAR = 1e-4
"""Largest difference of two strategies' updates, relative to the norm: float32 sums in another order."""
SIZES = (24, 17, 9)
ROUNDS = 12


def uneven() -> ClientData:
    """The tiny data with a different number of examples for each client."""
    data = tiny_data()
    held = {i: e.take(torch.arange(n)) for (i, e), n in zip(data.clients.items(), SIZES, strict=True)}
    return replace(data, clients=held)


def two_groups() -> Work:
    """Clients of different sizes, and two groups: plain training, and training that forgets a tenth after each step."""
    shrunk = LocalPlan().with_step("shrink", lambda row, context: 0.9 * row)
    return make_work({HONEST: LocalPlan(), OTHER: shrunk}, uneven())


@contextlib.contextmanager
def _opened(trial: Trial, work: Work) -> Iterator[Strategy]:
    strategy: Strategy = trial.build().strategy(work, make_setup(trial.spec.name))
    try:
        yield strategy
    finally:
        strategy.close()


def _rows(strategy: Strategy, broadcast: Broadcast, clients: Sequence[int], group: str, round_: int) -> Tensor:
    rows = strategy.train(broadcast, clients, group, round_)
    wanted = (len(clients), broadcast.layout.size)
    demand(tuple(rows.shape) == wanted, f"for {len(clients)} clients it returned rows {tuple(rows.shape)}, not {wanted}")
    return rows.clone()


@check(ENGINES)
def strategy_agrees(trial: Trial) -> None:
    """Law: a strategy returns the rows of the sequential one, in the order asked, for any clients, group, round and override.
    Why: where a cohort trains must not change what an experiment finds.
    If this fails: take every draw from `work.key` by round, layer and client; load `broadcast.to(client)` for each client.
    """
    work = two_groups()
    reference, clients = Sequential(work), list(work.data)
    plain = start(work)
    own = replace(plain, overrides={clients[1]: replace(plain, row=1.1 * plain.row)})
    asked: tuple[list[int], ...] = (clients, clients[::-1], clients[1:2], clients[::2], [])
    cases = [(plain, ids, HONEST, 0) for ids in asked]
    cases += [(plain, clients, OTHER, 0), (plain, clients, HONEST, 3), (own, clients, HONEST, 1)]
    with _opened(trial, work) as strategy:
        for broadcast, ids, group, round_ in cases:
            found, expected = _rows(strategy, broadcast, ids, group, round_), reference.train(broadcast, ids, group, round_)
            for k, client in enumerate(ids):
                off = float((found[k].cpu() - expected[k]).norm() / expected[k].norm().clamp(min=1e-30))
                demand(
                    off < NEAR,
                    f"asked for {ids} of group {group} in round {round_}, client {client}'s row is off by {off:.2g}",
                )


@check(ENGINES)
def strategy_repeats(trial: Trial) -> None:
    """Law: asked twice, a strategy returns the same bits, and leaves the broadcast and the global generators as they were.
    Why: a run that resumes repeats a round; whatever else draws must not depend on where clients trained.
    If this fails: keep nothing between calls; seed modules that draw inside `torch.random.fork_rng`.
    """
    work = two_groups()
    broadcast, clients = start(work), list(work.data)
    row = broadcast.row.clone()
    with _opened(trial, work) as strategy:
        before = world()
        first = _rows(strategy, broadcast, clients, HONEST, 0)
        demand_untouched(before)
        _rows(strategy, broadcast, clients[1:], OTHER, 1)
        again = _rows(strategy, broadcast, clients, HONEST, 0)
    demand(torch.equal(first, again), "two calls for one round returned different bits")
    demand(torch.equal(row, broadcast.row), "it wrote into the broadcast row")


@check(ENGINES)
def strategy_closes(trial: Trial) -> None:
    """Law: a strategy trains round after round without failing, and `close()` may be called twice.
    Why: a run has hundreds of rounds, and is closed both where it ends and where it fails.
    If this fails: let `close()` forget what it released.
    """
    work = two_groups()
    broadcast = start(work)
    with _opened(trial, work) as strategy:
        for index in range(ROUNDS):
            rows = _rows(strategy, broadcast, list(work.data), HONEST, index)
            demand(bool(rows.isfinite().all()), f"round {index} gave NaN or infinity")
        strategy.close()
        try:
            strategy.close()
        except Exception as error:
            raise AssertionError(f"a second close() raised {type(error).__name__}: {error}") from error
