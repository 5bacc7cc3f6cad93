"""What this distribution offers: clipping, Gaussian noise, DP-SGD, and three accountants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.claims import Formal
from sparring.facts import Clipped, Identified, PerExample, PoissonSampled, Space, Summable, Weighted
from sparring.hookspecs import hookimpl
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AccountantSpec, AnySpec, Config, DefenceSpec, Empty, Layer

if TYPE_CHECKING:
    from sparring_dp.dp_sgd import PoissonLots, PrivateGradients
    from sparring_dp.gauss_noise import GaussNoise
    from sparring_dp.norm_clip import NormClip
    from sparring_dp.prv import PRV
    from sparring_dp.rdp import RDP
    from sparring_dp.rdp_opacus import OpacusRDP


class NormClipConfig(Config):
    """Configuration of `norm-clip`."""

    bound: float = Field(1.0, ge=1e-6, le=1e6, description="largest L2 norm C of a client's update")


class GaussNoiseConfig(Config):
    """Configuration of `gauss-noise`."""

    noise_multiplier: float = Field(
        1.0, ge=1e-3, le=1e4, description="standard deviation of the noise over the clipping bound C that holds before it"
    )


class DPSGDConfig(Config):
    """Configuration of `dp-sgd`; ``chunk`` is a matter of speed and memory alone."""

    bound: float = Field(1.0, ge=1e-6, le=1e6, description="largest L2 norm C of one example's gradient")
    noise_multiplier: float = Field(
        1.0, ge=1e-3, le=1e4, description="standard deviation sigma of the noise on the clipped sum, over C"
    )
    chunk: int = Field(64, ge=1, le=65536, description="examples whose gradients are held in memory at once")


class RDPConfig(Config):
    """Configuration of `rdp`."""

    conversion: Literal["classic", "improved"] = Field(
        "classic", description="from Renyi DP to (epsilon, delta): Mironov's (classic) or Balle et al.'s (improved)"
    )


class PRVConfig(Config):
    """Configuration of `prv`."""

    error: float = Field(0.01, ge=1e-3, le=1.0, description="numerical error of epsilon, added to what is reported")


def _norm_clip(config: NormClipConfig) -> NormClip:
    from sparring_dp.norm_clip import NormClip

    return NormClip(config)


def _gauss_noise(config: GaussNoiseConfig) -> GaussNoise:
    from sparring_dp.gauss_noise import GaussNoise

    return GaussNoise(config)


def _poisson_lots(config: DPSGDConfig) -> PoissonLots:
    from sparring_dp.dp_sgd import PoissonLots

    return PoissonLots(config)


def _private_gradients(config: DPSGDConfig) -> PrivateGradients:
    from sparring_dp.dp_sgd import PrivateGradients

    return PrivateGradients(config)


def _rdp(config: RDPConfig) -> RDP:
    from sparring_dp.rdp import RDP

    return RDP(config)


def _rdp_opacus(config: Empty) -> OpacusRDP:
    del config
    from sparring_dp.rdp_opacus import OpacusRDP

    return OpacusRDP()


def _prv(config: PRVConfig) -> PRV:
    from sparring_dp.prv import PRV

    return PRV(config)


ROWS = (Summable(), Identified(), Weighted(), Space("real"), PoissonSampled())
"""What rescaling or noising single rows leaves true."""

NORM_CLIP = DefenceSpec(
    api=1,
    name="norm-clip",
    config=NormClipConfig,
    summary="Scales each client's update to an L2 norm of at most C.",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_norm_clip,
            signature=lambda c: Signature(
                needs=(Space("real"),),
                gives=(Clipped("l2", "client", bound=c.bound),),
                keeps=(*ROWS, Clipped(unit="client")),
            ),
        ),
    ),
)
GAUSS_NOISE = DefenceSpec(
    api=1,
    name="gauss-noise",
    config=GaussNoiseConfig,
    summary="Adds Gaussian noise to each client's clipped update before it is sent (local DP, Gaussian mechanism).",
    accountant="prv",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_gauss_noise,
            acts="always",
            signature=Signature(
                needs=(Clipped("l2", "client"), Space("real")), keeps=ROWS, claims=(Formal("Gaussian", "client"),)
            ),
        ),
    ),
)
DP_SGD = DefenceSpec(
    api=1,
    name="dp-sgd",
    config=DPSGDConfig,
    summary="Poisson-sampled lots, per-example clipping, noise once on the clipped sum, divided by the expected lot.",
    accountant="prv",
    layers=(
        Layer(
            site=Site.SAMPLER,
            build=_poisson_lots,
            acts="always",
            signature=Signature(gives=(PoissonSampled("example"),), keeps=(PerExample(), PoissonSampled())),
        ),
        Layer(
            site=Site.GRADIENT,
            build=_private_gradients,
            acts="always",
            signature=Signature(
                needs=(PerExample(), PoissonSampled("example")),
                keeps=(PerExample(), PoissonSampled()),
                claims=(Formal("subsampled Gaussian", "example"),),
            ),
        ),
    ),
)
RDP_ACCOUNTANT = AccountantSpec(
    api=1, name="rdp", config=RDPConfig, summary="Renyi DP of the Poisson-subsampled Gaussian, classic conversion.", build=_rdp
)
RDP_OPACUS = AccountantSpec(
    api=1,
    name="rdp-opacus",
    config=Empty,
    summary="Renyi DP as Opacus computes it, with the improved conversion.",
    build=_rdp_opacus,
)
PRV_ACCOUNTANT = AccountantSpec(
    api=1,
    name="prv",
    config=PRVConfig,
    summary="Privacy loss distributions composed numerically: the tight default.",
    build=_prv,
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (NORM_CLIP, GAUSS_NOISE, DP_SGD, RDP_ACCOUNTANT, RDP_OPACUS, PRV_ACCOUNTANT)
