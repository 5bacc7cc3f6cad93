"""FLTrust: an update counts as far as it agrees with the server's own."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Cohort, Examples
from sparring_update_analysis.configs import FLTrustConfig
from sparring_update_analysis.judging import along, judged, lengths, parameters


@final
class FLTrust(Defence[Cohort]):
    r"""Weighs rows by their trust scores and scales them to the norm of the server's update $g_0$ on root examples.

    $$TS_i = \max(0, \cos(\Delta_i, g_0)), \quad \Delta_i \leftarrow \Delta_i \lVert g_0 \rVert / \lVert \Delta_i \rVert, \quad
    w_i = TS_i$$

    $g_0$ [d]: one round of the federation's local training on ``root`` public examples, evenly spaced and the same in all
    rounds. As in the paper the trust score alone is the weight, whatever number of examples a client claims; the mean behind it
    divides by their sum. Cosines and norms are of the parameter columns; whole rows are scaled. Clients of score 0 are flagged
    and left out: if that is everybody, the round releases nothing. Suspicion is minus the cosine. ``exclude``: they are left
    out, and the others keep rows and weights. A row that is 0, or so short that the factor leaves its type, has cosine 0. n =
    0: no rows. Raises `NumericalError` for a row that is not finite, `ConfigError` where the cohort's columns are not the
    model's, or where there are no public data.

    Source: Cao, Fang, Liu and Gong: FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping, NDSS 2021,
    2012.13995.
    """

    def __init__(self, config: FLTrustConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The rows that agree with the server's update, scaled and weighed."""
        assert isinstance(ctx, Round)
        if len(signal) == 0:
            return signal
        seen = parameters(signal)
        norms = lengths(seen, ctx.layer)
        g0 = self._server(signal, ctx)[: signal.layout.parameters].to(signal.base.device, torch.float64)
        size = g0.norm()
        told = norms * torch.finfo(signal.base.dtype).max > size
        short = torch.where(told, norms, torch.inf)
        cosine = (along(seen, g0) / (short * size.clamp(min=torch.finfo(size.dtype).tiny))).clamp(-1, 1)
        trust = cosine.clamp(min=0)
        if self.config.exclude:
            return judged(signal, ctx.layer, -cosine, trust == 0)
        scaled = replace(signal.scaled(size / short), weights=trust.to(signal.base.dtype))
        return judged(scaled, ctx.layer, -cosine, trust == 0)

    def _server(self, signal: Cohort, ctx: Round) -> Tensor:
        assert ctx.lab is not None
        assert ctx.parameters is not None
        if ctx.public is None or len(ctx.public) == 0:
            raise ConfigError(
                f"'{ctx.layer}' needs root examples, and the data set offers no public data; choose one that does"
            )
        if signal.layout.size != ctx.lab.layout.size:
            raise ConfigError(
                f"'{ctx.layer}' got rows of {signal.layout.size} numbers, and the model has {ctx.lab.layout.size}; a server's "
                "update can be compared only with whole updates of the model: drop the layer that changes the columns"
            )
        return ctx.lab.update(ctx.parameters, self._root(ctx.public), ctx.index)

    def _root(self, public: Examples) -> Examples:
        """The root examples, evenly spaced."""
        k = min(self.config.root, len(public))
        return public.take(torch.arange(k, device=public.x.device) * len(public) // k)
