"""Single pixel: one pixel is the whole trigger."""

from __future__ import annotations

from sparring.context import Context
from sparring.errors import ConfigError
from sparring_backdoor.configs import SinglePixelConfig
from sparring_backdoor.poison import Make, Shape, Trigger, TriggerPoison, flat


def pixel(config: SinglePixelConfig) -> Make:
    r"""The trigger $T(x)_j = v$ for one j, $x$ elsewhere: a pixel in all channels, or one feature.

    Raises `ConfigError` where it lies outside the input, or v is no brightness.
    """

    def make(shape: Shape, ctx: Context, rank: int | None) -> Trigger:
        del rank
        mask, pattern = flat(shape, config.value, ctx.layer)
        place = {"row": (config.row, shape[1]), "column": (config.column, shape[2])} if len(shape) == 3 else {}
        for name, (at, size) in (place or {"column": (config.column, shape[0])}).items():
            if not -size <= at < size:
                raise ConfigError(f"'{ctx.layer}': {name} is {at}; it must be from {-size} to {size - 1} here")
        if place:
            mask[:, config.row, config.column] = 1
        else:
            mask[config.column] = 1
        return Trigger(mask, pattern)

    return make


def single_pixel(config: SinglePixelConfig) -> TriggerPoison:
    """Poison with `pixel`.

    Source: the single-pixel backdoor of Gu, Dolan-Gavitt and Garg, "BadNets: identifying vulnerabilities in the machine
    learning model supply chain", 2017, 1708.06733.
    """
    return TriggerPoison(pixel(config), config.target, config.fraction)
