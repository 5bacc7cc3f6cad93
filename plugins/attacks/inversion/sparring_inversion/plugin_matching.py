"""Declares cpl and gradinversion: gradient matching with more than the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.facts import Knows
from sparring.signature import ALL, Signature
from sparring.specs import AttackSpec, Reader
from sparring_inversion.options import FURTHER_STARTS, HISTORY, QUASI_NEWTON_ITERATIONS, STEP, InversionConfig, needs, tap

if TYPE_CHECKING:
    from sparring_inversion.cpl import Cpl
    from sparring_inversion.gradinversion import GradInversion


class CplConfig(InversionConfig):
    """Configuration of `cpl`."""

    iterations: int = QUASI_NEWTON_ITERATIONS
    restarts: int = FURTHER_STARTS
    lr: float = STEP
    history: int = HISTORY
    task: float = Field(1e-4, ge=0, le=100, description="weight alpha of the task loss of the reconstruction under its label")
    patch: int = Field(4, ge=1, le=64, description="side of the random patch that is tiled to make a start")


class GradInversionConfig(InversionConfig):
    """Configuration of `gradinversion`."""

    iterations: int = Field(1200, ge=1, le=100_000, description="steps of Adam")
    restarts: int = Field(2, ge=1, le=64, description="seeds per capture, which are kept consistent as a group")
    statistics: Literal["update", "running", "none"] = Field(
        "update",
        description="what BatchNorm's inputs are held to: the batch's statistics as the update gives them away (exact after "
        "one local step), the broadcast's running ones, or nothing",
    )
    tv: float = Field(1e-4, ge=0, le=10, description="weight of the total variation")
    l2: float = Field(1e-6, ge=0, le=10, description="weight of the squared norm")
    bn: float = Field(0.1, ge=0, le=100, description="weight of the distance to the BatchNorm statistics")
    noise: float = Field(0.0, ge=0, le=10, description="standard deviation of what each step adds, times its learning rate")
    group: float = Field(0.01, ge=0, le=100, description="weight of the distance to the mean over seeds")
    lr: float = Field(0.1, gt=0, le=1, description="largest learning rate of Adam: reached after a warm-up, then a cosine to 0")
    warmup: int = Field(50, ge=0, le=10_000, description="steps over which the learning rate rises")


def _gradinversion_needs(config: GradInversionConfig) -> Signature:
    # The number of local steps says what the change of running statistics is a sum of.
    own, settings = needs(config), Knows("local-settings")
    return own if config.statistics != "update" or settings in own.needs else own | Signature(needs=(settings,), keeps=ALL)


def _cpl(config: CplConfig) -> Cpl:
    from sparring_inversion.cpl import Cpl

    return Cpl(config)


def _gradinversion(config: GradInversionConfig) -> GradInversion:
    from sparring_inversion.gradinversion import GradInversion

    return GradInversion(config)


CPL = AttackSpec(
    api=1,
    name="cpl",
    config=CplConfig,
    summary="Client privacy leakage: L2 gradient matching with the task loss, from tiled patches, by L-BFGS (Wei et al. 2020).",
    game="reconstruction",
    reader=Reader(tap=tap, build=_cpl, signature=needs),
)
GRADINVERSION = AttackSpec(
    api=1,
    name="gradinversion",
    config=GradInversionConfig,
    summary="GradInversion: gradient matching with BatchNorm statistics, as a group of seeds (Yin et al. 2021).",
    game="reconstruction",
    reader=Reader(tap=tap, build=_gradinversion, signature=_gradinversion_needs),
)
MATCHING = (CPL, GRADINVERSION)
