"""Declares the defences of this distribution: two on updates, three inside a client's training step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.claims import Heuristic
from sparring.facts import Clipped, Identified, PerExample, PoissonSampled, Space, Summable, Weighted
from sparring.hookspecs import hookimpl
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AnySpec, Config, DefenceSpec, Layer

if TYPE_CHECKING:
    from sparring_perturbation.gradient_pruning import GradientPruning
    from sparring_perturbation.gradient_quantisation import GradientQuantisation
    from sparring_perturbation.instahide import InstaHide
    from sparring_perturbation.mixup import Mixup
    from sparring_perturbation.soteria import Soteria

Per = Literal["tensor", "update"]


class GradientPruningConfig(Config):
    """Configuration of `gradient-pruning`."""

    fraction: float = Field(0.9, ge=0, lt=1, description="share p of the coordinates that are sent as 0, smallest first")
    per: Per = Field("update", description="what the share is taken of: the whole update, or each parameter tensor")


class GradientQuantisationConfig(Config):
    """Configuration of `gradient-quantisation`."""

    bits: int = Field(4, ge=1, le=16, description="bits b of a coordinate, its sign included")
    rounding: Literal["stochastic", "nearest"] = Field(
        "stochastic", description="to one of the two levels around a value at random, unbiased, or to the nearer one"
    )
    per: Per = Field("tensor", description="what shares a scale: each parameter tensor, or the whole update")


class SoteriaConfig(Config):
    """Configuration of `soteria`."""

    fraction: float = Field(
        0.6,
        gt=0,
        le=1,
        description="share of the representation, one component at least, that the classifier's gradient misses",
    )


class MixupConfig(Config):
    """Configuration of `mixup`."""

    k: int = Field(4, ge=2, le=6, description="examples of a batch that are mixed into one")
    limit: float = Field(0.65, ge=0.55, le=1, description="largest coefficient that an example may have in a mixture")


class InstaHideConfig(MixupConfig):
    """Configuration of `instahide`."""

    centre: float = Field(
        0.5, ge=-1e3, le=1e3, description="value that inputs are reflected at where a sign flips: .5 for images in [0, 1]"
    )


def _gradient_pruning(config: GradientPruningConfig) -> GradientPruning:
    from sparring_perturbation.gradient_pruning import GradientPruning

    return GradientPruning(config)


def _gradient_quantisation(config: GradientQuantisationConfig) -> GradientQuantisation:
    from sparring_perturbation.gradient_quantisation import GradientQuantisation

    return GradientQuantisation(config)


def _soteria(config: SoteriaConfig) -> Soteria:
    from sparring_perturbation.soteria import Soteria

    return Soteria(config)


def _mixup(config: MixupConfig) -> Mixup:
    from sparring_perturbation.mixup import Mixup

    return Mixup(config)


def _instahide(config: InstaHideConfig) -> InstaHide:
    from sparring_perturbation.instahide import InstaHide

    return InstaHide(config)


ROWS = (Summable(), Identified(), Weighted(), Space("real"), PoissonSampled())
"""What a change of single coordinates leaves true."""
MIXED = (PoissonSampled("client"),)
"""What mixing the examples of a batch leaves true: examples neither stay apart nor enter by themselves."""

GRADIENT_PRUNING = DefenceSpec(
    api=1,
    name="gradient-pruning",
    config=GradientPruningConfig,
    summary="Clients send the coordinates of largest magnitude, the others as 0; matching the mask undoes most of it",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_gradient_pruning,
            signature=Signature(
                needs=(Space("real"),),
                keeps=(*ROWS, Clipped(unit="client")),
                claims=(Heuristic("coordinates near 0 are missing from what is inverted; the others are sent as they are"),),
            ),
        ),
    ),
)
GRADIENT_QUANTISATION = DefenceSpec(
    api=1,
    name="gradient-quantisation",
    config=GradientQuantisationConfig,
    summary="Clients round their updates to b bits a coordinate, at random without bias (QSGD) or to the nearest level",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_gradient_quantisation,
            signature=Signature(
                needs=(Space("real"),),
                keeps=(*ROWS, Clipped("linf", "client")),
                claims=(Heuristic("what is inverted is off by rounding errors of up to one level a coordinate"),),
            ),
        ),
    ),
)
SOTERIA = DefenceSpec(
    api=1,
    name="soteria",
    config=SoteriaConfig,
    summary="The classifier's weight gradient sees a representation without its most telling part; other layers tell all",
    layers=(
        Layer(
            site=Site.LOSS,
            build=_soteria,
            acts="always",
            signature=Signature(
                keeps=(PerExample(), PoissonSampled()),
                claims=(
                    Heuristic(
                        "the representation that one layer's gradient shows is far, in inputs, from the true one; "
                        "the gradients of all other layers are as they were"
                    ),
                ),
            ),
        ),
    ),
)
MIXUP = DefenceSpec(
    api=1,
    name="mixup",
    config=MixupConfig,
    summary="Clients train on weighted means of k examples of a batch, and of their losses; no secret but the coefficients",
    layers=(
        Layer(
            site=Site.BATCH,
            build=_mixup,
            acts="always",
            signature=Signature(
                keeps=MIXED,
                claims=(Heuristic("gradients show mixtures; whoever knows or guesses the coefficients solves for the inputs"),),
            ),
        ),
    ),
)
INSTAHIDE = DefenceSpec(
    api=1,
    name="instahide",
    config=InstaHideConfig,
    summary="Mixup, and a random sign for each pixel of a mixture (within the client); broken by absolute values",
    layers=(
        Layer(
            site=Site.BATCH,
            build=_instahide,
            acts="always",
            signature=Signature(
                keeps=MIXED,
                claims=(
                    Heuristic(
                        "gradients show mixtures with random signs; the absolute value removes these, and mixtures decode "
                        "(Carlini et al., S&P 2021)"
                    ),
                ),
            ),
        ),
    ),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (GRADIENT_PRUNING, GRADIENT_QUANTISATION, SOTERIA, MIXUP, INSTAHIDE)
