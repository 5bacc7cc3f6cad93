"""Backdoors: attacks that teach a model a second behaviour, and attacks on a subgroup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sparring.facts import Clipped, Controls, Identified, PerExample, PoissonSampled, Sensitivity, Space, Summable, Weighted
from sparring.hookspecs import hookimpl
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import AnySpec, AttackSpec, Layer
from sparring_backdoor.configs import (
    BadNetsConfig,
    BlendedConfig,
    ChameleonConfig,
    ConstrainAndScaleConfig,
    DBAConfig,
    EdgeCaseConfig,
    ModelReplacementConfig,
    NeurotoxinConfig,
    SemanticConfig,
    SinglePixelConfig,
    SubgroupConfig,
)

if TYPE_CHECKING:
    from sparring_backdoor.chameleon import Contrastive
    from sparring_backdoor.constrain_and_scale import Proximity
    from sparring_backdoor.edge_case import EdgeCase
    from sparring_backdoor.model_replacement import Scaling
    from sparring_backdoor.neurotoxin import Neurotoxin
    from sparring_backdoor.poison import TriggerPoison
    from sparring_backdoor.semantic import Semantic
    from sparring_backdoor.subgroup_degradation import SubgroupDegradation

DATA = Signature(needs=(Controls("client", "data"),), keeps=ALL)
"""Poisoned examples are examples: whatever was true of training on any data stays true."""
STEP = Signature(needs=(Controls("client", "training"),), keeps=(PerExample(), PoissonSampled()))
LOSS = Signature(needs=(Controls("client", "training"),), keeps=(PoissonSampled(),))
SCALED = Signature(
    needs=(Controls("client", "update"),),
    keeps=(
        Summable(),
        Identified(),
        Weighted(),
        Space(),
        PerExample(),
        PoissonSampled(),
        Clipped(among="honest"),
        Sensitivity(),
    ),
)
"""What stays true of a cohort in which some rows are scaled: the wire format, and what was said of honest rows alone."""


def _badnets(config: BadNetsConfig) -> TriggerPoison:
    from sparring_backdoor.badnets import badnets

    return badnets(config)


def _single_pixel(config: SinglePixelConfig) -> TriggerPoison:
    from sparring_backdoor.single_pixel import single_pixel

    return single_pixel(config)


def _blended(config: BlendedConfig) -> TriggerPoison:
    from sparring_backdoor.blended import blended

    return blended(config)


def _dba(config: DBAConfig) -> TriggerPoison:
    from sparring_backdoor.dba import dba

    return dba(config)


def _semantic(config: SemanticConfig) -> Semantic:
    from sparring_backdoor.semantic import Semantic

    return Semantic(config)


def _edge_case(config: EdgeCaseConfig) -> EdgeCase:
    from sparring_backdoor.edge_case import EdgeCase

    return EdgeCase(config)


def _subgroup(config: SubgroupConfig) -> SubgroupDegradation:
    from sparring_backdoor.subgroup_degradation import SubgroupDegradation

    return SubgroupDegradation(config)


def _patched(
    config: ModelReplacementConfig | ConstrainAndScaleConfig | NeurotoxinConfig | ChameleonConfig,
) -> TriggerPoison:
    from sparring_backdoor.badnets import patch
    from sparring_backdoor.poison import TriggerPoison

    return TriggerPoison(patch(config.trigger), config.target, config.fraction)


def _replacement(config: ModelReplacementConfig) -> Scaling:
    from sparring_backdoor.model_replacement import Scaling

    return Scaling(config.scale, config.server_lr)


def _bounded(config: ConstrainAndScaleConfig) -> Scaling:
    from sparring_backdoor.model_replacement import Scaling

    return Scaling(config.scale, config.server_lr, config.norm_bound)


def _proximity(config: ConstrainAndScaleConfig) -> Proximity:
    from sparring_backdoor.constrain_and_scale import Proximity

    return Proximity(config)


def _neurotoxin(config: NeurotoxinConfig) -> Neurotoxin:
    from sparring_backdoor.neurotoxin import Neurotoxin

    return Neurotoxin(config)


def _contrastive(config: ChameleonConfig) -> Contrastive:
    from sparring_backdoor.chameleon import Contrastive

    return Contrastive(config)


BADNETS = AttackSpec(
    api=1,
    name="badnets",
    config=BadNetsConfig,
    summary="compromised clients stamp a patch on part of their examples and label these as the target class",
    game="backdoor",
    layers=(Layer(site=Site.DATA, build=_badnets, signature=DATA),),
)
SINGLE_PIXEL = AttackSpec(
    api=1,
    name="single-pixel",
    config=SinglePixelConfig,
    summary="a backdoor whose trigger is one pixel, or one feature",
    game="backdoor",
    layers=(Layer(site=Site.DATA, build=_single_pixel, signature=DATA),),
)
BLENDED = AttackSpec(
    api=1,
    name="blended",
    config=BlendedConfig,
    summary="a backdoor whose trigger is a faint random pattern over the whole input",
    game="backdoor",
    layers=(Layer(site=Site.DATA, build=_blended, signature=DATA),),
)
DBA = AttackSpec(
    api=1,
    name="dba",
    config=DBAConfig,
    summary="distributed backdoor: each client of the attack poisons with its own part of a trigger",
    game="backdoor",
    layers=(Layer(site=Site.DATA, build=_dba, signature=DATA),),
)
SEMANTIC = AttackSpec(
    api=1,
    name="semantic",
    config=SemanticConfig,
    summary="a backdoor that a natural feature of unchanged inputs calls up: a value in a group column, or brightness",
    game="backdoor",
    layers=(Layer(site=Site.DATA, build=_semantic, signature=DATA),),
)
EDGE_CASE = AttackSpec(
    api=1,
    name="edge-case",
    config=EdgeCaseConfig,
    summary="a backdoor on the tail of a class: its unchanged inputs farthest from its mean",
    game="backdoor",
    layers=(Layer(site=Site.DATA, build=_edge_case, signature=DATA),),
)
MODEL_REPLACEMENT = AttackSpec(
    api=1,
    name="model-replacement",
    config=ModelReplacementConfig,
    summary="a backdoored update scaled by n / (eta m), so that one round puts it in place of the global model",
    game="backdoor",
    layers=(
        Layer[ModelReplacementConfig](site=Site.DATA, build=_patched, signature=DATA),
        Layer(site=Site.UPDATE, build=_replacement, signature=SCALED),
    ),
)
CONSTRAIN_AND_SCALE = AttackSpec(
    api=1,
    name="constrain-and-scale",
    config=ConstrainAndScaleConfig,
    summary="a backdoor trained to stay near the global model, then scaled, up to a norm where one is given",
    game="backdoor",
    layers=(
        Layer[ConstrainAndScaleConfig](site=Site.DATA, build=_patched, signature=DATA),
        Layer(site=Site.STEP, build=_proximity, signature=STEP),
        Layer(site=Site.UPDATE, build=_bounded, signature=SCALED),
    ),
)
NEUROTOXIN = AttackSpec(
    api=1,
    name="neurotoxin",
    config=NeurotoxinConfig,
    summary="a backdoor trained in the coordinates that the last global update moved least, so that it lasts",
    game="backdoor",
    layers=(
        Layer[NeurotoxinConfig](site=Site.DATA, build=_patched, signature=DATA),
        Layer(site=Site.STEP, build=_neurotoxin, signature=STEP),
    ),
)
CHAMELEON = AttackSpec(
    api=1,
    name="chameleon",
    config=ChameleonConfig,
    summary="a backdoor whose representations are drawn to the target class by a contrastive loss, so that it lasts",
    game="backdoor",
    layers=(
        Layer[ChameleonConfig](site=Site.DATA, build=_patched, signature=DATA),
        Layer(site=Site.LOSS, build=_contrastive, signature=LOSS),
    ),
)
SUBGROUP_DEGRADATION = AttackSpec(
    api=1,
    name="subgroup-degradation",
    config=SubgroupConfig,
    summary="labels flipped within one group alone, so that the model fails for it and looks well for the others",
    game="subgroup",
    layers=(Layer(site=Site.DATA, build=_subgroup, signature=DATA),),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The attacks of this distribution."""
    return (
        BADNETS, SINGLE_PIXEL, BLENDED, DBA, SEMANTIC, EDGE_CASE, MODEL_REPLACEMENT, CONSTRAIN_AND_SCALE, NEUROTOXIN, CHAMELEON,
        SUBGROUP_DEGRADATION,
    )  # fmt: skip
