"""Adaptive robust clipping."""

from __future__ import annotations

from typing import final

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence, Sizing
from sparring.signals import Cohort
from sparring_aggregation.plugin_pre import ARCConfig
from sparring_aggregation.rescale import clip
from sparring_aggregation.selection import admit_minority


@final
class AdaptiveClipping(Defence[Cohort], Sizing):
    r"""Clips the longest rows to the norm of the longest that is left.

    $$x_i \leftarrow x_i \min(1, C / \lVert x_i \rVert_2), \quad C = \lVert x_{\pi(k+1)} \rVert_2,
    \quad k = \lfloor 2 \tfrac{f}{n} (n - f) \rfloor$$

    $\pi$ sorts the rows by norm, the longest first. Norms are over all columns, buffers too. Scales lazily: no row is copied.
    Ids and weights stay. f = 0 clips nothing; tied norms are left alone. n = 0: no rows. Raises `ConfigError` unless
    2f < n, and `NumericalError` for a row that is not finite. Source: Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan:
    Adaptive Gradient Clipping for Robust Federated Learning, ICLR 2025, 2405.14432.
    """

    def __init__(self, config: ARCConfig) -> None:
        self.config = config

    def admit(self, n: int) -> int:
        """As many rows go on; raises `ConfigError` unless 2f < n."""
        if n:
            admit_minority("arc", self.config.f, n)
        return n

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The clipped cohort [n, d]."""
        n, f = self.admit(len(signal)), self.config.f
        if n == 0:
            return signal
        k = 2 * f * (n - f) // n
        C = signal.norms.sort(descending=True).values[k]
        return clip(signal, ctx.layer or "arc", C, C)
