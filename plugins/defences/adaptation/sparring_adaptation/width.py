"""Hidden layers of another width."""

from __future__ import annotations

from typing import Any, final

from torch import nn

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ModelPlan
from sparring_adaptation.configs import WidthConfig
from sparring_adaptation.observing import Make, Observed, Visit, observe, replaced
from sparring_adaptation.pooling import CONVOLUTIONS

BATCH = nn.modules.batchnorm._BatchNorm
INSTANCE = nn.modules.instancenorm._InstanceNorm
SIZED = (*CONVOLUTIONS, nn.Linear, BATCH, INSTANCE, nn.GroupNorm, nn.PReLU)


@final
class OtherWidth(Defence[ModelPlan]):
    r"""$c \leftarrow \max(1, \mathrm{round}(f c))$ for the channels between the first layer's input and the last one's output.

    Layers of another size are drawn anew, by torch's default, in the order of modules; those of the same keep their weights.
    A linear layer behind a flattening takes the new channels at each position. GroupNorm keeps the gcd of its groups and the
    channels. Errors: `ConfigError` for modules with parameters that are neither convolutions, linear, nor normalise channels,
    for groups that do not divide, and where branches no longer fit.

    Source: a knob of Usynin et al., "Zen and the art of model adaptation", PoPETs 2022(1), 10.2478/popets-2022-0014.
    """

    def __init__(self, config: WidthConfig) -> None:
        self.factor = config.factor

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        del ctx
        seen = observe(signal)
        _demand_sized(seen)
        return replaced(signal, "width", self._found(seen))

    def _new(self, channels: int) -> int:
        return max(1, round(self.factor * channels))

    def _found(self, seen: Observed) -> dict[str, Make]:
        layers = seen.layers()
        ends = (layers[0].name, layers[-1].name) if layers else ("", "")
        found: dict[str, Make] = {}
        before = None
        for visit in seen.of(*SIZED):
            m: Any = visit.module
            if isinstance(m, nn.Linear):
                first = visit.name == ends[0]
                inputs = m.in_features if first else self._flattened(visit, before)
                outputs = m.out_features if visit.name == ends[1] else self._new(m.out_features)
                before = m.out_features
                sizes = (m.in_features, m.out_features), (inputs, outputs)
            elif isinstance(m, CONVOLUTIONS):
                inputs = m.in_channels if visit.name == ends[0] else self._new(m.in_channels)
                outputs = m.out_channels if visit.name == ends[1] else self._new(m.out_channels)
                before = m.out_channels
                sizes = (m.in_channels, m.out_channels), (inputs, outputs)
            else:
                held = m.num_channels if isinstance(m, nn.GroupNorm) else getattr(m, "num_features", None) or m.num_parameters
                shared = before is None or (isinstance(m, nn.PReLU) and held == 1)
                sizes = (held, 0), (held if shared else self._new(held), 0)
            if sizes[0] != sizes[1]:
                found[visit.name] = _resized(visit, *sizes[1])
        return found

    def _flattened(self, visit: Visit, before: int | None) -> int:
        n: int = visit.module.in_features  # type: ignore[assignment]
        if before is None or n % before:
            raise ConfigError(
                f"'width' cannot widen {visit.name}, {visit.module}: they are no multiple of the {before} channels before; "
                "use a model whose layers follow one another"
            )
        return n // before * self._new(before)


def _demand_sized(seen: Observed) -> None:
    for name, module in seen.model.named_modules():
        if list(module.parameters(recurse=False)) and not isinstance(module, SIZED):
            raise ConfigError(
                f"'width' cannot resize {name or 'the model'}, a {type(module).__name__}: it knows convolutions, linear layers "
                "and norms over channels; use a model of these"
            )


def _resized(visit: Visit, inputs: int, outputs: int) -> Make:
    m: Any = visit.module
    if isinstance(m, CONVOLUTIONS):
        groups = inputs if m.groups == m.in_channels and m.groups > 1 else m.groups
        if inputs % groups or outputs % groups:
            raise ConfigError(
                f"'width' cannot resize {visit.name}, {m}, to {inputs} -> {outputs} channels: {groups} groups do not divide "
                "them; choose another factor"
            )
        return lambda old: type(m)(
            inputs, outputs, m.kernel_size, m.stride, m.padding, m.dilation, groups, m.bias is not None, m.padding_mode
        )
    if isinstance(m, nn.Linear):
        return lambda old: nn.Linear(inputs, outputs, m.bias is not None)
    if isinstance(m, nn.GroupNorm):
        return lambda old: nn.GroupNorm(_groups(m.num_groups, m.num_channels, inputs), inputs, m.eps, m.affine)
    if isinstance(m, nn.PReLU):
        return lambda old: nn.PReLU(inputs)
    return lambda old: type(m)(inputs, m.eps, m.momentum, m.affine, m.track_running_stats)


def _groups(groups: int, old: int, new: int) -> int:
    """As many groups as divide both numbers; as many as channels where each channel was a group."""
    return new if groups == old else next(g for g in range(min(groups, new), 0, -1) if groups % g == 0 and new % g == 0)
