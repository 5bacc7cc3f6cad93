"""Checks of layers on updates: rows are independent, and each declared fact is true of what comes out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparring.facts import Clipped, Fact, Identified, Space, Summable, Weighted
from sparring.layout import Layout
from sparring.signals import Updates
from sparring.signature import All, Signature
from sparring.sites import Site
from sparring.testing.fixtures import make_updates, tiny_plan
from sparring.testing.kit import Inapplicable, Scope, check, demand
from sparring.testing.stage import NORMS, clip_bounds, clipped, same
from sparring.testing.subject import Subject, Trial, layers

UPDATE = layers(Site.UPDATE)
SLACK = 1e-5


def _own_rows(s: Subject) -> bool:
    open_layers = [layer for layer in s.layers if layer.site is Site.UPDATE and not layer.wire]
    return s.spec.kind == "defences" and not getattr(s.spec, "paired", False) and bool(open_layers)


ROWWISE = Scope[Trial](_own_rows, lambda s: (t for t in UPDATE.targets(s) if not t.layer.wire))


def _keeps(trial: Trial, fact: Fact) -> bool:
    keeps = trial.signature.keeps
    return isinstance(keeps, All) or any(fact.meets(kept) for kept in keeps)


def _real(trial: Trial) -> bool:
    """Whether rows are reals behind the layer."""
    given = [fact for fact in trial.signature.gives if isinstance(fact, Space)]
    return given[-1].kind == "real" if given else _keeps(trial, Space("real"))


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


def _norms(rows: Tensor, norm: str) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows.double(), ord=NORMS[norm], dim=1)
    return norms


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


@check(UPDATE.where(lambda s: s.declares(lambda signature: any(isinstance(f, Clipped) for f in signature.gives))))
def clipped_given(trial: Trial) -> None:
    """Law: behind a layer that gives Clipped(norm, client, bound), every row's norm is at most the bound, whatever came in.
    Why: noise is scaled by this number; one row over it, and no epsilon that was computed from it is true.
    If this fails: scale by norms in float64, take parameters only, and stay a few ulps below the bound.
    """
    given = [f for f in trial.signature.gives if isinstance(f, Clipped) and f.unit == "client"]
    if not given or not _real(trial):
        raise Inapplicable("it gives no Clipped per client in reals")
    for signal in (adversarial(), trial.signal(1), replace(trial.signal(1), rows=trial.signal(1).rows * 50)):
        after: Updates = trial.apply(trial.build(), signal, trial.context())
        for fact in given:
            assert fact.norm is not None
            assert fact.bound is not None
            norms = _norms(after.params, fact.norm)
            worst = int(norms.argmax())
            within = bool((norms <= fact.bound * (1 + SLACK)).all())
            demand(within, f"it gives {fact}, but a row has {fact.norm} norm {float(norms[worst]):.9g}")


def _keeps_clipped(signature: Signature) -> bool:
    return isinstance(signature.keeps, All) or any(isinstance(fact, Clipped) for fact in signature.keeps)


@check(UPDATE.where(lambda s: s.declares(_keeps_clipped)))
def clipped_kept(trial: Trial) -> None:
    """Law: behind a layer that keeps Clipped(norm, client), rows that were within a bound still are.
    Why: the checker lets a later layer scale its noise by the bound that an earlier one gave.
    If this fails: list only the norms that the layer cannot raise, or map the fact to its new bound.
    """
    if not _real(trial):
        raise Inapplicable("its rows are no reals")
    for norm in NORMS:
        if not _keeps(trial, Clipped(norm, "client", "all")):  # type: ignore[arg-type]
            continue
        for seed in range(4):
            size = 10.0 ** (seed - 2)
            held = {**clip_bounds(trial.facts)}
            held[norm] = min(held.get(norm, size), size)
            signal = clipped(replace(trial.signal(seed), rows=trial.signal(seed).rows * 1e3), held)
            largest = float(_norms(signal.params, norm).max())
            after: Updates = trial.apply(trial.build(), signal, trial.context(seed=seed))
            norms = _norms(after.params, norm)
            grown = bool((norms > largest * (1 + SLACK)).any())
            demand(
                not grown,
                f"it keeps Clipped({norm}, client), but raised a {norm} norm from {largest:.6g} to {float(norms.max()):.6g}",
            )


@check(UPDATE)
def real_rows(trial: Trial) -> None:
    """Law: behind a layer that gives or keeps Space(real), rows are finite floating-point numbers of a real layout.
    Why: whatever comes next adds, clips and averages them as reals.
    If this fails: give the space that the rows are in, and say so in `layout.extended(..., space=...)`.
    """
    if not _real(trial):
        raise Inapplicable("its rows are no reals")
    after: Updates = trial.apply(trial.build(), trial.signal(), trial.context())
    demand(after.rows.is_floating_point(), f"rows came out as {after.rows.dtype}")
    demand(bool(after.rows.isfinite().all()), "finite rows came out with NaN or infinity")
    demand(after.layout.space.kind == "real", f"the layout says {after.layout.space.kind}")
    demand(
        tuple(after.rows.shape) == (len(after.ids), after.layout.size),
        f"rows have shape {tuple(after.rows.shape)}, the layout {after.layout.size}",
    )


@check(UPDATE)
def identity_kept(trial: Trial) -> None:
    """Law: Identified kept means the same clients in order, Weighted kept the same weights, Summable kept the same columns.
    Why: reputations are booked on ids, and the mean is weighted by what a client declared once.
    If this fails: return `signal.with_params(...)`, or do not keep what the layer changes.
    """
    signal = trial.signal()
    after: Updates = trial.apply(trial.build(), signal, trial.context())
    if _keeps(trial, Identified()):
        demand(after.ids == signal.ids, f"it keeps Identified, but ids {signal.ids} became {after.ids}")
    if not _real(trial):
        return
    if _keeps(trial, Weighted()):
        same_weights = after.weights is not None and torch.equal(after.weights, signal.weights)
        demand(same_weights, f"it keeps Weighted, but weights {signal.weights} became {after.weights}")
    if _keeps(trial, Summable()):
        demand(
            after.rows.shape == signal.rows.shape,
            f"it keeps Summable, but rows {tuple(signal.rows.shape)} became {tuple(after.rows.shape)}",
        )
