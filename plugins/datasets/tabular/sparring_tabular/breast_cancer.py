"""Breast cancer: measurements of cell nuclei, and whether the tumour was malignant."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, final

from sparring_arrays import checks
from sparring_arrays.split import split

from sparring.roles import Data, Dataset
from sparring.signals import DataShape
from sparring_tabular.standard import columns, standardised

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_tabular.plugin import BreastCancerConfig


@final
class BreastCancer(Dataset):
    """Feature vectors [N, 30] standardised on the training part; classes: 0 malignant, 1 benign.

    Source: W. N. Street, W. H. Wolberg and O. L. Mangasarian, Nuclear feature extraction for breast tumor diagnosis,
    IS&T/SPIE Symposium on Electronic Imaging, 1993.
    """

    def __init__(self, config: BreastCancerConfig) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """The records, with a stratified test part drawn from the layer's stream."""
        from sklearn.datasets import load_breast_cancer

        raw = load_breast_cancer()
        x = checks.features(raw.data, "breast-cancer")
        shape = DataShape((x.shape[1],), 2)
        whole = checks.examples(x, checks.labels(raw.target, "breast-cancer"), shape, "breast-cancer")
        at, held_out = split(whole.y, self.config.test_fraction, ctx.generator())
        train, test = standardised(whole.take(at), whole.take(held_out))
        shape = replace(shape, columns=columns(train.x, list(map(str, raw.feature_names)), ()))
        return Data(train, test, shape, tuple(map(str, raw.target_names)))
