"""The techniques `actg175` and `breast-cancer`: records of patients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.hookspecs import hookimpl
from sparring.specs import AnySpec, Config, DatasetSpec

if TYPE_CHECKING:
    from sparring_tabular.actg175 import Actg175
    from sparring_tabular.breast_cancer import BreastCancer

Attribute = Literal["race", "gender", "homo", "hemo", "drugs", "age"]


class Actg175Config(Config):
    """Configuration of `actg175`."""

    test_fraction: float = Field(0.2, ge=0.01, le=0.9, description="share of the patients held out, stratified by outcome")
    exclude: tuple[Attribute, ...] = Field(
        (), max_length=6, description="sensitive attributes left out of the features; they stay group columns"
    )
    follow_up: bool = Field(
        False, description="add what was measured after 20 weeks (cd420, cd820) and whether treatment stopped early (offtrt)"
    )


class BreastCancerConfig(Config):
    """Configuration of `breast-cancer`."""

    test_fraction: float = Field(0.2, ge=0.01, le=0.9, description="share of the records held out, stratified by diagnosis")


def _actg175(config: Actg175Config) -> Actg175:
    from sparring_tabular.actg175 import Actg175

    return Actg175(config)


def _breast_cancer(config: BreastCancerConfig) -> BreastCancer:
    from sparring_tabular.breast_cancer import BreastCancer

    return BreastCancer(config)


ACTG175 = DatasetSpec(
    api=1,
    name="actg175",
    config=Actg175Config,
    summary="2,139 patients of an HIV trial, with sensitive attributes as group columns; offline.",
    build=_actg175,
    licence="MIT, as part of lifelines; the trial's data are CC BY 4.0 at the UCI Machine Learning Repository",
    source="lifelines' ACTG175.csv: S. M. Hammer et al., New England Journal of Medicine 335(15), 1996",
    stands_for="records of patients whose presence in the data is itself sensitive",
)
BREAST_CANCER = DatasetSpec(
    api=1,
    name="breast-cancer",
    config=BreastCancerConfig,
    summary="569 tumours, 30 measurements of cell nuclei each: malignant or benign; offline.",
    build=_breast_cancer,
    licence="CC BY 4.0 (UCI Breast Cancer Wisconsin, Diagnostic); scikit-learn itself BSD-3-Clause",
    source="scikit-learn's load_breast_cancer: W. H. Wolberg, O. L. Mangasarian and W. N. Street, UCI, 1995",
    stands_for="a small diagnostic table of one hospital; has no sensitive attribute",
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (ACTG175, BREAST_CANCER)
