"""What attacks on updates share: whose updates they see, how their clients all send one row, and their clients' draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sparring.context import Round
from sparring.errors import ConfigError
from sparring.signals import Updates
from sparring_poisoning.declare import Knowledge


def seen(signal: Updates, ctx: Round, knowledge: Knowledge) -> Updates:
    """The updates [k, d] that an attack estimates from, in the order of their clients.

    ``own``: those of its own clients, honestly trained. ``benign``: the benign ones that it is granted, or its own in a round
    that has none; raises `ConfigError` where they are not granted.
    """
    if knowledge == "own":
        return _sorted(signal)
    if ctx.honest is None:
        raise ConfigError(
            f"'{ctx.layer or 'attack'}' has knowledge: benign, but the benign updates are not granted to it; "
            "grant them in the threat model (knows: [benign-updates]), or set knowledge: own"
        )
    if not ctx.honest.ids:
        return _sorted(signal)
    return _sorted(replace(ctx.honest, rows=ctx.honest.rows.to(signal.rows)))


def _sorted(updates: Updates) -> Updates:
    order = tuple(sorted(updates.ids))
    return updates if order == updates.ids else updates.select(order)


def all_send(signal: Updates, params: Tensor) -> Updates:
    """The updates in which each client sends the parameters ``params`` [p]; buffers stay."""
    return signal.with_params(params.expand(len(signal.ids), -1).clone())


def draws(sample: Callable[..., Tensor], signal: Updates, ctx: Round) -> Tensor:
    """Draws [m, p] by ``sample`` (`torch.randn` or `torch.rand`), each row from its client's stream."""
    p, rows = signal.layout.parameters, signal.rows
    drawn = [sample(p, generator=ctx.generator(i), dtype=rows.dtype) for i in signal.ids]
    return torch.stack(drawn).to(rows.device)
