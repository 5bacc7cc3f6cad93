"""What core does where an experiment names no trainer and no rule: the signatures of both, free of torch."""

from __future__ import annotations

from sparring.facts import Clipped, Fact, Identified, PerExample, PoissonSampled, Sensitivity, Space, Summable, Weighted
from sparring.schema import File
from sparring.signature import ALL, Map, Signature


def _sensitivity(fact: Fact) -> Fact:
    """Two weighted means of rows in the ball of radius C lie at most 2C apart, whatever n and the weights are."""
    bound = fact.bound if isinstance(fact, Clipped) else None
    return Sensitivity("client", None if bound is None else 2 * bound)


MEAN = Signature(
    needs=(Summable(),),
    keeps=(PerExample(), PoissonSampled(), Space(), Summable(), Weighted()),
    maps=(Map(Clipped("l2", "client"), Sensitivity("client"), _sensitivity),),
)
"""The weighted mean reads no single update."""


def averaging(file: File) -> Signature:
    """What federated averaging gives of a file's federation."""
    gives: list[Fact] = [Summable(), Space("real")]
    if file.federation.weighting == "examples":
        gives.append(Weighted())
    if not file.threat_model.anonymous:
        gives.append(Identified())
    return Signature(gives=tuple(gives), keeps=ALL)
