"""Digits: 1,797 handwritten digits of 8x8 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from sparring_arrays import checks
from sparring_arrays.split import split

from sparring.roles import Data, Dataset
from sparring.signals import DataShape

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_digits.plugin import DigitsConfig

LEVELS = 16


@final
class Digits(Dataset):
    """The digits 0 to 9 as images [N, 1, 8, 8] in [0, 1], from counts 0 .. 16 of dark pixels in 4x4 blocks.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """

    def __init__(self, config: DigitsConfig) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """The images, with a stratified test part drawn from the layer's stream."""
        from sklearn.datasets import load_digits

        raw = load_digits()
        shape = DataShape((1, 8, 8), 10)
        x = checks.images(raw.images / LEVELS, "digits")
        whole = checks.examples(x, checks.labels(raw.target, "digits"), shape, "digits")
        train, test = split(whole.y, self.config.test_fraction, ctx.generator())
        return Data(whole.take(train), whole.take(test), shape, tuple(str(k) for k in range(10)))
