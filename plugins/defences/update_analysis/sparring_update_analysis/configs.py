"""Options of the techniques in `plugin`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sparring.specs import Config


class NormBoundConfig(Config):
    """Configuration of `norm-bound`."""

    bound: float | None = Field(
        None, ge=1e-6, le=1e6, description="largest L2 norm M of a row; default: the cohort's median norm times `factor`"
    )
    factor: float = Field(1.0, gt=0, le=1e3, description="M over the median norm of the cohort, where no bound is given")

    @model_validator(mode="after")
    def _one_of(self) -> NormBoundConfig:
        if self.bound is not None and self.factor != type(self).model_fields["factor"].default:
            raise ValueError(f"bound is {self.bound} and factor is {self.factor}; set one of them")
        return self


class FoolsGoldConfig(Config):
    """Configuration of `foolsgold`."""

    features: Literal["all", "output"] = Field(
        "all", description="columns that are compared: all parameters, or the output layer's (the paper's indicative features)"
    )
    exclude: bool = Field(
        False, description="leave out clients of weight 0 and touch no other weight, in place of weighing by trust"
    )


class FLTrustConfig(Config):
    """Configuration of `fltrust`."""

    root: int = Field(100, ge=20, le=1_000_000, description="root examples, evenly spaced in the public data (all, if fewer)")
    exclude: bool = Field(
        False, description="leave out clients of trust 0 and touch no other row or weight, in place of scaling and weighing"
    )


class DnCConfig(Config):
    """Configuration of `dnc`."""

    f: int = Field(1, ge=0, le=1_000_000, description="malicious clients m that it expects")
    c: float = Field(1.0, gt=0, le=10, description="filtering fraction: c m rows, rounded up, are left out in each iteration")
    coordinates: int = Field(10_000, ge=1, le=100_000_000, description="random columns b of an iteration (all, if fewer)")
    iterations: int = Field(1, ge=1, le=100, description="iterations; whoever any of them leaves out is left out")


class SignGuardConfig(Config):
    """Configuration of `signguard`."""

    lower: float = Field(0.1, ge=0, lt=1, description="least norm L of a row that passes, over the median norm")
    upper: float = Field(3.0, gt=1, le=1e6, description="largest norm R of a row that passes, over the median norm")
    share: float = Field(0.1, gt=0, le=1, description="share of the columns, drawn at random, whose signs are counted")


class SattlerClusteringConfig(Config):
    """Configuration of `sattler-clustering`."""

    gamma: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="gap below which nobody is left out: sqrt((1 - a) / 2) for the largest cosine a across the two clusters",
    )


class ClippedClusteringConfig(Config):
    """Configuration of `clipped-clustering`."""

    largest: float = Field(1e5, gt=0, le=1e30, description="bound on the historical median norm to which rows are clipped")


class ReputationConfig(Config):
    """Configuration of `reputation`."""

    memory: float = Field(0.8, ge=0, lt=1, description="weight b of the record when a round's verdicts are added to it")
    floor: float = Field(0.5, ge=0, le=1, description="reputation below which a client is left out")
    start: float = Field(1.0, ge=0, le=1, description="reputation of a client that was never judged before; at least the floor")

    @model_validator(mode="after")
    def _admits(self) -> ReputationConfig:
        if self.start < self.floor:
            raise ValueError(f"start is {self.start} and floor is {self.floor}; start must be at least floor, or nobody enters")
        return self


class RLRConfig(Config):
    """Configuration of `rlr`."""

    theta: int = Field(4, ge=1, le=1_000_000, description="least |sum of signs| of a coordinate that is not negated")
