"""Checks of trainers: rows of the clients that were asked, a state that moves without being written to, models that predict."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparring.aggregate import WeightedMean
from sparring.facts import Clipped, Identified, Space, Weighted
from sparring.groups import HONEST
from sparring.local import LocalPlan
from sparring.roles import Stateful, Task
from sparring.signals import ClientData, Cohort, Examples, Release, State, Updates
from sparring.testing.engines import uneven
from sparring.testing.kit import check, demand
from sparring.testing.purity import demand_untouched, world
from sparring.testing.stage import NORMS, aggregate, make_work, same, start, tensors
from sparring.testing.state import alike
from sparring.testing.subject import Trial, kind
from sparring.train import Sequential

TRAINERS = kind("trainers")


def _updates(trial: Trial, trainer: Any, ids: Sequence[int], state: State, index: int = 0, data: Any = None) -> Updates:
    work = make_work({HONEST: LocalPlan()}, uneven() if data is None else data)
    broadcast = replace(start(work), row=state.row, extras=state.extras)
    task = Task(broadcast, tuple(ids), HONEST, work, Sequential(work))
    ctx = trial.context(index, cohort=tuple(ids))
    before = world()
    updates: Updates = trainer.client_update(task, ctx)
    demand_untouched(before)
    return updates


def _state() -> State:
    work = make_work({HONEST: LocalPlan()})
    return State(work.plan, start(work).row, work.layout)


def _played(trial: Trial, trainer: Any, state: State, index: int) -> State:
    """The state after a round whose rule is the weighted mean."""
    after: State = trainer.apply(state, _release(trial, trainer, state, index))
    return after


def _release(trial: Trial, trainer: Any, state: State, index: int = 0) -> Release:
    u = _updates(trial, trainer, list(uneven()), state, index)
    return aggregate(WeightedMean(), Cohort(u.rows, u.layout, u.ids, u.weights, sources=u.ids), trial.context(index))


@check(TRAINERS)
def trainer_rows(trial: Trial) -> None:
    """Law: `client_update` returns one row for each client of the task, in its order, and none for an empty task.
    Why: rows are booked, charged and attacked by the client at their place.
    If this fails: build `Updates(rows, layout, task.clients, weights)` from rows in the order of `task.clients`.
    """
    clients = list(uneven())
    for ids in (clients, clients[::-1], clients[1:], []):
        found = _updates(trial, trial.build(), ids, _state())
        demand(found.ids == tuple(ids), f"asked for {ids}, it returned rows of {list(found.ids)}")
        wanted = (len(ids), found.layout.size)
        demand(tuple(found.rows.shape) == wanted, f"asked for {len(ids)} clients, rows are {tuple(found.rows.shape)}")
        fits = found.weights is None or tuple(found.weights.shape) == (len(ids),)
        demand(fits, f"{len(ids)} rows came with weights {found.weights}")
    whole, back = (_updates(trial, trial.build(), ids, _state()) for ids in (clients, clients[::-1]))
    for client in clients:
        equal = torch.equal(whole.select([client]).rows, back.select([client]).rows)
        demand(equal, f"the row of client {client} depends on the order in which clients are asked")


@check(TRAINERS)
def trainer_clients_apart(trial: Trial) -> None:
    """Law: row i of `client_update` depends on the data of client i alone.
    Why: the clients train apart; a trainer that mixes their data has broken privacy before any defence acts.
    If this fails: take a client's numbers from `task.work.data.clients[client]`, never from the collection.
    """
    data = uneven()
    whole = _updates(trial, trial.build(), list(data), _state())
    for client in data:
        others = {i: e if i == client else Examples(1 - e.x, (e.y + 1) % data.shape.classes) for i, e in data.clients.items()}
        after = _updates(trial, trial.build(), list(data), _state(), data=ClientData(others, data.shape))
        equal = torch.equal(whole.select([client]).rows, after.select([client]).rows)
        demand(equal, f"the row of client {client} changes with the data of others")


@check(TRAINERS)
def trainer_facts(trial: Trial) -> None:
    """Law: Weighted given means that weights are numbers of examples; Space, Identified and Clipped given hold of the rows.
    Why: the checker builds on what training gives; everything behind it stands on these facts.
    If this fails: return weights from `task.work.data.sizes(...)`, or do not give the fact.
    """
    data = uneven()
    found = _updates(trial, trial.build(), list(data), _state())
    for fact in trial.signature.gives:
        if isinstance(fact, Weighted):
            sizes = [float(n) for n in data.sizes(list(data))]
            weights = None if found.weights is None else found.weights.tolist()
            demand(weights == sizes, f"it gives Weighted; clients of {sizes} examples have weights {weights}")
        if isinstance(fact, Space):
            demand(found.layout.space.kind == fact.kind, f"it gives {fact}; the layout says {found.layout.space.kind}")
        if isinstance(fact, Space) and fact.kind == "real":
            numbers = found.rows.is_floating_point() and bool(found.rows.isfinite().all())
            demand(numbers, f"it gives {fact}; rows are {found.rows.dtype}, or not finite")
        if isinstance(fact, Identified):
            demand(set(found.ids) == set(data), f"it gives Identified; rows of clients {list(data)} carry {list(found.ids)}")
        if isinstance(fact, Clipped) and fact.unit == "client" and fact.norm is not None and fact.bound is not None:
            worst = float(torch.linalg.vector_norm(found.params.double(), NORMS[fact.norm], dim=1).max())
            demand(worst <= fact.bound * (1 + 1e-5), f"it gives {fact}; a row has norm {worst:.6g}")


@check(TRAINERS)
def trainer_applies(trial: Trial) -> None:
    """Law: `apply` returns a state of the same layout that a release has moved, and writes into neither of its arguments.
    Why: views and checkpoints hold the old state; a state in another form fits no model.
    If this fails: return `replace(state, row=state.row + step)`; no `add_`, no `state.row[...] =`.
    """
    trainer, state = trial.build(), _state()
    for index in range(2):
        release = _release(trial, trainer, state, index)
        held = tensors((state.row, dict(state.extras), release.vector))
        before = [tensor.clone() for tensor in held]
        after: State = trainer.apply(state, release)
        demand(same(before, held), "apply() wrote into the state or the release that it was given")
        demand(after.layout == state.layout, "apply() changed the layout")
        fits = after.row.shape == state.row.shape and after.row.dtype == state.row.dtype
        demand(fits, f"a state of {tuple(state.row.shape)} {state.row.dtype} became {tuple(after.row.shape)} {after.row.dtype}")
        demand(bool(after.row.isfinite().all()), "a finite release gave a state with NaN or infinity")
        demand(not torch.equal(after.row, state.row), "a release that is not zero left the state as it was")
        state = after


@check(TRAINERS)
def trainer_model_evaluates(trial: Trial) -> None:
    """Law: `model(state)`, and that of each client, is in evaluation mode, has finite logits, and is the same when asked again.
    Why: accuracy, games and views read it; dropout that draws would make each of them random.
    If this fails: end with `module.eval()`, on a module that you loaded from the state.
    """
    trainer, state = trial.build(), _state()
    state = _played(trial, trainer, state, 0)
    x = next(iter(uneven().clients.values())).x
    for client in (None, *uneven()):
        module = trainer.model(state, client)
        training = [name or "the module" for name, child in module.named_modules() if child.training]
        demand(not training, f"the model of {client} is in training mode: {', '.join(training[:3])}")
        out = _logits(module, x)
        shape = (len(x), state.plan.shape.classes)
        demand(tuple(out.shape) == shape, f"the model of {client} returns {tuple(out.shape)}, not {shape}")
        demand(bool(out.isfinite().all()), f"the model of {client} returns NaN or infinity")
        demand(same([out], [_logits(trainer.model(state, client), x)]), f"the model of {client} differs when asked again")


@torch.no_grad()
def _logits(module: Any, x: Tensor) -> Tensor:
    out: Tensor = module(x)
    return out


@check(TRAINERS)
def trainer_continues(trial: Trial) -> None:
    """Law: a fresh trainer, with another's `state()` where it is Stateful, continues from a state as that one does.
    Why: a run that was stopped resumes to the same numbers; what is in neither state is in no checkpoint.
    If this fails: keep what changes in `State.extras`, or be `Stateful`; take nothing from global generators.
    """
    first, state = trial.build(), _state()
    for index in (0, 1):
        state = _played(trial, first, state, index)
    second = trial.build()
    if isinstance(first, Stateful):
        second.restore(copy.deepcopy(dict(first.state())))
    one, other = (_played(trial, trainer, state, 2) for trainer in (first, second))
    demand(same([one.row], [other.row]), "round 2 of a fresh trainer differs from round 2 of the one that went on")
    if isinstance(first, Stateful) and isinstance(second, Stateful):
        demand(alike(first.state(), second.state()), "after round 2 the two trainers hold different states")
