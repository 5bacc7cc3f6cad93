"""BadNets: a bright patch in a corner."""

from __future__ import annotations

from sparring.context import Context
from sparring_backdoor.configs import BadNetsConfig, Patch
from sparring_backdoor.poison import Make, Shape, Trigger, TriggerPoison, demand_room, flat


def patch(config: Patch) -> Make:
    r"""The trigger $T(x)_j = v$ for j in the patch, $x_j$ elsewhere.

    In images [C, H, W] a square of s x s pixels of value v in all channels, ``margin`` pixels off the two edges of its corner;
    in vectors [F] the last s features. Raises `ConfigError` where it does not fit, or v is no brightness.
    """

    def make(shape: Shape, ctx: Context, rank: int | None) -> Trigger:
        del rank
        mask, pattern = flat(shape, config.value, ctx.layer)
        s, off = config.size, config.margin
        if len(shape) == 1:
            demand_room(s, shape[0], "features", ctx.layer)
            mask[-s:] = 1
            return Trigger(mask, pattern)
        height, width = shape[1:]
        demand_room(s + off, min(height, width), "pixels", ctx.layer)
        top = off if config.corner.startswith("top") else height - off - s
        left = off if config.corner.endswith("left") else width - off - s
        mask[:, top : top + s, left : left + s] = 1
        return Trigger(mask, pattern)

    return make


def badnets(config: BadNetsConfig) -> TriggerPoison:
    """Poison with `patch`.

    Source: Gu, Dolan-Gavitt and Garg, "BadNets: identifying vulnerabilities in the machine learning model supply chain", 2017,
    1708.06733.
    """
    return TriggerPoison(patch(config.trigger), config.target, config.fraction)
