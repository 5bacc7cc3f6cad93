"""Options of the techniques in `plugin`."""

from __future__ import annotations

from pydantic import Field, model_validator

from sparring.specs import Config


class NormBoundConfig(Config):
    """Configuration of `norm-bound`."""

    bound: float | None = Field(
        None, ge=1e-6, le=1e6, description="largest L2 norm M of a row; default: the cohort's median norm times `factor`"
    )
    factor: float = Field(1.0, gt=0, le=1e3, description="M over the median norm of the cohort, where no bound is given")

    @model_validator(mode="after")
    def _one_of(self) -> NormBoundConfig:
        if self.bound is not None and self.factor != type(self).model_fields["factor"].default:
            raise ValueError(f"bound is {self.bound} and factor is {self.factor}; set one of them")
        return self
