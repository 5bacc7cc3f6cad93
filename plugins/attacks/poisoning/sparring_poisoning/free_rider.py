"""Free riding: an update without training, for the reward of those who train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack, Stateful
from sparring.signals import Updates
from sparring_poisoning.plugin_blind import FreeRiderConfig
from sparring_poisoning.seen import all_send, draws


@final
class FreeRider(ActiveAttack[Updates], Stateful):
    r"""$\Delta_i = \theta_t - \theta_{t-1} + \varphi(t)\,\varepsilon_i$: the global model's last change, disguised.

    $\varphi(t) = \sigma\,t^{-\gamma}$ with t rounds since the first in which it took part; $\sigma$: ``noise`` times the root
    mean square of the first change that it saw; $\varepsilon_i \sim \mathcal N(0, I_p)$, drawn by each client. Where rounds
    passed between the two models, because none of its clients was sampled, the change is divided by their number. ``zero``:
    nothing but the noise. Before it saw a change, it sends zero. Acts on parameters; buffers stay as trained: a federation
    whose model has buffers shows a real free rider more plainly than this one. Its clients train all the same in a
    simulation; nothing of it is sent.

    What it wants is the model without the work, not damage. It plays the poisoning game, which says what accuracy its presence
    costs the others; whether it is found out is in the verdicts of the analyses that look for it.

    Source: Lin, Du and Liu, "Free-riders in federated learning: attacks and defenses", 2019, 1911.12560 (delta weights);
    Fraboni, Vidal and Lorenzi, "Free-rider attacks on model aggregation in federated learning", AISTATS 2021, 2006.11901
    (plain and disguised by decaying noise).
    """

    def __init__(self, config: FreeRiderConfig) -> None:
        self.config = config
        self._previous = torch.zeros(0)
        self._first, self._last, self._scale = -1, -1, 0.0

    def state(self) -> Mapping[str, Any]:
        """The parameters that it saw last [p], the rounds in which it saw the first and these, and sigma per unit of noise."""
        return {"previous": self._previous, "first": self._first, "last": self._last, "scale": self._scale}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._previous = state["previous"]
        self._first, self._last, self._scale = int(state["first"]), int(state["last"]), float(state["scale"])

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], made without training."""
        assert isinstance(ctx, Round)
        if not signal.ids:
            return signal
        assert ctx.parameters is not None
        change = self._change(ctx.parameters[: signal.layout.parameters].to(signal.rows), ctx.index)
        change = torch.zeros_like(change) if self.config.update == "zero" else change
        if not self.config.noise or ctx.index == self._first:
            return all_send(signal, change)
        t = ctx.index - self._first
        phi = self.config.noise * self._scale * t**-self.config.decay
        return signal.with_params(draws(torch.randn, signal, ctx).mul_(phi).add_(change))

    def _change(self, parameters: Tensor, index: int) -> Tensor:
        """The model's change a round since it was seen last [p]; takes the new one down."""
        if self._first < 0:
            self._first = index
            change = torch.zeros_like(parameters)
        else:
            change = (parameters - self._previous.to(parameters)) / max(index - self._last, 1)
            if not self._scale:
                self._scale = float(change.double().square().mean().sqrt())
        self._previous, self._last = parameters.clone(), index
        return change
