"""Declares the attacks of this distribution; others stand in `plugin_matching`, `plugin_records` and `plugin_analytic`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.hookspecs import hookimpl
from sparring.specs import AnySpec, AttackSpec, Reader
from sparring_inversion.options import FURTHER_STARTS, HISTORY, QUASI_NEWTON_ITERATIONS, STEP, InversionConfig, needs, tap
from sparring_inversion.plugin_analytic import ANALYTIC, R_GAP
from sparring_inversion.plugin_matching import MATCHING
from sparring_inversion.plugin_records import RECORDS

if TYPE_CHECKING:
    from sparring_inversion.dlg import Dlg
    from sparring_inversion.inverting_gradients import InvertingGradients


class InvertingGradientsConfig(InversionConfig):
    """Configuration of `inverting-gradients`."""

    iterations: int = Field(1200, ge=1, le=100_000, description="steps of Adam per restart")
    restarts: int = Field(2, ge=1, le=64, description="random starts per capture; the least final gradient loss wins")
    tv: float = Field(3e-3, ge=0, le=10, description="weight of the total variation of the reconstruction")
    lr: float = Field(0.05, gt=0, le=1, description="first learning rate; times .1 at 3/8, 5/8 and 7/8 of the iterations")
    momentum: float = Field(0.98, ge=0, lt=1, description="decay of Adam's mean of signs; .9 is the published recipe's")
    init: Literal["randn", "uniform", "grey"] = Field(
        "randn", description="start: N(0, 1) clamped to [0, 1], uniform on [0, 1], or grey (.5) up to 1e-2 of noise"
    )


class DlgConfig(InversionConfig):
    """Configuration of `dlg`."""

    iterations: int = QUASI_NEWTON_ITERATIONS
    restarts: int = FURTHER_STARTS
    lr: float = STEP
    history: int = HISTORY


def _inverting_gradients(config: InvertingGradientsConfig) -> InvertingGradients:
    from sparring_inversion.inverting_gradients import InvertingGradients

    return InvertingGradients(config)


def _dlg(config: DlgConfig) -> Dlg:
    from sparring_inversion.dlg import Dlg

    return Dlg(config)


INVERTING_GRADIENTS = AttackSpec(
    api=1,
    name="inverting-gradients",
    config=InvertingGradientsConfig,
    summary="Gradient inversion by cosine similarity and total variation, boxed, signed Adam (Geiping et al. 2020).",
    game="reconstruction",
    reader=Reader(tap=tap, build=_inverting_gradients, signature=needs),
)
DLG = AttackSpec(
    api=1,
    name="dlg",
    config=DlgConfig,
    summary="Deep leakage from gradients: L2 gradient matching by L-BFGS (Zhu et al. 2019).",
    game="reconstruction",
    reader=Reader(tap=tap, build=_dlg, signature=needs),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (INVERTING_GRADIENTS, DLG, *MATCHING, *RECORDS, ANALYTIC, R_GAP)
