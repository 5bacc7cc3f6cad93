"""Model poisoning: clients that send false updates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.facts import (
    Clipped,
    Controls,
    Identified,
    Knows,
    PerExample,
    PoissonSampled,
    Sensitivity,
    Space,
    Summable,
    Weighted,
)
from sparring.hookspecs import hookimpl
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AnySpec, AttackSpec, Config, Layer
from sparring_poisoning.plugin_data import DATA_ATTACKS

if TYPE_CHECKING:
    from sparring_poisoning.alie import ALIE
    from sparring_poisoning.sign_flip import SignFlip


class SignFlipConfig(Config):
    """Configuration of `sign-flip`."""

    scale: float = Field(1.0, gt=0, le=1e6, description="factor c: each of its clients sends -c times its own update")


class ALIEConfig(Config):
    """Configuration of `alie`."""

    z: float | None = Field(
        None, ge=-1e3, le=1e3, description="standard deviations below the mean; default: z_max of the paper, from n and m"
    )
    knowledge: Literal["own", "benign"] = Field(
        "own",
        description="whose updates give mean and deviation: its own clients' (as in the paper), or the benign ones' "
        "(needs `knows: [benign-updates]`)",
    )


def _sign_flip(config: SignFlipConfig) -> SignFlip:
    from sparring_poisoning.sign_flip import SignFlip

    return SignFlip(config)


def _alie(config: ALIEConfig) -> ALIE:
    from sparring_poisoning.alie import ALIE

    return ALIE(config)


HOLDS = Controls("client", "update")
ROWS = (Summable(), Identified(), Weighted(), Space(), PerExample(), PoissonSampled(), Clipped(among="honest"))
"""What stays true of a cohort in which some rows are lies: the wire format, and what was said of honest rows alone."""

SIGN_FLIP = AttackSpec(
    api=1,
    name="sign-flip",
    config=SignFlipConfig,
    summary="compromised clients send their own update with its sign flipped and scaled",
    game="poisoning",
    layers=(Layer(site=Site.UPDATE, build=_sign_flip, signature=Signature(needs=(HOLDS,), keeps=(*ROWS, Sensitivity()))),),
)
ALIE_SPEC = AttackSpec(
    api=1,
    name="alie",
    config=ALIEConfig,
    summary="A Little Is Enough: compromised clients send the mean less z standard deviations, within the honest spread",
    game="poisoning",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_alie,
            signature=lambda config: (
                Signature(needs=(HOLDS,), keeps=(*ROWS, Sensitivity()))
                if config.knowledge == "own"
                else Signature(needs=(HOLDS, Knows("benign-updates")), keeps=ROWS)
            ),
        ),
    ),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The attacks of this distribution."""
    return (SIGN_FLIP, ALIE_SPEC, *DATA_ATTACKS)
