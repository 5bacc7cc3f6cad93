"""What the rules in Gram space, and those around the median, declare. Light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparring.specs import AggregatorSpec, AnySpec, Config
from sparring_aggregation.robust import robust

if TYPE_CHECKING:
    from sparring_aggregation.bulyan import Bulyan
    from sparring_aggregation.centred_clipping import CentredClipping
    from sparring_aggregation.geometric_median import GeometricMedian
    from sparring_aggregation.meamed import Meamed
    from sparring_aggregation.multi_krum import MultiKrum


class MultiKrumConfig(Config):
    """Configuration of `multi-krum`."""

    f: int = Field(1, ge=0, le=1_000_000, description="Byzantine clients that it must bear; 2f + 2 < n")
    m: int | None = Field(None, ge=1, le=1_000_000, description="updates that are averaged; m <= n - f, which is the default")


class BulyanConfig(Config):
    """Configuration of `bulyan`."""

    f: int = Field(1, ge=0, le=1_000_000, description="Byzantine clients that it must bear; 4f + 3 <= n")


class GeometricMedianConfig(Config):
    """Configuration of `geometric-median`."""

    nu: float = Field(1e-6, gt=0, le=1e6, description="smoothing: distances count as at least this, in units of the updates")
    steps: int = Field(32, ge=1, le=10_000, description="Weiszfeld steps; they cost next to nothing")
    weighted: bool = Field(True, description="whether clients count by their weights, or alike")


class CentredClippingConfig(Config):
    """Configuration of `centred-clipping`."""

    tau: float = Field(10.0, gt=0, le=1e9, description="distance from the centre beyond which an update is clipped")
    steps: int = Field(1, ge=1, le=1000, description="steps of the centre in a round (the paper's l)")


class MeamedConfig(Config):
    """Configuration of `meamed`."""

    f: int = Field(1, ge=0, le=1_000_000, description="values left out of each coordinate; 2f < n")


def _multi_krum(config: MultiKrumConfig) -> MultiKrum:
    from sparring_aggregation.multi_krum import MultiKrum

    return MultiKrum(config)


def _bulyan(config: BulyanConfig) -> Bulyan:
    from sparring_aggregation.bulyan import Bulyan

    return Bulyan(config)


def _geometric_median(config: GeometricMedianConfig) -> GeometricMedian:
    from sparring_aggregation.geometric_median import GeometricMedian

    return GeometricMedian(config)


def _centred_clipping(config: CentredClippingConfig) -> CentredClipping:
    from sparring_aggregation.centred_clipping import CentredClipping

    return CentredClipping(config)


def _meamed(config: MeamedConfig) -> Meamed:
    from sparring_aggregation.meamed import Meamed

    return Meamed(config)


SPECS: tuple[AnySpec, ...] = (
    AggregatorSpec(
        api=1,
        name="multi-krum",
        config=MultiKrumConfig,
        summary="mean of the m = n - f updates with the nearest n - f - 2 neighbours; ignores weights",
        build=_multi_krum,
        signature=lambda config: robust(
            f"each averaged update lies near n - f - 2 others while at most f = {config.f} clients are Byzantine and 2f + 2 < n"
        ),
    ),
    AggregatorSpec(
        api=1,
        name="bulyan",
        config=BulyanConfig,
        summary="repeated choices by Krum, then the n - 4f chosen values closest to each coordinate's median; ignores weights",
        build=_bulyan,
        signature=lambda config: robust(
            f"each coordinate lies near honest ones while at most f = {config.f} clients are Byzantine and 4f + 3 <= n"
        ),
    ),
    AggregatorSpec(
        api=1,
        name="geometric-median",
        config=GeometricMedianConfig,
        summary="the point of least summed distance to the updates (RFA): bears less than half of the weight being Byzantine",
        build=_geometric_median,
        signature=lambda config: robust(
            "the release stays within a multiple of the spread of honest updates while Byzantine clients are fewer than half"
            + (", by weight" if config.weighted else "")
        ),
    ),
    AggregatorSpec(
        api=1,
        name="centred-clipping",
        config=CentredClippingConfig,
        summary="steps from the last release towards the updates, each clipped to a distance tau; ignores weights",
        build=_centred_clipping,
        signature=lambda config: robust(
            f"f of n Byzantine clients move the release by at most {2 * config.tau * config.steps:g} f / n in a round"
        ),
    ),
    AggregatorSpec(
        api=1,
        name="meamed",
        config=MeamedConfig,
        summary="mean of the n - f values of each coordinate closest to the median; ignores weights",
        build=_meamed,
        signature=lambda config: robust(
            f"each coordinate lies near honest ones while at most f = {config.f} clients are Byzantine and 2f < n"
        ),
    ),
)
