"""What this distribution offers: analyses of updates that judge clients, and filter, bound or weigh their rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sparring.claims import Heuristic
from sparring.defaults import MEAN
from sparring.facts import Clipped, Identified, Judged, PerExample, PoissonSampled, PublicData, Space, Summable
from sparring.hookspecs import hookimpl
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AggregatorSpec, AnySpec, DefenceSpec, Layer
from sparring_update_analysis.configs import (
    ClippedClusteringConfig,
    DnCConfig,
    FLTrustConfig,
    FoolsGoldConfig,
    NormBoundConfig,
    ReputationConfig,
    RLRConfig,
    SattlerClusteringConfig,
    SignGuardConfig,
)
from sparring_update_analysis.plugin_models import OTHERS
from sparring_update_analysis.signatures import BOUNDED, READS, SCALED, SHRUNK, analysis

if TYPE_CHECKING:
    from sparring_update_analysis.clipped_clustering import ClippedClustering
    from sparring_update_analysis.dnc import DivideAndConquer
    from sparring_update_analysis.fltrust import FLTrust
    from sparring_update_analysis.foolsgold import FoolsGold
    from sparring_update_analysis.norm_bound import NormBound
    from sparring_update_analysis.reputation import Reputation
    from sparring_update_analysis.rlr import RobustLearningRate
    from sparring_update_analysis.sattler_clustering import SattlerClustering
    from sparring_update_analysis.signguard import SignGuard


def _norm_bound(config: NormBoundConfig) -> NormBound:
    from sparring_update_analysis.norm_bound import NormBound

    return NormBound(config)


def _foolsgold(config: FoolsGoldConfig) -> FoolsGold:
    from sparring_update_analysis.foolsgold import FoolsGold

    return FoolsGold(config)


def _fltrust(config: FLTrustConfig) -> FLTrust:
    from sparring_update_analysis.fltrust import FLTrust

    return FLTrust(config)


def _dnc(config: DnCConfig) -> DivideAndConquer:
    from sparring_update_analysis.dnc import DivideAndConquer

    return DivideAndConquer(config)


def _signguard(config: SignGuardConfig) -> SignGuard:
    from sparring_update_analysis.signguard import SignGuard

    return SignGuard(config)


def _sattler_clustering(config: SattlerClusteringConfig) -> SattlerClustering:
    from sparring_update_analysis.sattler_clustering import SattlerClustering

    return SattlerClustering(config)


def _clipped_clustering(config: ClippedClusteringConfig) -> ClippedClustering:
    from sparring_update_analysis.clipped_clustering import ClippedClustering

    return ClippedClustering(config)


def _reputation(config: ReputationConfig) -> Reputation:
    from sparring_update_analysis.reputation import Reputation

    return Reputation(config)


def _rlr(config: RLRConfig) -> RobustLearningRate:
    from sparring_update_analysis.rlr import RobustLearningRate

    return RobustLearningRate(config)


def _bounded(config: NormBoundConfig) -> Signature:
    reason = "no client moves the mean by more than its share of the bound; a backdoor within the bound passes"
    if config.bound is None:
        return analysis(reason, BOUNDED)
    return analysis(reason, BOUNDED, needs=(Identified(),), gives=(Clipped("l2", "client", bound=config.bound),))


def _alike(config: FoolsGoldConfig) -> Signature:
    reason = "clients that pursue one goal send updates more alike than honest ones, whose data differ; a lone attacker passes"
    return analysis(reason, SHRUNK if config.exclude else SCALED, needs=(Identified(),))


def _trusted(config: FLTrustConfig) -> Signature:
    reason = "an update that points away from the server's own counts for nothing, and none is longer; root data must be clean"
    return analysis(reason, SHRUNK if config.exclude else SCALED, needs=(PublicData(),))


def _spectral(config: DnCConfig) -> Signature:
    reason = f"at most f = {config.f} clients shift the mean along one direction, in which they are outliers"
    return analysis(reason, BOUNDED if config.iterations == 1 else SHRUNK)


NORM_BOUND = DefenceSpec(
    api=1,
    name="norm-bound",
    config=NormBoundConfig,
    summary="Scales each row to at most M, a number or the cohort's median norm, and judges clients by their norms",
    layers=(Layer(site=Site.COHORT, build=_norm_bound, signature=_bounded),),
)
FOOLSGOLD = DefenceSpec(
    api=1,
    name="foolsgold",
    config=FoolsGoldConfig,
    summary="Weighs clients by how unlike one another their summed updates are; sybils that are alike get weight 0",
    layers=(Layer(site=Site.COHORT, build=_foolsgold, signature=_alike),),
)
FLTRUST = DefenceSpec(
    api=1,
    name="fltrust",
    config=FLTrustConfig,
    summary="Scales rows to the server's own update on public root data, and weighs them by their cosine with it",
    layers=(Layer(site=Site.COHORT, build=_fltrust, signature=_trusted),),
)
DNC = DefenceSpec(
    api=1,
    name="dnc",
    config=DnCConfig,
    summary="Divide and conquer: leaves out the rows with the largest projections on the top singular vector of random columns",
    layers=(Layer(site=Site.COHORT, build=_dnc, signature=_spectral),),
)
SIGNGUARD = DefenceSpec(
    api=1,
    name="signguard",
    config=SignGuardConfig,
    summary="Leaves out rows of odd norm or odd fractions of signs, and clips the rest to the median norm",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_signguard,
            signature=analysis("what harms the model changes the signs or the norms of updates; honest clients agree", SHRUNK),
        ),
    ),
)
SATTLER_CLUSTERING = DefenceSpec(
    api=1,
    name="sattler-clustering",
    config=SattlerClusteringConfig,
    summary="Clustered federated learning as a filter: of two clusters by cosine the larger stays",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_sattler_clustering,
            signature=analysis("honest clients, the majority, are nearer to one another in direction than others", BOUNDED),
        ),
    ),
)
CLIPPED_CLUSTERING = DefenceSpec(
    api=1,
    name="clipped-clustering",
    config=ClippedClusteringConfig,
    summary="Clips rows to the median of all norms so far; of two clusters by average cosine distance the larger stays",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_clipped_clustering,
            signature=analysis("honest clients, the majority, point more alike than others, and no row is long", SHRUNK),
        ),
    ),
)
REPUTATION = DefenceSpec(
    api=1,
    name="reputation",
    config=ReputationConfig,
    summary="One record per client over all rounds, fed by the verdicts of analyses before it; below a floor it is left out",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_reputation,
            signature=analysis(
                "whom analyses flag in round after round is left out in rounds in which they are fooled",
                SHRUNK,
                needs=(Identified(), Judged()),
            ),
        ),
    ),
)
RLR = AggregatorSpec(
    api=1,
    name="rlr",
    config=RLRConfig,
    summary="robust learning rate: the weighted mean, negated in coordinates on whose sign the clients do not agree",
    build=_rlr,
    signature=lambda config: Signature(
        needs=(*READS, Summable()),
        keeps=(PerExample(), PoissonSampled(), Space("real"), Summable()),
        maps=MEAN.maps,
        claims=(Heuristic(f"where fewer than theta = {config.theta} more clients pull one way, a step goes back"),),
    ),
)
OWN: tuple[AnySpec, ...] = (
    NORM_BOUND,
    FOOLSGOLD,
    FLTRUST,
    DNC,
    SIGNGUARD,
    SATTLER_CLUSTERING,
    CLIPPED_CLUSTERING,
    REPUTATION,
    RLR,
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (*OWN, *OTHERS)
