"""Aggregation rules: the weighted mean, and others that bear some Byzantine clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from sparring.defaults import MEAN as WEIGHTED_MEAN
from sparring.hookspecs import hookimpl
from sparring.specs import AggregatorSpec, AnySpec, Config, Empty
from sparring_aggregation import declared
from sparring_aggregation.plugin_clients import CLIENTS
from sparring_aggregation.plugin_pre import PRE
from sparring_aggregation.plugin_selection import SELECTION
from sparring_aggregation.robust import robust as _robust

if TYPE_CHECKING:
    from sparring.aggregate import WeightedMean
    from sparring_aggregation.krum import Krum
    from sparring_aggregation.median import Median
    from sparring_aggregation.trimmed_mean import TrimmedMean


class MedianConfig(Config):
    """Configuration of `median`."""

    weighted: bool = Field(False, description="whether clients count by their weights, or alike")


class TrimmedMeanConfig(Config):
    """Configuration of `trimmed-mean`."""

    f: int = Field(1, ge=0, le=1_000_000, description="values dropped at each end of a coordinate; 2f < n")
    beta: float | None = Field(
        None, ge=0, lt=0.5, description="in place of f: the share of the cohort dropped at each end, rounded down"
    )
    weighted: bool = Field(False, description="whether f / n of the weight is dropped at each end, in place of f clients")

    @model_validator(mode="after")
    def _one_of(self) -> TrimmedMeanConfig:
        if self.beta is not None and self.f != type(self).model_fields["f"].default:
            raise ValueError(f"f is {self.f} and beta is {self.beta}; set one of them")
        return self


class KrumConfig(Config):
    """Configuration of `krum`."""

    f: int = Field(1, ge=0, le=1_000_000, description="Byzantine clients that it must bear; 2f + 2 < n")


def _mean(config: Empty) -> WeightedMean:
    del config
    from sparring.aggregate import WeightedMean

    return WeightedMean()


def _median(config: MedianConfig) -> Median:
    from sparring_aggregation.median import Median

    return Median(config)


def _trimmed_mean(config: TrimmedMeanConfig) -> TrimmedMean:
    from sparring_aggregation.trimmed_mean import TrimmedMean

    return TrimmedMean(config)


def _krum(config: KrumConfig) -> Krum:
    from sparring_aggregation.krum import Krum

    return Krum(config)


MEAN = AggregatorSpec(
    api=1,
    name="mean",
    config=Empty,
    summary="mean of updates, weighted by numbers of examples: federated averaging; one client can move it anywhere",
    build=_mean,
    signature=WEIGHTED_MEAN,
)
MEDIAN = AggregatorSpec(
    api=1,
    name="median",
    config=MedianConfig,
    summary="coordinate-wise median: bears fewer than half of the clients being Byzantine; ignores weights unless told",
    build=_median,
    signature=lambda config: _robust(
        "each coordinate lies within the range of honest updates while "
        + ("less than half of the weight is Byzantine" if config.weighted else "2f < n")
    ),
)
TRIMMED_MEAN = AggregatorSpec(
    api=1,
    name="trimmed-mean",
    config=TrimmedMeanConfig,
    summary="coordinate-wise mean without the f smallest and f largest values; ignores weights unless told",
    build=_trimmed_mean,
    signature=lambda config: _robust(
        "each coordinate lies within the range of honest updates while at most "
        + (f"f = {config.f}" if config.beta is None else f"a share beta = {config.beta:g}, rounded down,")
        + (" of the n clients, and f / n of the weight," if config.weighted else " of the clients")
        + " are Byzantine"
    ),
)
KRUM = AggregatorSpec(
    api=1,
    name="krum",
    config=KrumConfig,
    summary="the one update with the nearest n - f - 2 neighbours; ignores weights",
    build=_krum,
    signature=lambda config: _robust(
        f"the chosen update lies near n - f - 2 others while at most f = {config.f} clients are Byzantine and 2f + 2 < n"
    ),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The rules of this distribution."""
    return (MEAN, MEDIAN, TRIMMED_MEAN, KRUM, *declared.SPECS, *SELECTION, *PRE, *CLIENTS)
