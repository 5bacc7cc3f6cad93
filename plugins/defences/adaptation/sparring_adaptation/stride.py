"""Strides of convolutions turned into average pooling, or pooling into strides."""

from __future__ import annotations

from typing import Any, final

from torch import nn

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ModelPlan
from sparring_adaptation.configs import StrideConfig
from sparring_adaptation.observing import Make, Observed, observe, replaced
from sparring_adaptation.pooling import AVG, CONVOLUTIONS, WINDOWS, of


@final
class OtherStride(Defence[ModelPlan]):
    r"""``pooled``: $y_{si}$, every s-th position of a dense convolution, becomes the mean of $y_{si}, \dots, y_{si + s - 1}$.

    The convolution keeps its weights and gets stride 1; average pooling of size and stride s with ceil_mode gives the same
    ceil(L / s) positions, the last window the mean of what is left. ``strided``: a pooling goes, and the last convolution
    before it takes over its stride, weights kept. Errors: `ConfigError` where the pooling has no convolution of stride 1
    before it, or another number of positions than ceil(L / s).

    Source: a knob of Usynin et al., "Zen and the art of model adaptation", PoPETs 2022(1), 10.2478/popets-2022-0014.
    """

    def __init__(self, config: StrideConfig) -> None:
        self.to = config.to

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        del ctx
        seen = observe(signal)
        return replaced(signal, "stride", _pooled(seen) if self.to == "pooled" else _strided(seen))


def _pooled(seen: Observed) -> dict[str, Make]:
    def make(old: Any) -> nn.Module:
        stride = old.stride
        old.stride = (1,) * len(stride)
        kind: Any = AVG[len(stride) - 1]
        return nn.Sequential(old, kind(stride, stride, ceil_mode=True))

    return {v.name: make for v in seen.of(*CONVOLUTIONS) if max(v.module.stride) > 1}  # type: ignore[arg-type]


def _strided(seen: Observed) -> dict[str, Make]:
    found: dict[str, Make] = {}
    last: Any = None
    for visit in seen.of(*CONVOLUTIONS, *WINDOWS):
        if not isinstance(visit.module, WINDOWS):
            last = visit
            continue
        pool: Any = visit.module
        d = max(k for k in (of(WINDOWS[:3], pool), of(AVG, pool)) if k is not None) + 1
        stride = pool.stride if isinstance(pool.stride, tuple) else (pool.stride,) * d
        where = f"'stride' cannot turn {visit.name}, {pool}, into a stride"
        if last is None or last.name in found or max(last.module.stride) > 1 or last.outputs[1:] != visit.inputs[1:]:
            raise ConfigError(f"{where}: no convolution of stride 1 with that many positions stands before it; use to: pooled")
        if isinstance(last.module.padding, str):
            raise ConfigError(
                f"{where}: {last.name} has padding {last.module.padding!r}, which excludes strides; give a number"
            )
        wanted = tuple(-(-n // s) for n, s in zip(visit.inputs[1:], stride, strict=True))
        if wanted != visit.outputs[1:]:
            raise ConfigError(f"{where}: it leaves {visit.outputs[1:]} positions, a stride {wanted}; use 'pooling' to: strided")
        found[last.name] = _with(stride)
        found[visit.name] = lambda old: nn.Identity()
    return found


def _with(stride: tuple[int, ...]) -> Make:
    def make(old: Any) -> nn.Module:
        old.stride = stride
        changed: nn.Module = old
        return changed

    return make
