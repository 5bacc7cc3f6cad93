"""Pre-aggregators: layers over the cohort that mix or rescale its rows before a rule sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparring.claims import Heuristic
from sparring.facts import Clipped, Identified, PerExample, PoissonSampled, Readable, Space, Summable, Weighted
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AnySpec, Config, DefenceSpec, Layer

if TYPE_CHECKING:
    from sparring_aggregation.arc import AdaptiveClipping
    from sparring_aggregation.bucketing import Bucketing
    from sparring_aggregation.nnm import NearestNeighbourMixing
    from sparring_aggregation.static_clip import StaticClip


class NNMConfig(Config):
    """Configuration of `nnm`."""

    f: int = Field(1, ge=0, le=1_000_000, description="Byzantine clients that the rule behind it must bear; 2f < n")


class BucketingConfig(Config):
    """Configuration of `bucketing`."""

    s: int = Field(2, ge=1, le=1_000_000, description="rows averaged in a bucket; a rule that bears f of n/s rows follows it")


class StaticClipConfig(Config):
    """Configuration of `static-clip`."""

    bound: float = Field(1.0, ge=1e-6, le=1e6, description="largest L2 norm C of a client's row")


class ARCConfig(Config):
    """Configuration of `arc`."""

    f: int = Field(1, ge=0, le=1_000_000, description="Byzantine clients; the floor(2f (n - f) / n) longest rows are clipped")


def _nnm(config: NNMConfig) -> NearestNeighbourMixing:
    from sparring_aggregation.nnm import NearestNeighbourMixing

    return NearestNeighbourMixing(config)


def _bucketing(config: BucketingConfig) -> Bucketing:
    from sparring_aggregation.bucketing import Bucketing

    return Bucketing(config)


def _static_clip(config: StaticClipConfig) -> StaticClip:
    from sparring_aggregation.static_clip import StaticClip

    return StaticClip(config)


def _arc(config: ARCConfig) -> AdaptiveClipping:
    from sparring_aggregation.arc import AdaptiveClipping

    return AdaptiveClipping(config)


READS = (Readable("aggregator", "update", "client"), Space("real"))
"""What a layer needs that compares rows or measures them."""
MIXED = (PerExample(), PoissonSampled(), Space("real"), Summable())
"""What averaging rows leaves true: a row is no client's any more, no weight belongs to it, and a client stands in several."""
RESCALED = (*MIXED, Identified(), Weighted())
"""What scaling each row leaves true: it stays with its client and its weight."""

NNM = DefenceSpec(
    api=1,
    name="nnm",
    config=NNMConfig,
    summary="Nearest-neighbour mixing: each row becomes the mean of its n - f nearest, itself among them",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_nnm,
            signature=lambda c: Signature(
                needs=READS,
                keeps=MIXED,
                claims=(
                    Heuristic(
                        "rows move towards one another, so that a robust rule behind it errs less where honest updates differ, "
                        f"while at most f = {c.f} clients are Byzantine and 2f < n"
                    ),
                ),
            ),
        ),
    ),
)
BUCKETING = DefenceSpec(
    api=1,
    name="bucketing",
    config=BucketingConfig,
    summary="Averages the rows of random buckets of s clients, and hands on the n/s means",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_bucketing,
            signature=Signature(
                needs=(Space("real"),),
                keeps=MIXED,
                claims=(
                    Heuristic(
                        "means of random buckets differ less than honest updates; f Byzantine clients spoil f of them at most"
                    ),
                ),
            ),
        ),
    ),
)
STATIC_CLIP = DefenceSpec(
    api=1,
    name="static-clip",
    config=StaticClipConfig,
    summary="Scales each client's row to an L2 norm of at most C at the server, whatever the client did",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_static_clip,
            signature=lambda c: Signature(
                needs=(*READS, Identified()),
                gives=(Clipped("l2", "client", bound=c.bound),),
                keeps=(*RESCALED, Clipped(unit="client")),
            ),
        ),
    ),
)
ARC = DefenceSpec(
    api=1,
    name="arc",
    config=ARCConfig,
    summary="Adaptive robust clipping: the floor(2f (n - f) / n) longest rows are clipped to the norm of the next",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_arc,
            signature=lambda c: Signature(
                needs=READS,
                keeps=RESCALED,
                claims=(
                    Heuristic(
                        "no row stays longer than some honest one, without a bound to be chosen, while at most "
                        f"f = {c.f} clients are Byzantine and 2f < n"
                    ),
                ),
            ),
        ),
    ),
)
PRE: tuple[AnySpec, ...] = (NNM, BUCKETING, STATIC_CLIP, ARC)
