"""Declares the attacks of this distribution: inverting-gradients and dlg; those in closed form stand in `plugin_analytic`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sparring.facts import Knows
from sparring.hookspecs import hookimpl
from sparring.signature import ALL, Signature
from sparring.specs import AnySpec, AttackSpec, Config, Reader
from sparring.taps import Tap
from sparring_inversion.plugin_analytic import ANALYTIC, R_GAP

if TYPE_CHECKING:
    from sparring_inversion.dlg import Dlg
    from sparring_inversion.inverting_gradients import InvertingGradients

RoundIndex = Annotated[int, Field(ge=0, le=10**6)]


class InversionConfig(Config):
    """What every gradient inversion is told: which rounds it reads, and whence it has the labels."""

    rounds: tuple[RoundIndex, ...] = Field((0,), min_length=1, max_length=64, description="rounds whose updates are attacked")
    reads: Literal["update", "update-or-aggregate"] = Field(
        "update", description="single updates only, or sums of several where single ones are hidden (with little hope)"
    )
    labels: Literal["granted", "idlg"] = Field(
        "granted", description="labels: granted by the threat model, or recovered from the gradient of the last layer"
    )
    snapshots: int = Field(8, ge=0, le=64, description="intermediate reconstructions that are kept, at equal distances")


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

    iterations: int = Field(300, ge=1, le=10_000, description="steps of L-BFGS per start")
    restarts: int = Field(4, ge=0, le=64, description="further starts for captures whose optimisation diverged")
    lr: float = Field(1.0, gt=0, le=1, description="step length of L-BFGS")
    history: int = Field(100, ge=1, le=500, description="curvature pairs that L-BFGS keeps")


def _needs(config: InversionConfig) -> Signature:
    granted = (Knows("labels"),) if config.labels == "granted" else ()
    return Signature(needs=(Knows("architecture"), *granted), keeps=ALL)


def _tap(config: InversionConfig) -> Tap:
    return Tap(views=("update",) if config.reads == "update" else ("update", "aggregate"), rounds=config.rounds)


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
    reader=Reader(tap=_tap, build=_inverting_gradients, signature=_needs),
)
DLG = AttackSpec(
    api=1,
    name="dlg",
    config=DlgConfig,
    summary="Deep leakage from gradients: L2 gradient matching by L-BFGS (Zhu et al. 2019).",
    game="reconstruction",
    reader=Reader(tap=_tap, build=_dlg, signature=_needs),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (INVERTING_GRADIENTS, DLG, ANALYTIC, R_GAP)
