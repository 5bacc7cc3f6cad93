"""Declares tableak: gradient matching for records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparring.specs import AttackSpec, Reader
from sparring_inversion.options import InversionConfig, needs, tap

if TYPE_CHECKING:
    from sparring_inversion.tableak import Tableak


class TableakConfig(InversionConfig):
    """Configuration of `tableak`."""

    iterations: int = Field(1500, ge=1, le=100_000, description="steps of Adam per restart")
    restarts: int = Field(30, ge=1, le=256, description="random starts per capture: the members of the ensemble that is pooled")
    lr: float = Field(0.06, gt=0, le=1, description="learning rate of Adam on signs, of logits")


def _tableak(config: TableakConfig) -> Tableak:
    from sparring_inversion.tableak import Tableak

    return Tableak(config)


TABLEAK = AttackSpec(
    api=1,
    name="tableak",
    config=TableakConfig,
    summary="Gradient inversion of records: categories as mixtures of codes, pooled over restarts (Vero et al. 2023).",
    game="reconstruction",
    reader=Reader(tap=tap, build=_tableak, signature=needs),
)
RECORDS = (TABLEAK,)
