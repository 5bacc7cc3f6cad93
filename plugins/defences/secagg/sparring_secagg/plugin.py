"""What this distribution offers: secure aggregation by additive masks."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from sparring.claims import Heuristic
from sparring.facts import Clipped, Fact, Identified, PoissonSampled, Readable, Sensitivity, Space, Summable, Weighted
from sparring.hookspecs import hookimpl
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AnySpec, Config, DefenceSpec, Layer

if TYPE_CHECKING:
    from sparring_secagg.masked_sum import Open, Seal


class MaskedSumConfig(Config):
    """Configuration of `masked-sum`."""

    threshold: int = Field(2, ge=2, le=32768, description="least number of clients whose sum is opened")
    bits: int = Field(32, ge=8, le=48, description="k of the modulus 2^k")
    fraction_bits: int = Field(20, ge=0, le=40, description="binary digits behind the point")
    bound: float = Field(4.0, ge=1e-6, le=1e6, description="each number of an update is clipped to [-bound, bound]")
    max_weight: float = Field(1024.0, ge=1, le=1e9, description="largest weight (number of examples) of a client")
    rounding: Literal["stochastic", "towards-zero"] = Field(
        "stochastic", description="stochastic is unbiased; towards-zero never raises a norm, so that Clipped survives"
    )

    @property
    def modulus(self) -> int:
        """M."""
        return 1 << self.bits

    @property
    def largest(self) -> int:
        """No number of an encoded row, weight included, is larger in absolute value."""
        return ceil(max(self.bound, 1.0) * (1 << self.fraction_bits))

    @property
    def capacity(self) -> int:
        """How many rows can be added without wrapping round."""
        return (self.modulus // 2 - 1) // self.largest

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.capacity < self.threshold:
            raise ValueError(
                f"with bits {self.bits}, fraction_bits {self.fraction_bits} and bound {self.bound:g} only {self.capacity} rows "
                f"add up without overflow, and threshold is {self.threshold}: lower bound or fraction_bits, or raise bits"
            )
        return self


def _seal(config: MaskedSumConfig) -> Seal:
    from sparring_secagg.masked_sum import Seal

    return Seal(config)


def _open(config: MaskedSumConfig) -> Open:
    from sparring_secagg.masked_sum import Open

    return Open(config)


def _bounded(config: MaskedSumConfig) -> tuple[Fact, ...]:
    return (Clipped(unit="client"), Sensitivity("client")) if config.rounding == "towards-zero" else ()


CLAIM = Heuristic(
    "a masked row is uniform whatever it hides; assumes a trusted dealer and an honest-but-curious server; "
    "the full protocol (Bonawitz et al.) comes with a later release"
)
MASKED_SUM = DefenceSpec(
    api=1,
    name="masked-sum",
    config=MaskedSumConfig,
    summary="Clients add one-time pads to fixed-point updates; the server opens the sum of those that arrived, and no one row.",
    paired=True,
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_seal,
            acts="always",
            wire=True,
            signature=lambda c: Signature(
                needs=(Summable(), Space("real")),
                gives=(Space("sealed", modulus=float(c.modulus)),),
                keeps=(Summable(), Identified(), Weighted(), PoissonSampled(), *_bounded(c)),
                hides=(Readable("server", "update", "client"), Readable("aggregator", "update", "client")),
                claims=(CLAIM,),
            ),
        ),
        Layer(
            site=Site.OPEN,
            build=_open,
            acts="always",
            signature=lambda c: Signature(
                needs=(Space("sealed"),),
                gives=(Space("real"),),
                keeps=(Summable(), Identified(), Weighted(), PoissonSampled(), *_bounded(c)),
            ),
        ),
    ),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (MASKED_SUM,)
