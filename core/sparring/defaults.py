"""What core offers itself, free of torch: the default trainer and rule by their signatures, and the engines by name."""

from __future__ import annotations

from sparring import registry
from sparring.errors import PluginError, did_you_mean
from sparring.facts import Clipped, Fact, Identified, PerExample, PoissonSampled, Sensitivity, Space, Summable, Weighted
from sparring.schema import File, validated
from sparring.signature import ALL, Map, Signature

ENGINES = ("auto", "sequential", "workers", "stacked")


def check_engine(file: File) -> None:
    """Raise where the engine is neither core's nor installed, or its options break their rules."""
    name, options = (file.engine, {}) if isinstance(file.engine, str) else (file.engine.name, file.engine.options)
    if name in ENGINES and not options:
        return
    installed = [entry.name for entry in registry.entries() if entry.kind == "engines"]
    if name not in installed and name not in registry.catalogue():
        raise PluginError(f"no engine '{name}' is installed; {did_you_mean(name, (*ENGINES, *installed))}")
    validated(registry.require(name, ("engines",))[0].config, options, "engine")


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
