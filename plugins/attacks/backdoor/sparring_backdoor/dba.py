"""DBA: a trigger split over the clients of the attack."""

from __future__ import annotations

from sparring.context import Context
from sparring_backdoor.configs import DBAConfig
from sparring_backdoor.poison import Make, Shape, Trigger, TriggerPoison, demand_room, flat

PARTS = 4


def bars(config: DBAConfig) -> Make:
    r"""Four local triggers of ``length`` pixels; the global trigger is their union.

    In images: bars of one row each, two beside each other and two below these, with ``gap`` pixels between them in both
    directions, ``margin`` pixels off the top and left edges. In vectors: the last 4 ``length`` features in four runs. The
    client of rank k among the attack's clients has part k mod 4. Raises `ConfigError` where they do not fit.
    """

    def make(shape: Shape, ctx: Context, rank: int | None) -> Trigger:
        mask, pattern = flat(shape, config.value, ctx.layer)
        s = config.length
        for part in range(PARTS) if rank is None else (rank % PARTS,):
            if len(shape) == 1:
                demand_room(PARTS * s, shape[0], "features", ctx.layer)
                start = shape[0] - (PARTS - part) * s
                mask[start : start + s] = 1
                continue
            demand_room(config.margin + config.gap + 2, shape[1], "rows", ctx.layer)
            demand_room(config.margin + config.gap + 2 * s, shape[2], "columns", ctx.layer)
            top = config.margin + (part // 2) * (1 + config.gap)
            left = config.margin + (part % 2) * (s + config.gap)
            mask[:, top, left : left + s] = 1
        return Trigger(mask, pattern)

    return make


def dba(config: DBAConfig) -> TriggerPoison:
    """Poison each client with its part of `bars`; the objective is the global trigger.

    Source: Xie, Huang, Chen and Li, "DBA: distributed backdoor attacks against federated learning", ICLR 2020 (its attack A-M,
    without scaling).
    """
    return TriggerPoison(bars(config), config.target, config.fraction)
