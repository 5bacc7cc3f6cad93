"""Declares cpl: gradient matching with more than the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparring.specs import AttackSpec, Reader
from sparring_inversion.options import FURTHER_STARTS, HISTORY, QUASI_NEWTON_ITERATIONS, STEP, InversionConfig, needs, tap

if TYPE_CHECKING:
    from sparring_inversion.cpl import Cpl


class CplConfig(InversionConfig):
    """Configuration of `cpl`."""

    iterations: int = QUASI_NEWTON_ITERATIONS
    restarts: int = FURTHER_STARTS
    lr: float = STEP
    history: int = HISTORY
    task: float = Field(1e-4, ge=0, le=100, description="weight alpha of the task loss of the reconstruction under its label")
    patch: int = Field(4, ge=1, le=64, description="side of the random patch that is tiled to make a start")


def _cpl(config: CplConfig) -> Cpl:
    from sparring_inversion.cpl import Cpl

    return Cpl(config)


CPL = AttackSpec(
    api=1,
    name="cpl",
    config=CplConfig,
    summary="Client privacy leakage: L2 gradient matching with the task loss, from tiled patches, by L-BFGS (Wei et al. 2020).",
    game="reconstruction",
    reader=Reader(tap=tap, build=_cpl, signature=needs),
)
MATCHING = (CPL,)
