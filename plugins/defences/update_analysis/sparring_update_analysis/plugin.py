"""What this distribution offers: analyses of updates that judge clients, and filter, bound or weigh their rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sparring.facts import Clipped, Identified
from sparring.hookspecs import hookimpl
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AnySpec, DefenceSpec, Layer
from sparring_update_analysis.configs import NormBoundConfig
from sparring_update_analysis.plugin_models import OTHERS
from sparring_update_analysis.signatures import SHRUNK, analysis

if TYPE_CHECKING:
    from sparring_update_analysis.norm_bound import NormBound


def _norm_bound(config: NormBoundConfig) -> NormBound:
    from sparring_update_analysis.norm_bound import NormBound

    return NormBound(config)


def _bounded(config: NormBoundConfig) -> Signature:
    reason = "no client moves the mean by more than its share of the bound; a backdoor within the bound passes"
    if config.bound is None:
        return analysis(reason, SHRUNK)
    return analysis(reason, SHRUNK, needs=(Identified(),), gives=(Clipped("l2", "client", bound=config.bound),))


NORM_BOUND = DefenceSpec(
    api=1,
    name="norm-bound",
    config=NormBoundConfig,
    summary="Scales each row to at most M, a number or the cohort's median norm, and judges clients by their norms",
    layers=(Layer(site=Site.COHORT, build=_norm_bound, signature=_bounded),),
)
OWN: tuple[AnySpec, ...] = (NORM_BOUND,)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (*OWN, *OTHERS)
