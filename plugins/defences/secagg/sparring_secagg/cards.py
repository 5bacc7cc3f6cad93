"""What the reference card of masked-sum measures."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import Tensor

from sparring.aggregate import WeightedMean
from sparring.context import Round, Wire
from sparring.errors import RoundAborted
from sparring.keys import Key
from sparring.signals import Cohort, Updates
from sparring.testing.fixtures import make_round, make_updates
from sparring_secagg.masked_sum import Open, Seal
from sparring_secagg.plugin import MaskedSumConfig

BINS = 256


def masked_sum() -> dict[str, float]:
    """Opened means against plain integers over rounds with lost messages, rounds below the threshold, and sealed rows."""
    config = MaskedSumConfig(threshold=4, rounding="towards-zero")
    worst, opened, aborted, short = 0.0, 0, 0, 0
    for trial in range(60):
        given = make_updates(6, 50, seed=trial)
        lost = given.ids[: trial % 5]
        arrived = [client for client in given.ids if client not in lost]
        try:
            found = _opened(config, given, _round(trial, lost))
        except RoundAborted:
            aborted += 1
        else:
            opened += 1
            worst = max(worst, float((found - _plain(config, given.select(arrived))).abs().max()))
        short += len(arrived) < config.threshold
    given = make_updates(6, 50_000, seed=7)
    sealed = Seal(config).defence_transform(given, _round(0, ())).rows[0]
    counts = torch.bincount(sealed * BINS // config.modulus, minlength=BINS).double()
    even = len(sealed) / BINS
    plain = torch.stack([given.rows[0].double(), sealed[:-1].double()])
    return {
        "largest difference of an opened mean from plain integers": worst,
        "rounds opened": float(opened),
        "rounds below the threshold that were not aborted": float(short - aborted),
        "chi-square of a sealed row over its degrees of freedom": float(((counts - even).square() / even).sum()) / (BINS - 1),
        "correlation of a sealed row with its plain row": float(torch.corrcoef(plain)[0, 1]),
    }


def _round(seed: int, lost: tuple[int, ...]) -> Round:
    """A round in which the rows of ``lost`` clients are lost; its pads are seeded, so that the card repeats."""
    pads = random.Random(Key(seed, ("card", "pads")).number())
    ctx = make_round("masked-sum/update", seed=seed)
    wire = Wire(0, lambda stage, client: stage == "masked-sum/rows" and client in lost)
    return replace(ctx, wire=wire, secure=pads.randbytes)


def _opened(config: MaskedSumConfig, given: Updates, ctx: Round) -> Tensor:
    sealed = Seal(config).defence_transform(given, ctx)
    total = WeightedMean().server_aggregate(Cohort(sealed.rows, sealed.layout, sealed.ids, sealed.weights), ctx)
    return Open(config).defence_transform(total, ctx).vector


def _plain(config: MaskedSumConfig, given: Updates) -> Tensor:
    """The weighted mean of fixed-point rows without any mask, in exact integers."""
    assert given.weights is not None
    unit = 1 << config.fraction_bits
    weights = [round(float(w) / config.max_weight * unit) for w in given.weights]
    rows = [
        [int(max(-config.bound, min(config.bound, x)) * (w / unit) * unit) for x in row.tolist()]
        for row, w in zip(given.rows, weights, strict=True)
    ]
    return torch.tensor([sum(column) / sum(weights) for column in zip(*rows, strict=True)], dtype=given.rows.dtype)
