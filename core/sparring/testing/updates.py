"""Checks of layers on updates: rows are independent, and clients, weights and columns are those that are declared."""

from __future__ import annotations

from dataclasses import replace

import torch

from sparring.facts import Identified, Summable, Weighted
from sparring.layout import Layout
from sparring.signals import Updates
from sparring.sites import Site
from sparring.testing.active import granted
from sparring.testing.fixtures import make_updates, tiny_plan
from sparring.testing.kit import Scope, check, demand
from sparring.testing.stage import clip_bounds, clipped, holds, real, same
from sparring.testing.subject import Subject, Trial, layers

UPDATE = layers(Site.UPDATE)


def _own_rows(s: Subject) -> bool:
    open_layers = [layer for layer in s.layers if layer.site is Site.UPDATE and not layer.wire]
    return s.spec.kind == "defences" and not getattr(s.spec, "paired", False) and bool(open_layers)


ROWWISE = Scope[Trial](_own_rows, lambda s: (t for t in UPDATE.targets(s) if not t.layer.wire))


def adversarial(seed: int = 0) -> Updates:
    """Finite rows that break careless arithmetic: zero, denormal, one huge entry, all entries huge, and ordinary ones."""
    layout = Layout.of(tiny_plan().factory())
    updates = make_updates(layout=layout, seed=seed)
    rows = updates.rows.clone()
    rows[0] = 0
    rows[1] = 1e-42
    rows[2] = 0
    rows[2, 7] = 3e38
    rows[3] = 1e30 * rows[3].sign()
    rows[4] *= 1e6
    return replace(updates, rows=rows)


@check(ROWWISE)
def row_independence(trial: Trial) -> None:
    """Law: at UPDATE, row i of the output depends on row i, its client and its stream alone.
    Why: the clients run this layer, each by itself; what mixes rows belongs to COHORT, and breaks bounds per client.
    If this fails: reduce over `dim=1` only, draw from `ctx.generator(client)`, or move the layer to COHORT.
    """
    instance, signal, ctx = trial.build(), trial.signal(), trial.context()
    whole = trial.apply(instance, signal, ctx)
    if whole.rows.shape[0] != len(whole.ids):
        raise AssertionError(f"{whole.rows.shape[0]} rows came out for {len(whole.ids)} clients")
    shuffled = trial.apply(trial.build(), signal.select(tuple(reversed(signal.ids))), trial.context())
    for client in whole.ids:
        demand(client in shuffled.ids, f"client {client} is dropped or not, depending on the order of rows")
        one, other = whole.select([client]), shuffled.select([client])
        demand(torch.equal(one.rows, other.rows), f"the row of client {client} depends on the order of rows")
    for client in signal.ids:
        k = signal.ids.index(client)
        strangers = clipped(make_updates(layout=signal.layout, seed=99), clip_bounds(trial.facts)).rows
        mask = torch.arange(len(signal.ids)) == k
        replaced = replace(signal, rows=torch.where(mask[:, None], signal.rows, 0.5 * strangers))
        after = trial.apply(trial.build(), replaced, trial.context())
        demand((client in after.ids) == (client in whole.ids), f"client {client} is dropped or not, depending on other rows")
        if client in whole.ids:
            mine = same([whole.select([client]).rows], [after.select([client]).rows])
            demand(mine, f"the row of client {client} changes with the values of other rows")


@check(layers(Site.UPDATE, kinds=("defences", "attacks")))
def identity_kept(trial: Trial) -> None:
    """Law: at UPDATE, Identified kept means the same clients in order, Weighted the same weights, Summable the same columns.
    Why: reputations are booked on ids, and the mean is weighted by what a client declared once.
    If this fails: return `signal.with_params(...)`, or do not keep what the layer changes.
    """
    signal = trial.signal()
    after: Updates = trial.apply(trial.build(), signal, trial.context(**granted(trial)))
    if holds(trial.signature, Identified()):
        demand(after.ids == signal.ids, f"it keeps Identified, but ids {signal.ids} became {after.ids}")
    if not real(trial.signature):
        return
    if holds(trial.signature, Weighted()):
        same_weights = after.weights is not None and torch.equal(after.weights, signal.weights)
        demand(same_weights, f"it keeps Weighted, but weights {signal.weights} became {after.weights}")
    if holds(trial.signature, Summable()):
        demand(
            after.rows.shape == signal.rows.shape,
            f"it keeps Summable, but rows {tuple(signal.rows.shape)} became {tuple(after.rows.shape)}",
        )
