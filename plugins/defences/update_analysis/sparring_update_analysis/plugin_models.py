"""Analyses that look at the model behind an update, at its history, or at clusters of updates; CRFL with its certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparring.claims import Heuristic
from sparring.facts import Identified, PerExample, PoissonSampled, Space, Summable
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AnySpec, DefenceSpec, Layer
from sparring_update_analysis.configs_models import (
    CRFLConfig,
    DeepSightConfig,
    FlameConfig,
    FLDetectorConfig,
    RFLBATConfig,
)
from sparring_update_analysis.signatures import SHRUNK, analysis

if TYPE_CHECKING:
    from sparring_update_analysis.crfl import CRFL
    from sparring_update_analysis.deepsight import DeepSight
    from sparring_update_analysis.flame import Flame, FlameNoise
    from sparring_update_analysis.fldetector import FLDetector
    from sparring_update_analysis.rflbat import RFLBAT


def _flame(config: FlameConfig) -> Flame:
    del config
    from sparring_update_analysis.flame import Flame

    return Flame()


def _flame_noise(config: FlameConfig) -> FlameNoise:
    from sparring_update_analysis.flame import FlameNoise

    return FlameNoise(config)


def _crfl(config: CRFLConfig) -> CRFL:
    from sparring_update_analysis.crfl import CRFL

    return CRFL(config)


def _fldetector(config: FLDetectorConfig) -> FLDetector:
    from sparring_update_analysis.fldetector import FLDetector

    return FLDetector(config)


def _deepsight(config: DeepSightConfig) -> DeepSight:
    from sparring_update_analysis.deepsight import DeepSight

    return DeepSight(config)


def _rflbat(config: RFLBATConfig) -> RFLBAT:
    from sparring_update_analysis.rflbat import RFLBAT

    return RFLBAT(config)


RELEASED = (PerExample(), PoissonSampled(), Space("real"), Summable())
"""What noise on the release leaves true."""

FLAME = DefenceSpec(
    api=1,
    name="flame",
    config=FlameConfig,
    summary="Keeps the tightest majority by cosine distance, shortens rows to the median norm, adds noise to the release",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_flame,
            signature=analysis("the tightest majority of directions is honest while most clients are", SHRUNK),
        ),
        Layer(
            site=Site.RELEASE,
            build=_flame_noise,
            signature=Signature(
                keeps=RELEASED,
                claims=(Heuristic("noise of lambda times the median norm drowns what is left of a backdoor"),),
            ),
        ),
    ),
)
CRFL_SPEC = DefenceSpec(
    api=1,
    name="crfl",
    config=CRFLConfig,
    summary="Clips the new global model to rho_t and adds noise in each round; votes of copies certify its predictions",
    layers=(
        Layer(
            site=Site.RELEASE,
            build=_crfl,
            signature=Signature(
                keeps=RELEASED,
                claims=(
                    Heuristic(
                        "the model is clipped to rho_t and noised in each round, so that `certificate.certify` bounds what a "
                        "displacement can change; with a server's learning rate of 1 and no momentum"
                    ),
                ),
            ),
        ),
    ),
)
FLDETECTOR = DefenceSpec(
    api=1,
    name="fldetector",
    config=FLDetectorConfig,
    summary="Predicts each update from the client's last one by L-BFGS; leaves out those that stay far from their predictions",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_fldetector,
            signature=analysis(
                "honest updates follow the global steps, those of attackers do not", SHRUNK, needs=(Identified(),)
            ),
        ),
    ),
)
DEEPSIGHT = DefenceSpec(
    api=1,
    name="deepsight",
    config=DeepSightConfig,
    summary="Clusters clients by output layers and by answers to random inputs; leaves out clusters of homogeneous data",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_deepsight,
            signature=analysis("backdoored clients train on few labels, and alike", SHRUNK),
        ),
    ),
)
RFLBAT_SPEC = DefenceSpec(
    api=1,
    name="rflbat",
    config=RFLBATConfig,
    summary="Filters outliers in the plane of principal components, then keeps the cluster whose updates are least alike",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_rflbat,
            signature=analysis("attackers' updates resemble each other more than honest ones do", SHRUNK),
        ),
    ),
)
OTHERS: tuple[AnySpec, ...] = (FLAME, CRFL_SPEC, FLDETECTOR, DEEPSIGHT, RFLBAT_SPEC)
