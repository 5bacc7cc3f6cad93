"""What the declarations of attacks on updates share: their powers, what they keep true, and whose updates they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from sparring.facts import (
    Clipped,
    Controls,
    Fact,
    Identified,
    Knows,
    PerExample,
    PoissonSampled,
    Sensitivity,
    Space,
    Summable,
    Weighted,
)
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AttackSpec, Config, Layer

if TYPE_CHECKING:
    from sparring.roles import ActiveAttack

C = TypeVar("C", bound=Config)
Knowledge = Literal["own", "benign"]
Direction = Literal["std", "unit", "sign"]
HOLDS = Controls("client", "update")
ROWS = (Summable(), Identified(), Weighted(), Space(), PerExample(), PoissonSampled(), Clipped(among="honest"))
"""What stays true of a cohort in which some rows are lies: the wire format, and what was said of honest rows alone."""
OWN = Signature(needs=(HOLDS,), keeps=(*ROWS, Sensitivity()))
"""The signature of an attack whose rows depend on no honest row of the round."""
KNOWLEDGE: Any = Field(
    "own",
    description="whose updates it estimates from: its own clients' honestly trained ones, or the benign ones "
    "(needs `knows: [benign-updates]`)",
)
DIRECTION: Any = Field(
    "std", description="perturbation: minus the deviation in each coordinate, the mean's unit vector, or the mean's sign"
)


def sees(*needs: Fact) -> Callable[[Any], Signature]:
    """The signature by configuration of an attack with the option ``knowledge``, and further ``needs``."""

    def signature(config: Any) -> Signature:
        if config.knowledge == "own":
            return Signature(needs=(HOLDS, *needs), keeps=(*ROWS, Sensitivity()))
        return Signature(needs=(HOLDS, Knows("benign-updates"), *needs), keeps=ROWS)

    return signature


def poisons(
    name: str,
    config: type[C],
    build: Callable[[C], ActiveAttack[Any]],
    signature: Signature | Callable[[C], Signature],
    summary: str,
) -> AttackSpec[C]:
    """An attack on the updates of its own clients, scored by the poisoning game."""
    return AttackSpec(
        api=1,
        name=name,
        config=config,
        summary=summary,
        game="poisoning",
        layers=(Layer(site=Site.UPDATE, build=build, signature=signature),),
    )
