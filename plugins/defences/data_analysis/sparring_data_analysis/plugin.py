"""Analysis of raw data, of the released model and of its inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.claims import Heuristic
from sparring.facts import Entangled, Identified, PerExample, PoissonSampled, PublicData, Readable, Space, Summable
from sparring.hookspecs import hookimpl
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import AnySpec, Config, DefenceSpec, Layer

if TYPE_CHECKING:
    from sparring_data_analysis.activation_clustering import ActivationClustering
    from sparring_data_analysis.influence_filter import InfluenceFilter
    from sparring_data_analysis.loss_filter import LossFilter
    from sparring_data_analysis.neural_cleanse import NeuralCleanse
    from sparring_data_analysis.spectral_signatures import SpectralSignatures
    from sparring_data_analysis.strip import Strip


class SpectralSignaturesConfig(Config):
    """Configuration of `spectral-signatures`."""

    eps: float = Field(
        0.05, gt=0, le=0.5, description="largest share of a class's examples that may be poison; 1.5 times as many are dropped"
    )
    epochs: int = Field(10, ge=1, le=1000, description="epochs of training of the model whose representations are analysed")


class ActivationClusteringConfig(Config):
    """Configuration of `activation-clustering`."""

    components: int = Field(10, ge=1, le=1000, description="independent components that activations are reduced to")
    share: float = Field(
        0.35, gt=0, le=0.5, description="largest share of a class that the smaller cluster may be, to be taken for poison"
    )
    silhouette: float = Field(0.1, ge=-1, le=1, description="least silhouette of the two clusters; -1 asks for the share alone")
    epochs: int = Field(10, ge=1, le=1000, description="epochs of training of the model whose activations are analysed")


class LossFilterConfig(Config):
    """Configuration of `loss-filter`."""

    eps: float = Field(
        0.05, gt=0, le=0.5, description="largest share of all examples that may be poison; 1.5 times as many are dropped"
    )
    epochs: int = Field(3, ge=1, le=1000, description="epochs of training of each model; few, so that poison is not fitted yet")
    rounds: int = Field(3, ge=1, le=100, description="models that are trained in turn, each on what the one before fits")


class InfluenceFilterConfig(Config):
    """Configuration of `influence-filter`."""

    eps: float = Field(
        0.05, gt=0, le=0.5, description="largest share of all examples that may be poison; 1.5 times as many are dropped"
    )
    method: Literal["influence", "tracin"] = Field(
        "influence",
        description="influence: leaving out one, by a Newton step of the last layer; tracin: its squared gradients over epochs",
    )
    damping: float = Field(0.1, gt=0, le=1e3, description="influence: L2 penalty with which the last layer is fitted")
    epochs: int = Field(3, ge=1, le=1000, description="epochs of training of the model; few, so that poison is not fitted yet")


class StripConfig(Config):
    """Configuration of `strip`."""

    overlays: int = Field(50, ge=1, le=10_000, description="clean images that are superimposed on each query, at most")
    weight: float = Field(0.5, gt=0, lt=1, description="weight w of the clean image: (1 - w) x + w x_n")
    false_rejection: float = Field(0.01, gt=0, lt=0.5, description="share of clean queries that may be refused")


class NeuralCleanseConfig(Config):
    """Configuration of `neural-cleanse`."""

    index: float = Field(2.0, gt=0, le=1e3, description="anomaly index above which a class is taken for backdoored")
    success: float = Field(0.99, gt=0, le=1, description="share of inputs that an inverted trigger must send to its class")
    steps: int = Field(400, ge=1, le=100_000, description="steps of the inversion")
    batch: int = Field(64, ge=1, le=100_000, description="public examples in a step")
    lr: float = Field(0.1, gt=0, le=10, description="step size of Adam in the inversion")
    triggered: float = Field(0.2, gt=0, le=1, description="share of public examples that carry the trigger in unlearning")
    passes: int = Field(1, ge=1, le=1000, description="rounds of local training on them, for each backdoored class")


def _spectral_signatures(config: SpectralSignaturesConfig) -> SpectralSignatures:
    from sparring_data_analysis.spectral_signatures import SpectralSignatures

    return SpectralSignatures(config)


def _activation_clustering(config: ActivationClusteringConfig) -> ActivationClustering:
    from sparring_data_analysis.activation_clustering import ActivationClustering

    return ActivationClustering(config)


def _loss_filter(config: LossFilterConfig) -> LossFilter:
    from sparring_data_analysis.loss_filter import LossFilter

    return LossFilter(config)


def _influence_filter(config: InfluenceFilterConfig) -> InfluenceFilter:
    from sparring_data_analysis.influence_filter import InfluenceFilter

    return InfluenceFilter(config)


def _strip(config: StripConfig) -> Strip:
    from sparring_data_analysis.strip import Strip

    return Strip(config)


def _neural_cleanse(config: NeuralCleanseConfig) -> NeuralCleanse:
    from sparring_data_analysis.neural_cleanse import NeuralCleanse

    return NeuralCleanse(config)


SHOWN = (Readable("server", "data", "example"), Readable("server", "labels", "example"))
"""What a filter of raw data reads, and what nothing but the threat model grants."""


def _filter(reason: str) -> Signature:
    """No guarantee is kept: whether an example is trained on depends on the others, so that none stands for itself alone."""
    return Signature(needs=SHOWN, gives=(Entangled(),), claims=(Heuristic(reason),))


SPECTRAL_SIGNATURES = DefenceSpec(
    api=1,
    name="spectral-signatures",
    config=SpectralSignaturesConfig,
    summary="drops from each class the raw examples that stand out along the top singular direction of representations",
    layers=(
        Layer(
            site=Site.DATA,
            wire=True,
            build=_spectral_signatures,
            signature=_filter(
                "poison and clean examples of a class separate along its top direction, if they lie apart enough"
            ),
        ),
    ),
)
ACTIVATION_CLUSTERING = DefenceSpec(
    api=1,
    name="activation-clustering",
    config=ActivationClusteringConfig,
    summary="splits each class's activations in two clusters and drops the smaller one where it looks like poison",
    layers=(
        Layer(
            site=Site.DATA,
            wire=True,
            build=_activation_clustering,
            signature=_filter("poison is a minority of its class and clusters apart from it"),
        ),
    ),
)
LOSS_FILTER = DefenceSpec(
    api=1,
    name="loss-filter",
    config=LossFilterConfig,
    summary="drops the raw examples of highest loss under models trained on the others: iterative trimmed loss",
    layers=(
        Layer(
            site=Site.DATA,
            wire=True,
            build=_loss_filter,
            signature=_filter("a model fits clean examples before it fits poison"),
        ),
    ),
)
INFLUENCE_FILTER = DefenceSpec(
    api=1,
    name="influence-filter",
    config=InfluenceFilterConfig,
    summary="drops the raw examples that most influence their own loss: influence functions or TracIn at the last layer",
    layers=(
        Layer(
            site=Site.DATA,
            wire=True,
            build=_influence_filter,
            signature=_filter("the label of a poisoned example is predicted by itself and not by the others"),
        ),
    ),
)
STRIP = DefenceSpec(
    api=1,
    name="strip",
    config=StripConfig,
    summary="abstains on queries whose prediction stays certain under superimposed clean images, as triggers make it",
    layers=(
        Layer(
            site=Site.RESPONSE,
            build=_strip,
            signature=Signature(
                needs=(PublicData(),),
                keeps=ALL,
                claims=(
                    Heuristic("a trigger that does not depend on its input survives superposition, and what is clean does not"),
                ),
            ),
        ),
    ),
)
NEURAL_CLEANSE = DefenceSpec(
    api=1,
    name="neural-cleanse",
    config=NeuralCleanseConfig,
    summary="inverts the smallest trigger of each class, and unlearns in the last round those that are abnormally small",
    layers=(
        Layer(
            site=Site.RELEASE,
            build=_neural_cleanse,
            signature=Signature(
                needs=(PublicData(), Space("real")),
                keeps=(PerExample(), PoissonSampled(), Identified(), Summable(), Space("real")),
                claims=(Heuristic("the trigger is small, and the same for all inputs"),),
            ),
        ),
    ),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The analyses of this distribution."""
    return (SPECTRAL_SIGNATURES, ACTIVATION_CLUSTERING, LOSS_FILTER, INFLUENCE_FILTER, STRIP, NEURAL_CLEANSE)
