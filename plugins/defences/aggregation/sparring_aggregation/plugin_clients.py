"""What clients do so that robust rules work: momentum of their updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparring.claims import Heuristic
from sparring.facts import Clipped, Identified, Space, Summable, Weighted
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AnySpec, Config, DefenceSpec, Layer

if TYPE_CHECKING:
    from sparring_aggregation.client_momentum import ClientMomentum


class ClientMomentumConfig(Config):
    """Configuration of `client-momentum`."""

    beta: float = Field(0.9, ge=0, lt=1, description="share of its own momentum that a client keeps: the decay of past updates")


def _client_momentum(config: ClientMomentumConfig) -> ClientMomentum:
    from sparring_aggregation.client_momentum import ClientMomentum

    return ClientMomentum(config)


CLIENT_MOMENTUM = DefenceSpec(
    api=1,
    name="client-momentum",
    config=ClientMomentumConfig,
    summary="clients send the running mean of their updates, whose lower variance leaves attackers less room to hide",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_client_momentum,
            signature=Signature(
                needs=(Space("real"),),
                keeps=(Summable(), Identified(), Weighted(), Space("real"), Clipped(unit="client")),
                claims=(Heuristic("honest updates spread less, so that what a robust rule cannot tell apart moves it less"),),
            ),
        ),
    ),
)
CLIENTS: tuple[AnySpec, ...] = (CLIENT_MOMENTUM,)
