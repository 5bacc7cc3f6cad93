"""STRIP: an input whose prediction no superimposed image can change carries a trigger."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Responses
from sparring_data_analysis.plugin import StripConfig

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 4096
"""Superimposed inputs that are predicted at once."""
FEWEST = 4


@torch.no_grad()
def entropies(predict: Callable[[Tensor], Tensor], inputs: Tensor, overlays: Tensor, weight: float) -> Tensor:
    r"""$H(x) = -\frac1N \sum_n \sum_c y_{nc} \log_2 y_{nc}$ in bits [m], $y_n$ the softmax of $f((1 - w) x + w x_n)$."""
    found = []
    for x in inputs.split(max(1, AT_ONCE // len(overlays))):
        mixed = (1 - weight) * x[:, None] + weight * overlays
        y = predict(mixed.flatten(0, 1)).double().softmax(1)
        found.append(-torch.special.xlogy(y, y).sum(1).view(len(x), -1).mean(1) / torch.log(y.new_tensor(2.0)))
    return torch.cat(found) if found else inputs.new_zeros(0, dtype=torch.float64)


@final
class Strip(Defence[Responses]):
    r"""Abstains on inputs whose $H(x)$ (see `entropies`) lies below $\mu + \sigma\,\Phi^{-1}(r)$: it answers zeros.

    Zeros are all classes alike. Public images are shuffled by the layer's stream: half of them, ``overlays`` at most, are
    superimposed with ``weight`` w; the others give mean $\mu$ and deviation $\sigma$ of the entropy of clean inputs, so that
    about a share r = ``false_rejection`` of clean queries is refused. Each query is judged by itself, and costs N more
    predictions. Inputs that are not finite are answered as the model answers them. Raises `ConfigError` without public data,
    or with fewer than 4 examples of it.

    Source: Gao, Xu, Wang, Chen, Ranasinghe and Nepal, "STRIP: A defence against trojan attacks on deep neural networks",
    ACSAC 2019, 1902.06531. There images are added; here they are averaged, so that inputs of any range stay in it.
    """

    def __init__(self, config: StripConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Responses, ctx: Context) -> Responses:
        """The responses [m, K] with zeros for suspicious inputs."""
        if not len(signal.inputs):
            return signal
        public = None if ctx.public is None else ctx.public.x
        if public is None or len(public) < FEWEST:
            found = "no public data" if public is None else f"{len(public)} public examples"
            raise ConfigError(f"'{ctx.layer}' has {found}; it needs at least {FEWEST}: choose a data set that offers them")
        public = public[torch.randperm(len(public), generator=ctx.generator())].to(signal.inputs)
        count = min(self.config.overlays, len(public) // 2)
        overlays, clean = public[:count], public[count:]
        usual = entropies(signal.predict, clean, overlays, self.config.weight)
        threshold = usual.mean() + usual.std() * NormalDist().inv_cdf(self.config.false_rejection)
        suspicious = entropies(signal.predict, signal.inputs, overlays, self.config.weight) < threshold
        answers = signal.outputs.masked_fill(suspicious[:, None].to(signal.outputs.device), 0)
        return Responses(answers, signal.inputs, signal.user, signal.predict)
