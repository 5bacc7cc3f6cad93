"""Declares the attacks of this distribution; the others stand in the modules `plugin_*` beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from sparring.hookspecs import hookimpl
from sparring.specs import AnySpec, AttackSpec, Reader
from sparring_inversion.options import (
    ADAM_ITERATIONS,
    ADAM_STEP,
    FURTHER_STARTS,
    HISTORY,
    INIT,
    MOMENTUM,
    QUASI_NEWTON_ITERATIONS,
    STARTS,
    STEP,
    TV,
    Init,
    InversionConfig,
    needs,
    tap,
)
from sparring_inversion.plugin_analytic import ANALYTIC, R_GAP
from sparring_inversion.plugin_matching import MATCHING
from sparring_inversion.plugin_priors import PRIORS
from sparring_inversion.plugin_records import RECORDS
from sparring_inversion.plugin_steps import FEDAVG_INVERSION

if TYPE_CHECKING:
    from sparring_inversion.dlg import Dlg
    from sparring_inversion.inverting_gradients import InvertingGradients


class InvertingGradientsConfig(InversionConfig):
    """Configuration of `inverting-gradients`."""

    iterations: int = ADAM_ITERATIONS
    restarts: int = STARTS
    tv: float = TV
    lr: float = ADAM_STEP
    momentum: float = MOMENTUM
    init: Init = INIT
    compiled: bool = Field(
        False, description="compile the second derivative first: some 15 s and more, then more iterations a second"
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
    return (INVERTING_GRADIENTS, DLG, *MATCHING, FEDAVG_INVERSION, *PRIORS, *RECORDS, ANALYTIC, R_GAP)
