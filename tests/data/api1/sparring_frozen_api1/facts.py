"""A fact of this distribution's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparring.facts import Guarantee


@dataclass(frozen=True)
class OnGrid(Guarantee):
    """Every parameter of a row is a multiple of ``step``; ``among`` is stamped by core, as that of `Clipped`."""

    rounding: Literal["nearest", "towards-zero"] | None = None
    among: Literal["honest", "all"] | None = None
    step: float | None = None
