"""The techniques `medmnist` and `brain-tissue`: medical images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from sparring.facts import PublicData
from sparring.hookspecs import hookimpl
from sparring.signature import ALL, Signature
from sparring.specs import AnySpec, Config, DatasetSpec

if TYPE_CHECKING:
    from sparring_medical.brain_tissue import BrainTissue
    from sparring_medical.medmnist_npz import MedMnist

Subset = Literal[
    "pathmnist",
    "dermamnist",
    "octmnist",
    "pneumoniamnist",
    "retinamnist",
    "breastmnist",
    "bloodmnist",
    "tissuemnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
]


class MedMnistConfig(Config):
    """Configuration of `medmnist`."""

    subset: Subset = Field("pneumoniamnist", description="which of the sets")
    size: Literal[28, 64, 128, 224] = Field(
        28, description="side of the images in pixels; above 28 the files are <subset>_<size>.npz"
    )
    root: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="folder with <subset>.npz (default: the environment variable SPARRING_DATA)",
    )
    file: str | None = Field(
        None, min_length=1, max_length=4096, description="the .npz file itself; a relative path is taken from the folder"
    )
    download: bool = Field(False, description="download the file into the folder where it is missing")
    validation: Literal["unused", "train", "public"] = Field(
        "unused", description="what becomes of the source's validation part: left out, trained on as well, or public data"
    )
    proxy_group: Literal["none", "brightness"] = Field(
        "none",
        description="a group column `bright`, 1 where an image is brighter than the median training image; no demographic",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.file is not None and self.download:
            raise ValueError("file and download exclude each other: a named file is never downloaded; remove one of them")
        return self


class BrainTissueConfig(Config):
    """Configuration of `brain-tissue`."""

    size: int = Field(64, ge=16, le=233, description="side in pixels to which the slices of 233x233 are resized")


def _medmnist(config: MedMnistConfig) -> MedMnist:
    from sparring_medical.medmnist_npz import MedMnist

    return MedMnist(config)


def _medmnist_facts(config: MedMnistConfig) -> Signature:
    return Signature(gives=(PublicData(),) if config.validation == "public" else (), keeps=ALL)


def _brain_tissue(config: BrainTissueConfig) -> BrainTissue:
    from sparring_medical.brain_tissue import BrainTissue

    return BrainTissue(config)


MEDMNIST = DatasetSpec(
    api=1,
    name="medmnist",
    config=MedMnistConfig,
    summary="Small medical images (X-rays, blood cells, organs, ...) of MedMNIST v2, from a file or by download.",
    build=_medmnist,
    signature=_medmnist_facts,
    licence="CC BY 4.0; dermamnist CC BY-NC 4.0",
    source="J. Yang et al., MedMNIST v2, Scientific Data 10, 2023, arXiv:2110.14795",
    stands_for="images of patients that hospitals may not share; too small for a diagnosis",
)
BRAIN_TISSUE = DatasetSpec(
    api=1,
    name="brain-tissue",
    config=BrainTissueConfig,
    summary="Slices of the MNI152 template with grey and white matter: segmentation in 3 classes; offline.",
    build=_brain_tissue,
    licence="free with attribution (McConnell Brain Imaging Centre); nilearn itself BSD-3-Clause",
    source="nilearn's MNI ICBM152 2009a template: V. Fonov et al., NeuroImage 54(1), 2011",
    stands_for="a segmentation task that hospitals might share; one averaged brain, so it says nothing about new patients",
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (MEDMNIST, BRAIN_TISSUE)
