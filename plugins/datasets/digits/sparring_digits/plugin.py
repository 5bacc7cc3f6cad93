"""The technique `digits`: scikit-learn's small handwritten digits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from sparring.hookspecs import hookimpl
from sparring.specs import AnySpec, Config, DatasetSpec

if TYPE_CHECKING:
    from sparring_digits.digits import Digits


class DigitsConfig(Config):
    """Configuration of `digits`."""

    test_fraction: float = Field(0.2, ge=0.01, le=0.9, description="share of the images that is held out, stratified by class")


def _digits(config: DigitsConfig) -> Digits:
    from sparring_digits.digits import Digits

    return Digits(config)


DIGITS = DatasetSpec(
    api=1,
    name="digits",
    config=DigitsConfig,
    summary="1,797 handwritten digits of 8x8 pixels; offline.",
    build=_digits,
    licence="CC BY 4.0 (UCI Optical Recognition of Handwritten Digits); scikit-learn itself BSD-3-Clause",
    source="scikit-learn's load_digits: E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, test part",
    stands_for="small images for quick experiments; too small to say how well an image can be reconstructed",
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (DIGITS,)
