"""Declares fedavg-inversion: gradient matching through a client's several local steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from sparring.facts import Knows
from sparring.signature import ALL, Signature
from sparring.specs import AttackSpec, Reader
from sparring_inversion.options import (
    ADAM_ITERATIONS,
    ADAM_STEP,
    INIT,
    MOMENTUM,
    STARTS,
    TV,
    Init,
    InversionConfig,
    needs,
    tap,
)

if TYPE_CHECKING:
    from sparring_inversion.fedavg_inversion import FedavgInversion

Rate = Annotated[float, Field(gt=0, le=1e3)]
Length = Annotated[int, Field(ge=1, le=10_000)]


class FedavgInversionConfig(InversionConfig):
    """Configuration of `fedavg-inversion`."""

    iterations: int = ADAM_ITERATIONS
    restarts: int = STARTS
    tv: float = TV
    lr: float = ADAM_STEP
    momentum: float = MOMENTUM
    init: Init = INIT
    local: Literal["known", "guessed", "searched"] = Field(
        "known", description="the clients' training: granted by the threat model, or as the client_* say: one guess, or several"
    )
    client_lr: tuple[Rate, ...] = Field((), max_length=16, description="learning rates of the clients that are guessed")
    client_steps: tuple[Length, ...] = Field((), max_length=16, description="local steps that are guessed")
    client_epochs: tuple[Length, ...] = Field((), max_length=16, description="local epochs that are guessed, in place of steps")
    client_batch: int | None = Field(None, ge=1, le=1_000_000, description="guessed examples a step; null: all of the client's")
    trial: int = Field(
        200, ge=1, le=10_000, description="iterations, from one start, by which each of several guesses is tried"
    )
    longest: int = Field(
        100, ge=1, le=10_000, description="local steps behind a row that are simulated at most; memory grows with them"
    )

    @model_validator(mode="after")
    def _guesses(self) -> FedavgInversionConfig:
        lengths = self.client_steps or self.client_epochs
        number = len(self.client_lr) * len(lengths)
        if self.client_steps and self.client_epochs:
            raise ValueError("client_steps and client_epochs are set; set one of them")
        if self.local == "known" and (self.client_lr or lengths or self.client_batch is not None):
            raise ValueError("local is known and client_* are set; leave these out, or set local: guessed")
        if self.local == "guessed" and number != 1:
            raise ValueError(
                f"local is guessed and there are {number} guesses; set one client_lr and one of client_steps or client_epochs"
            )
        if self.local == "searched" and number < 2:
            raise ValueError(f"local is searched and there are {number} guesses; give client_lr or the lengths several values")
        return self


def _needs(config: FedavgInversionConfig) -> Signature:
    told = [clause for clause in needs(config).needs if clause != Knows("local-settings")]
    return Signature(needs=(*told, *([Knows("local-settings")] if config.local == "known" else [])), keeps=ALL)


def _fedavg_inversion(config: FedavgInversionConfig) -> FedavgInversion:
    from sparring_inversion.fedavg_inversion import FedavgInversion

    return FedavgInversion(config)


FEDAVG_INVERSION = AttackSpec(
    api=1,
    name="fedavg-inversion",
    config=FedavgInversionConfig,
    summary="Gradient inversion of several local steps, by simulating them (Geiping et al. 2020; Dimitrov et al. 2022).",
    game="reconstruction",
    reader=Reader(tap=tap, build=_fedavg_inversion, signature=_needs),
)
