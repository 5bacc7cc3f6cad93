"""Synthetic cohorts with and without attackers, on which the reference cards measure the analyses."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import torch
from torch import Tensor

from sparring.keys import Key
from sparring.roles import Defence
from sparring.signals import Cohort
from sparring.testing.fixtures import make_layout, make_round
from sparring.verdicts import auc

CLIENTS, HELD, COLUMNS, SCENES = 20, 5, 400, 10
SPREAD = 2.0
"""Norm of what is a client's own in its row, over what all have in common: cosines of honest rows are 1 / 5."""
PLAIN, STEALTHY = 10.0, 0.3
"""How far attackers push along the backdoor, where the common part has norm 1."""
Made = Callable[[], Defence[Cohort]]


def cohort(rows: Tensor) -> Cohort:
    """A cohort of clients 0, 1, ... with one example each."""
    ids = tuple(range(len(rows)))
    return Cohort(rows, make_layout(rows.shape[1]), ids, torch.ones(len(rows), dtype=rows.dtype), sources=ids)


def unit(n: int, generator: torch.Generator) -> Tensor:
    """Random directions [n, `COLUMNS`]."""
    return torch.nn.functional.normalize(torch.randn(n, COLUMNS, generator=generator, dtype=torch.float64), dim=1)


def honest(seed: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Rows [n, d] of honest clients and a direction [d] that has nothing to do with them.

    A row is a common part of norm 1 and an own one of norm `SPREAD`; with several ``groups`` also one of norm 2 that its group
    shares: clients whose data differ.
    """
    generator = Key(seed, ("scene",)).generator()
    common, backdoor = unit(2, generator)
    rows = common + SPREAD * unit(CLIENTS, generator)
    if groups > 1:
        rows = rows + 2 * unit(groups, generator)[torch.arange(CLIENTS) % groups]
    return rows, backdoor


def backdoored(seed: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of which the first `HELD` are pushed by ``scale`` along the backdoor; the same rows without; the backdoor."""
    rows, backdoor = honest(seed)
    pushed = rows.clone()
    pushed[:HELD] += scale * backdoor
    return pushed, rows, backdoor


def found(made: Made, rows: Tensor, seed: int) -> tuple[Cohort, float]:
    """What a fresh analysis hands on, and the area under its ROC curve for the first `HELD` clients."""
    after = made().defence_transform(cohort(rows), make_round("card", cohort=range(len(rows)), seed=seed))
    suspicion = after.verdicts[-1].suspicion
    area = auc([suspicion[c] for c in range(HELD)], [suspicion[c] for c in range(HELD, CLIENTS)])
    assert area is not None
    return after, area


def mean(after: Cohort) -> Tensor:
    """The weighted mean [d] of what is left."""
    assert after.weights is not None
    w = after.weights.double()
    return after.combine(w / w.sum())


def detection(made: Made) -> dict[str, float]:
    """The effect of an analysis on scaled and on stealthy backdoors, and its cost where nobody attacks; means over scenes."""
    areas: dict[float, list[float]] = {PLAIN: [], STEALTHY: []}
    pushed, undefended, lost = [], [], {1: list[float](), 4: list[float]()}
    for seed in range(SCENES):
        for scale, held in areas.items():
            rows, clean, backdoor = backdoored(seed, scale)
            after, area = found(made, rows, seed)
            held.append(area)
            if scale == PLAIN:
                pushed.append(float((mean(after) - clean.mean(0)) @ backdoor))
                undefended.append(float((rows.mean(0) - clean.mean(0)) @ backdoor))
        for groups, shares in lost.items():
            rows, _ = honest(seed, groups)
            shares.append(len(found(made, rows, seed)[0].verdicts[-1].flagged) / CLIENTS)
    return {
        "AUC, scaled backdoor": fmean(areas[PLAIN]),
        "AUC, backdoor within the spread": fmean(areas[STEALTHY]),
        "push along the scaled backdoor": fmean(pushed),
        "the same, undefended": fmean(undefended),
        "honest clients flagged, nobody attacks": fmean(lost[1]),
        "honest clients flagged, four groups of data": fmean(lost[4]),
    }
