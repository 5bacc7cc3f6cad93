"""Aggregation rules: the weighted mean, and three that bear some Byzantine clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from sparring.claims import Heuristic
from sparring.defaults import MEAN as WEIGHTED_MEAN
from sparring.facts import PerExample, PoissonSampled, Readable, Space
from sparring.hookspecs import hookimpl
from sparring.signature import Signature
from sparring.specs import AggregatorSpec, AnySpec, Config, Empty
from sparring_aggregation.plugin_clients import CLIENTS
from sparring_aggregation.plugin_pre import PRE
from sparring_aggregation.plugin_selection import SELECTION

if TYPE_CHECKING:
    from sparring.aggregate import WeightedMean
    from sparring_aggregation.krum import Krum
    from sparring_aggregation.median import Median
    from sparring_aggregation.trimmed_mean import TrimmedMean


class TrimmedMeanConfig(Config):
    """Configuration of `trimmed-mean`."""

    f: int = Field(1, ge=0, le=1_000_000, description="values dropped at each end of a coordinate; 2f < n")
    beta: float | None = Field(
        None, ge=0, lt=0.5, description="in place of f: the share of the cohort dropped at each end, rounded down"
    )

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


def _median(config: Empty) -> Median:
    del config
    from sparring_aggregation.median import Median

    return Median()


def _trimmed_mean(config: TrimmedMeanConfig) -> TrimmedMean:
    from sparring_aggregation.trimmed_mean import TrimmedMean

    return TrimmedMean(config)


def _krum(config: KrumConfig) -> Krum:
    from sparring_aggregation.krum import Krum

    return Krum(config)


SAMPLING = (PerExample(), PoissonSampled())
"""What no rule over rows can change: how examples enter a loss, and how units enter a round."""


def _robust(reason: str) -> Signature:
    return Signature(
        needs=(Readable("aggregator", "update", "client"), Space("real")),
        keeps=(*SAMPLING, Space("real")),
        claims=(Heuristic(reason),),
    )


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
    config=Empty,
    summary="coordinate-wise median: bears fewer than half of the clients being Byzantine; ignores weights",
    build=_median,
    signature=_robust("each coordinate lies within the range of honest updates while 2f < n"),
)
TRIMMED_MEAN = AggregatorSpec(
    api=1,
    name="trimmed-mean",
    config=TrimmedMeanConfig,
    summary="coordinate-wise mean without the f smallest and f largest values; ignores weights",
    build=_trimmed_mean,
    signature=lambda config: _robust(
        "each coordinate lies within the range of honest updates while at most "
        + (f"f = {config.f}" if config.beta is None else f"a share beta = {config.beta:g}, rounded down,")
        + " of the clients are Byzantine"
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
    return (MEAN, MEDIAN, TRIMMED_MEAN, KRUM, *SELECTION, *PRE, *CLIENTS)
