"""Rules that average the clients that agree: around a trusted one, after filtering, or in the best subset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparring.claims import Heuristic
from sparring.facts import Guarantee, Identified, PerExample, PoissonSampled, Readable, Space
from sparring.signature import Signature
from sparring.specs import AggregatorSpec, AnySpec, Config

if TYPE_CHECKING:
    from sparring_aggregation.caf import CovarianceFilter
    from sparring_aggregation.mda import MinimumDiameter
    from sparring_aggregation.monna import MoNNA
    from sparring_aggregation.smea import SmallestEigenvalue


class MonnaConfig(Config):
    """Configuration of `monna`; whom to trust has no default."""

    f: int = Field(1, ge=0, le=1_000_000, description="Byzantine clients that it must bear; 2f < n")
    trusted: int = Field(ge=0, le=1_000_000_000, description="id of the client whose update is trusted, in every cohort")


class CAFConfig(Config):
    """Configuration of `caf`."""

    f: int = Field(1, ge=0, le=1_000_000, description="Byzantine clients that it must bear; 2f < n")


class MDAConfig(Config):
    """Configuration of `mda`."""

    f: int = Field(1, ge=0, le=1_000_000, description="Byzantine clients that it must bear; 2f < n, and at most 16")


class SMEAConfig(Config):
    """Configuration of `smea`."""

    f: int = Field(1, ge=0, le=1_000_000, description="Byzantine clients that it must bear; 2f < n, and at most 50,000 subsets")


def _monna(config: MonnaConfig) -> MoNNA:
    from sparring_aggregation.monna import MoNNA

    return MoNNA(config)


def _caf(config: CAFConfig) -> CovarianceFilter:
    from sparring_aggregation.caf import CovarianceFilter

    return CovarianceFilter(config)


def _mda(config: MDAConfig) -> MinimumDiameter:
    from sparring_aggregation.mda import MinimumDiameter

    return MinimumDiameter(config)


def _smea(config: SMEAConfig) -> SmallestEigenvalue:
    from sparring_aggregation.smea import SmallestEigenvalue

    return SmallestEigenvalue(config)


def _bears(f: int, reason: str, *needs: Guarantee) -> Signature:
    return Signature(
        needs=(Readable("aggregator", "update", "client"), Space("real"), *needs),
        keeps=(PerExample(), PoissonSampled(), Space("real")),
        claims=(Heuristic(f"{reason} while at most f = {f} clients are Byzantine and 2f < n"),),
    )


MONNA = AggregatorSpec(
    api=1,
    name="monna",
    config=MonnaConfig,
    summary="mean of the n - f updates nearest to that of a client named as trusted; ignores weights",
    build=_monna,
    signature=lambda c: _bears(
        c.f, f"every averaged update lies as near to client {c.trusted}, which is trusted, as some honest one", Identified()
    ),
)
CAF = AggregatorSpec(
    api=1,
    name="caf",
    config=CAFConfig,
    summary="weighted mean after filtering along top eigenvectors of the covariance, where the top eigenvalue was least",
    build=_caf,
    signature=lambda c: _bears(c.f, "what moves the mean far widens the covariance, and is filtered first"),
)
MDA = AggregatorSpec(
    api=1,
    name="mda",
    config=MDAConfig,
    summary="mean of the n - f updates of least diameter, found exactly; ignores weights",
    build=_mda,
    signature=lambda c: _bears(c.f, "the averaged updates lie no further apart than the honest ones"),
)
SMEA = AggregatorSpec(
    api=1,
    name="smea",
    config=SMEAConfig,
    summary="mean of the n - f updates whose covariance has the least top eigenvalue, found exactly; ignores weights",
    build=_smea,
    signature=lambda c: _bears(c.f, "in no direction do the averaged updates spread more than the honest ones"),
)
SELECTION: tuple[AnySpec, ...] = (MONNA, CAF, MDA, SMEA)
