"""Another pooling, a strided convolution, or nothing, in place of every pooling module."""

from __future__ import annotations

from typing import Any, final

from torch import nn

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ModelPlan
from sparring_adaptation.configs import Pooling, PoolingConfig
from sparring_adaptation.observing import Make, Visit, observe, refuse_functional, replaced

MAX: tuple[type[nn.Module], ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVG: tuple[type[nn.Module], ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE_MAX: tuple[type[nn.Module], ...] = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
ADAPTIVE_AVG: tuple[type[nn.Module], ...] = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WINDOWS, ADAPTIVE = (*MAX, *AVG), (*ADAPTIVE_MAX, *ADAPTIVE_AVG)
FUNCTIONS = tuple(f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for d in (1, 2, 3))


def of(kinds: tuple[type[nn.Module], ...], module: nn.Module) -> int | None:
    """The place of a module's kind among ``kinds``: its number of dimensions less one."""
    return next((k for k, kind in enumerate(kinds) if isinstance(module, kind)), None)


@final
class OtherPooling(Defence[ModelPlan]):
    r"""Windows of maximum pooling become means, $y = \sum_{i \in W} x_i / |W|$, the reverse, or convolutions of their size.

    Kernel, stride and padding stay, hence every shape. A mean leaves padding out. Adaptive poolings change between mean and
    maximum. ``strided``: a dense convolution C -> C of the window's size and stride (Springenberg et al., 1412.6806), drawn
    from torch's generator in the order of modules. ``none``: nothing, where the model's output keeps its shape without them.
    A maximum over positions that a module takes by itself (amax) stays, and is noted. Errors: `ConfigError` for dilation,
    indices, functional pooling, and where no convolution has the shape (adaptive, or ceil_mode).

    Source: a knob of Usynin et al., "Zen and the art of model adaptation", PoPETs 2022(1), 10.2478/popets-2022-0014.
    """

    def __init__(self, config: PoolingConfig) -> None:
        self.to = config.to

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        del ctx
        seen = observe(signal)
        refuse_functional(
            "pooling", seen.functional(FUNCTIONS, *WINDOWS, *ADAPTIVE), "poolings as modules, such as nn.MaxPool2d(2)"
        )
        stays = [
            f"pooling: {name} takes a maximum over positions ({f}), which stays"
            for name, f in seen.functional(["amax"]).items()
        ]
        found = {v.name: make for v in seen.of(*WINDOWS, *ADAPTIVE) if (make := _make(v, self.to)) is not None}
        return replaced(signal, "pooling", found, *stays)


def _make(visit: Visit, to: Pooling) -> Make | None:
    old: Any = visit.module
    where = f"'pooling' cannot replace {visit.name}, {old}"
    window, adaptive = of(MAX, old), of(ADAPTIVE_MAX, old)
    if getattr(old, "return_indices", False):
        raise ConfigError(f"{where}: its indices are used; drop return_indices")
    if window is not None and old.dilation not in (1, (1,) * (window + 1)):
        raise ConfigError(f"{where}: only windows of dilation 1 have a counterpart; drop its dilation")
    d = next(k for k in (window, adaptive, of(AVG, old), of(ADAPTIVE_AVG, old)) if k is not None)
    if to == "none":
        return lambda old: nn.Identity()
    if to == "strided":
        if isinstance(old, ADAPTIVE) or old.ceil_mode:
            raise ConfigError(f"{where} by a convolution: its windows have no one size; use to: avg or to: max")
        c = visit.inputs[0]
        return lambda old: CONVOLUTIONS[d](c, c, old.kernel_size, old.stride, old.padding)
    if isinstance(old, (*MAX, *ADAPTIVE_MAX)) == (to == "max"):
        return None
    if isinstance(old, ADAPTIVE):
        return lambda old: (ADAPTIVE_MAX if to == "max" else ADAPTIVE_AVG)[d](old.output_size)
    if to == "max":
        return lambda old: MAX[d](old.kernel_size, old.stride, old.padding, ceil_mode=old.ceil_mode)
    return lambda old: AVG[d](old.kernel_size, old.stride, old.padding, ceil_mode=old.ceil_mode, count_include_pad=False)
