"""Mimic: all copy one client, so that the others count for less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack, Stateful
from sparring.signals import Updates
from sparring_poisoning.plugin_crafted import MimicConfig
from sparring_poisoning.seen import all_send, seen


@final
class Mimic(ActiveAttack[Updates], Stateful):
    r"""Every client sends the row $b_{i^*}$, $i^* = \arg\max_i \langle z, b_i \rangle$: what it sends is an honest update.

    z: the direction in which the rows seen differ most, by Oja's rule over ``warm_up`` rounds t = 0, 1, ...: $z \leftarrow
    \frac{t}{1+t} z + \frac{1}{1+t} \frac{C z}{\lVert C z \rVert}$, normalised, with $C = \sum_i (b_i - \mu)(b_i - \mu)^\top$
    and $\mu$ the mean over clients and rounds so far; z starts as noise. After them $i^*$ stays that of the last; in a round
    that lacks it, the argmax of those present serves. It does harm where clients' data differ: rows of IID clients are worth
    the same. Rows that it sees (`sparring_poisoning.seen.seen`): with its own knowledge it repeats one of its own. Acts on
    parameters; buffers stay. Raises `ConfigError` where it is not granted what it is to see.

    Source: Karimireddy, He and Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing", ICLR 2022,
    2006.09365.
    """

    def __init__(self, config: MimicConfig) -> None:
        self.config = config
        self._mu = self._z = torch.zeros(0)
        self._rounds, self._client = 0, -1

    def state(self) -> Mapping[str, Any]:
        """Mean and direction [p], the number of rounds that went into them, and the client that it copied last."""
        return {"mu": self._mu, "z": self._z, "rounds": self._rounds, "client": self._client}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._mu, self._z = state["mu"], state["z"]
        self._rounds, self._client = int(state["rounds"]), int(state["client"])

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], all of one client's parameters."""
        assert isinstance(ctx, Round)
        if not signal.ids:
            return signal
        known = seen(signal, ctx, self.config.knowledge)
        rows = known.params
        settled = self._rounds >= self.config.warm_up
        if not settled:
            self._learn(rows, ctx)
        if settled and self._client in known.ids:
            return all_send(signal, rows[known.ids.index(self._client)])
        k = int((rows @ self._z.to(rows)).argmax())
        self._client = self._client if settled else known.ids[k]
        return all_send(signal, rows[k])

    def _learn(self, rows: Tensor, ctx: Round) -> None:
        """One step of Oja's rule on rows [k, p]."""
        t, mean = self._rounds, rows.mean(dim=0)
        if t == 0:
            self._mu = mean
            self._z = torch.randn(len(mean), generator=ctx.generator(), dtype=rows.dtype).to(rows.device)
        else:
            self._mu = (t * self._mu.to(rows) + mean) / (1 + t)
        x, z = rows - self._mu, self._z.to(rows)
        cz = (x @ z) @ x
        norm = cz.norm()
        z = (t * z + cz / norm.masked_fill(norm == 0, 1)) / (1 + t)
        norm = z.norm()
        self._z = z / norm.masked_fill(norm == 0, 1)
        self._rounds = t + 1
