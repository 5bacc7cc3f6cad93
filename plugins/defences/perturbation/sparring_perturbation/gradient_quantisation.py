"""Gradient quantisation: coordinates are rounded to b bits."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Updates
from sparring_perturbation.plugin import GradientQuantisationConfig
from sparring_perturbation.rows import blocks, spans


def quantised(rows: Tensor, bits: int, draws: Tensor | None) -> Tensor:
    """Each row [n, d] on the levels of its own scale; ``draws`` [n, d] on [0, 1) decide, without them the distance does."""
    s, half = (0.5, 0.5) if bits == 1 else (float(2 ** (bits - 1) - 1), 0.0)
    m = rows.abs().amax(dim=1, keepdim=True)
    u = torch.where(m == 0, 0, rows / m) * s + half
    below = u.floor()
    level = u.round() if draws is None else below + (draws < u - below)
    return torch.where(m == 0, rows, m * ((level - half) / s))


@final
class GradientQuantisation(Defence[Updates]):
    r"""Rounds each row's parameter columns to b bits, against the row's own scale.

    $$Q(v) = m \, \frac{\xi}{s}, \qquad \xi = \lfloor u \rfloor + [\, U < u - \lfloor u \rfloor \,], \qquad
      u = s \frac{v}{m}, \qquad m = \max_j |v_j|, \qquad s = 2^{b-1} - 1$$

    U is uniform on [0, 1), drawn from each client's own stream: E Q(v) = v, with variance at most (m / 2s)^2 a coordinate.
    With ``nearest``, xi is u rounded, half to even: biased, of an error of at most m / 2s. Levels are 2s + 1 <= 2^b, 0 among
    them and exact. For b = 1 they are -m and m, drawn with mean v: the variance is m^2 - v^2; ``nearest`` then sends signs
    times m.

    m is taken per tensor or over the update (``per``); QSGD itself has the L2 norm there, and the maximum in its experiments.
    A row of zeros stays so; one that is not finite becomes NaN, for the engine to stop at. Buffers and extras are not
    rounded. No magnitude exceeds the largest that was there, but L1 and L2 norms grow.

    The numbers are simulated: rows stay floating-point, and the bytes that a run counts are those of floats. An attack may
    invert what it reads, unbiased as it is. Sources: Alistarh, Grubic, Li, Tomioka, Vojnovic: QSGD, NeurIPS 2017, 1610.02132;
    levels of b bits: Suresh, Yu, Kumar, McMahan, ICML 2017, 1611.00429.
    """

    def __init__(self, config: GradientQuantisationConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The updates with rounded parameter columns; the draws of client i come from its own stream."""
        assert isinstance(ctx, Round)
        params = signal.params
        rounded, columns = params.clone(), spans(signal.layout, self.config.per)
        for rows in blocks(*params.shape):
            draws = self._draws(params[rows], signal.ids[rows], ctx)
            for part in columns:
                own = None if draws is None else draws[:, part]
                rounded[rows, part] = quantised(params[rows, part], self.config.bits, own)
        return signal.with_params(rounded)

    def _draws(self, params: Tensor, ids: tuple[int, ...], ctx: Round) -> Tensor | None:
        if self.config.rounding == "nearest":
            return None
        drawn = [torch.rand(params.shape[1], generator=ctx.generator(i), dtype=params.dtype) for i in ids]
        return torch.stack(drawn).to(params.device)
