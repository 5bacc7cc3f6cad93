"""What the distribution offers; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from sparring.claims import Formal, Heuristic
from sparring.facts import (
    Clipped,
    Controls,
    Fact,
    Hardware,
    Identified,
    Knows,
    PerExample,
    PoissonSampled,
    PublicData,
    Readable,
    Sensitivity,
    Space,
    Summable,
    Weighted,
)
from sparring.hookspecs import hookimpl
from sparring.signature import ALL, Map, Signature
from sparring.sites import Site
from sparring.specs import (
    AccountantSpec,
    AggregatorSpec,
    AnySpec,
    AttackSpec,
    Config,
    DatasetSpec,
    DefenceSpec,
    Empty,
    EngineSpec,
    HostSpec,
    Layer,
    ModelSpec,
    Reader,
    TrainerSpec,
)
from sparring.taps import Tap
from sparring_frozen_api1.facts import OnGrid

if TYPE_CHECKING:
    from sparring_frozen_api1 import attacks, local, machinery, once, pads, server, updates, world


class TemperedConfig(Config):
    """Configuration of `frozen-tempered`."""

    hold_biases: bool = Field(False, description="whether biases keep their first values: frozen columns of the row")


class LabelsConfig(Config):
    """Configuration of `frozen-labels`."""

    p: float = Field(0.1, ge=0, le=1, description="probability that a label is drawn anew from all classes")


class StepsConfig(Config):
    """Configuration of `frozen-steps`."""

    noise: float = Field(0.02, ge=0, le=10, description="standard deviation of the noise on inputs")
    smoothing: float = Field(0.05, ge=0, lt=1, description="share of the uniform distribution in the targets")
    radius: float = Field(50.0, ge=1e-3, le=1e6, description="largest L2 norm of the parameters after a step")


class SGDConfig(Config):
    """Configuration of `frozen-sgd`."""

    bound: float = Field(1.0, ge=1e-6, le=1e6, description="largest L2 norm C of one example's gradient")
    sigma: float = Field(1.0, ge=1e-3, le=1e4, description="standard deviation of the noise on the clipped sum, over C")


class RoundConfig(Config):
    """Configuration of `frozen-round`."""

    step: float = Field(1e-3, ge=1e-6, le=1.0, description="distance of two neighbours on the grid")
    rounding: Literal["nearest", "towards-zero"] = Field("nearest", description="which neighbour a number becomes")


class ClipConfig(Config):
    """Configuration of `frozen-clip`."""

    bound: float = Field(1.0, ge=1e-6, le=1e6, description="largest L2 norm of an update")


class NoiseConfig(Config):
    """Configuration of `frozen-noise`."""

    sigma: float = Field(0.5, ge=1e-3, le=1e4, description="standard deviation of the noise over the bound that holds")


class PadsConfig(Config):
    """Configuration of `frozen-pads`."""

    bits: int = Field(20, ge=8, le=24, description="binary digits behind the point")
    threshold: int = Field(2, ge=1, le=1000, description="least number of clients whose sum is opened")


class BucketsConfig(Config):
    """Configuration of `frozen-buckets`."""

    size: int = Field(2, ge=1, le=1000, description="rows in a bucket, s")


class SparseConfig(Config):
    """Configuration of `frozen-sparse`."""

    keep: float = Field(0.5, gt=0, le=1, description="share of each tensor that is kept")


class SmoothingConfig(Config):
    """Configuration of `frozen-smoothing`."""

    sigma: float = Field(0.1, ge=1e-4, le=10, description="standard deviation of the noise on the inputs")
    draws: int = Field(4, ge=1, le=64, description="noisy copies that are averaged")


class MedianConfig(Config):
    """Configuration of `frozen-median`."""

    f: int = Field(1, ge=0, le=10_000, description="number of Byzantine clients that it must bear")
    steps: int = Field(100, ge=1, le=10_000, description="Weiszfeld steps")


class AdagradConfig(Config):
    """Configuration of `frozen-adagrad`."""

    lr: float = Field(0.1, gt=0, le=100, description="server learning rate")
    tau: float = Field(0.05, gt=0, le=1e3, description="degree of adaptivity: added to the root of the squares")


class QuadrantsConfig(Config):
    """Configuration of `frozen-quadrants`."""

    examples: int = Field(400, ge=100, le=100_000, description="images of the source, before they are split")
    public: bool = Field(True, description="whether a tenth of them is public")


class NetConfig(Config):
    """Configuration of `frozen-net`."""

    hidden: int = Field(16, ge=1, le=4096, description="hidden units")


class PushConfig(Config):
    """Configuration of `frozen-push`."""

    factors: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(
        (0.5, 4.0), min_length=1, max_length=8, description="multiples to choose from"
    )

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len(set(self.factors)) < len(self.factors):
            raise ValueError(f"factors are {self.factors}; each stands once")
        return self


class TrapConfig(Config):
    """Configuration of `frozen-trap`."""

    shift: float = Field(0.5, ge=-100, le=100, description="what is added to the biases of the first layer")
    targets: int = Field(1, ge=1, le=1000, description="how many clients of a round are sent the other model")


class ReadConfig(Config):
    """Configuration of `frozen-analytic`."""

    rounds: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, max_length=100, description="rounds that are read; null: all"
    )


class ConfidenceConfig(Config):
    """Configuration of `frozen-confidence`."""

    reads: Literal["query", "model"] = Field("query", description="answers to queries, or the model itself")


def _tempered(config: TemperedConfig) -> once.Tempered:
    from sparring_frozen_api1.once import Tempered

    return Tempered(config)


def _labels(config: LabelsConfig) -> once.RandomisedLabels:
    from sparring_frozen_api1.once import RandomisedLabels

    return RandomisedLabels(config)


def _smoothing(config: SmoothingConfig) -> once.Smoothing:
    from sparring_frozen_api1.once import Smoothing

    return Smoothing(config)


def _watch(config: Empty) -> server.Watch:
    del config
    from sparring_frozen_api1.server import Watch

    return Watch()


def _lots(config: StepsConfig) -> local.Lots:
    del config
    from sparring_frozen_api1.local import Lots

    return Lots()


def _jitter(config: StepsConfig) -> local.Jitter:
    from sparring_frozen_api1.local import Jitter

    return Jitter(config)


def _smooth(config: StepsConfig) -> local.SmoothTargets:
    from sparring_frozen_api1.local import SmoothTargets

    return SmoothTargets(config)


def _project(config: StepsConfig) -> local.Project:
    from sparring_frozen_api1.local import Project

    return Project(config)


def _private(config: SGDConfig) -> local.PrivateGradients:
    from sparring_frozen_api1.local import PrivateGradients

    return PrivateGradients(config)


def _round(config: RoundConfig) -> updates.Rounding:
    from sparring_frozen_api1.updates import Rounding

    return Rounding(config)


def _clip(config: ClipConfig) -> updates.Clip:
    from sparring_frozen_api1.updates import Clip

    return Clip(config)


def _noise(config: NoiseConfig) -> updates.Noise:
    from sparring_frozen_api1.updates import Noise

    return Noise(config)


def _seal(config: PadsConfig) -> pads.Seal:
    from sparring_frozen_api1.pads import Seal

    return Seal(config)


def _open(config: PadsConfig) -> pads.Open:
    from sparring_frozen_api1.pads import Open

    return Open(config)


def _twins(config: Empty) -> server.Twins:
    del config
    from sparring_frozen_api1.server import Twins

    return Twins()


def _buckets(config: BucketsConfig) -> server.Buckets:
    from sparring_frozen_api1.server import Buckets

    return Buckets(config)


def _sparse(config: SparseConfig) -> server.Sparse:
    from sparring_frozen_api1.server import Sparse

    return Sparse(config)


def _median(config: MedianConfig) -> server.GeometricMedian:
    from sparring_frozen_api1.server import GeometricMedian

    return GeometricMedian(config)


def _mean(config: Empty) -> server.ExactMean:
    del config
    from sparring_frozen_api1.server import ExactMean

    return ExactMean()


def _adagrad(config: AdagradConfig) -> world.FedAdagrad:
    from sparring_frozen_api1.world import FedAdagrad

    return FedAdagrad(config)


def _quadrants(config: QuadrantsConfig) -> world.Quadrants:
    from sparring_frozen_api1.world import Quadrants

    return Quadrants(config)


def _net(config: NetConfig) -> world.Net:
    from sparring_frozen_api1.world import Net

    return Net(config)


def _zcdp(config: Empty) -> machinery.ZCDP:
    del config
    from sparring_frozen_api1.machinery import ZCDP

    return ZCDP()


def _enclave(config: Empty) -> machinery.Enclave:
    del config
    from sparring_frozen_api1.machinery import Enclave

    return Enclave()


def _turns(config: Empty) -> machinery.Turns:
    del config
    from sparring_frozen_api1.machinery import Turns

    return Turns()


def _push(config: PushConfig) -> attacks.Push:
    from sparring_frozen_api1.attacks import Push

    return Push(config)


def _flip(config: Empty) -> attacks.FlipLabels:
    del config
    from sparring_frozen_api1.attacks import FlipLabels

    return FlipLabels()


def _ascent(config: Empty) -> attacks.Ascent:
    del config
    from sparring_frozen_api1.attacks import Ascent

    return Ascent()


def _trap(config: TrapConfig) -> attacks.Trap:
    from sparring_frozen_api1.attacks import Trap

    return Trap(config)


def _analytic(config: ReadConfig) -> attacks.Analytic:
    del config
    from sparring_frozen_api1.attacks import Analytic

    return Analytic()


def _inverter(config: TrapConfig) -> attacks.Analytic:
    del config
    from sparring_frozen_api1.attacks import Analytic

    return Analytic()


def _confidence(config: ConfidenceConfig) -> attacks.Confidence:
    del config
    from sparring_frozen_api1.attacks import Confidence

    return Confidence()


REAL = (Summable(), Identified(), Weighted(), Space("real"))
"""What changing the numbers of single rows leaves true."""
IN_TRAINING = (PerExample(), PoissonSampled())
LIES = (Summable(), Identified(), Weighted(), Space(), PerExample(), PoissonSampled(), Clipped(among="honest"))
"""What stays true of a cohort in which some rows are lies."""


def _doubled(fact: Fact) -> Fact:
    bound = fact.bound if isinstance(fact, Clipped) else None
    return Sensitivity("client", None if bound is None else 2 * bound)


TEMPERED = DefenceSpec(
    api=1,
    name="frozen-tempered",
    config=TemperedConfig,
    summary="Replaces ReLU and Sigmoid by Tanh, whose activations are bounded; may hold the biases.",
    layers=(
        Layer(site=Site.MODEL, build=_tempered, acts="always", signature=Signature(keeps=(PerExample(), PoissonSampled()))),
    ),
)
LABELS = DefenceSpec(
    api=1,
    name="frozen-labels",
    config=LabelsConfig,
    summary="Draws labels anew with probability p: randomised response.",
    layers=(
        Layer(
            site=Site.DATA,
            build=_labels,
            signature=Signature(keeps=IN_TRAINING, claims=(Heuristic("a label may be anybody's; inputs still say a lot"),)),
        ),
    ),
)
WATCH = DefenceSpec(
    api=1,
    name="frozen-watch",
    config=Empty,
    summary="Clients that were sent another model than the others sit the round out.",
    layers=(Layer(site=Site.BROADCAST, build=_watch, acts="may", signature=Signature(keeps=ALL)),),
)
STEPS = DefenceSpec(
    api=1,
    name="frozen-steps",
    config=StepsConfig,
    summary="Poisson lots, noise on inputs, smoothed targets and a bounded model: four slots of a step.",
    layers=(
        Layer(
            site=Site.SAMPLER,
            build=_lots,
            acts="always",
            signature=Signature(gives=(PoissonSampled("example"),), keeps=IN_TRAINING),
        ),
        Layer(site=Site.BATCH, build=_jitter, signature=Signature(keeps=IN_TRAINING)),
        Layer(site=Site.LOSS, build=_smooth, signature=Signature(keeps=IN_TRAINING)),
        Layer(site=Site.STEP, build=_project, signature=Signature(keeps=IN_TRAINING)),
    ),
)
SGD = DefenceSpec(
    api=1,
    name="frozen-sgd",
    config=SGDConfig,
    summary="DP-SGD's gradient: clipped per-example gradients, noise once on their sum.",
    accountant="frozen-zcdp",
    layers=(
        Layer(
            site=Site.GRADIENT,
            build=_private,
            acts="always",
            signature=lambda c: Signature(
                needs=(PerExample(), PoissonSampled("example")),
                gives=(Clipped("l2", "example", bound=c.bound),),
                keeps=IN_TRAINING,
                claims=(Formal("subsampled Gaussian", "example"),),
            ),
        ),
    ),
)
ROUND = DefenceSpec(
    api=1,
    name="frozen-round",
    config=RoundConfig,
    summary="Rounds updates to a grid; what is lost is added to the client's next update.",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_round,
            acts="always",
            signature=lambda c: Signature(
                needs=(Space("real"),), gives=(OnGrid(c.rounding, step=c.step),), keeps=(*REAL, PoissonSampled())
            ),
        ),
    ),
)
CLIP = DefenceSpec(
    api=1,
    name="frozen-clip",
    config=ClipConfig,
    summary="Scales each update to an L2 norm of at most C.",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_clip,
            signature=lambda c: Signature(
                needs=(Space("real"),),
                gives=(Clipped("l2", "client", bound=c.bound), Clipped("linf", "client", bound=c.bound)),
                keeps=(*REAL, PoissonSampled(), Clipped("l1", "client")),
            ),
        ),
    ),
)
NOISE = DefenceSpec(
    api=1,
    name="frozen-noise",
    config=NoiseConfig,
    summary="Adds Gaussian noise to each clipped update before it is sent.",
    accountant="frozen-zcdp",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_noise,
            acts="always",
            signature=Signature(
                needs=(Clipped("l2", "client"), Space("real")),
                keeps=(*REAL, PoissonSampled()),
                claims=(Formal("Gaussian", "client"),),
            ),
        ),
    ),
)
PADS = DefenceSpec(
    api=1,
    name="frozen-pads",
    config=PadsConfig,
    summary="Clients add one-time pads to integers; the server is told the sum of the pads, and opens the weighted mean.",
    paired=True,
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_seal,
            acts="always",
            wire=True,
            signature=Signature(
                needs=(Summable(), Weighted(), Space("real"), Clipped("linf", "client")),
                gives=(Space("sealed", modulus=float(1 << 48)),),
                keeps=(Summable(), Identified(), Weighted(), PoissonSampled(), Clipped(unit="client"), Sensitivity("client")),
                hides=(Readable("server", "update", "client"), Readable("aggregator", "update", "client")),
                claims=(Heuristic("a padded row is uniform; assumes a dealer that names nothing but the sum of the pads"),),
            ),
        ),
        Layer(
            site=Site.OPEN,
            build=_open,
            acts="always",
            signature=Signature(
                needs=(Space("sealed"),),
                gives=(Space("real"),),
                keeps=(Summable(), Identified(), Weighted(), PoissonSampled(), Clipped(unit="client"), Sensitivity("client")),
            ),
        ),
    ),
)
TWINS = DefenceSpec(
    api=1,
    name="frozen-twins",
    config=Empty,
    summary="Of clients whose rows are the same point of a grid, one is kept.",
    layers=(
        Layer(site=Site.COHORT, build=_twins, signature=Signature(needs=(OnGrid(), Identified()), keeps=(*REAL, OnGrid()))),
    ),
)
BUCKETS = DefenceSpec(
    api=1,
    name="frozen-buckets",
    config=BucketsConfig,
    summary="Replaces rows by means of s rows at random: bucketing.",
    layers=(
        Layer(
            site=Site.COHORT,
            build=_buckets,
            signature=Signature(needs=(Summable(), Space("real")), keeps=(Summable(), Space("real"), Clipped(unit="client"))),
        ),
    ),
)
SPARSE = DefenceSpec(
    api=1,
    name="frozen-sparse",
    config=SparseConfig,
    summary="Keeps the largest numbers of each tensor of the release.",
    layers=(
        Layer(site=Site.RELEASE, build=_sparse, signature=Signature(needs=(Space("real"),), keeps=(Summable(), Space("real")))),
    ),
)
SMOOTHING = DefenceSpec(
    api=1,
    name="frozen-smoothing",
    config=SmoothingConfig,
    summary="Answers a query with the mean output on noisy copies of it: randomised smoothing.",
    layers=(Layer(site=Site.RESPONSE, build=_smoothing, acts="always", signature=Signature(keeps=ALL)),),
)
MEDIAN = AggregatorSpec(
    api=1,
    name="frozen-median",
    config=MedianConfig,
    summary="The geometric median, by smoothed Weiszfeld steps on the Gram matrix.",
    build=_median,
    signature=Signature(
        needs=(Summable(), Space("real"), Readable("aggregator", "update", "client")), keeps=(Space(), Summable())
    ),
)
MEAN = AggregatorSpec(
    api=1,
    name="frozen-mean",
    config=Empty,
    summary="The weighted mean, folded in float64.",
    build=_mean,
    signature=Signature(
        needs=(Summable(), Space("real")),
        keeps=(PerExample(), PoissonSampled(), Space("real"), Summable(), Weighted()),
        maps=(Map(Clipped("l2", "client"), Sensitivity("client"), _doubled),),
    ),
)
ADAGRAD = TrainerSpec(
    api=1,
    name="frozen-adagrad",
    config=AdagradConfig,
    summary="Local SGD, and Adagrad at the server.",
    build=_adagrad,
    signature=Signature(gives=REAL, keeps=ALL),
)
QUADRANTS = DatasetSpec(
    api=1,
    name="frozen-quadrants",
    config=QuadrantsConfig,
    summary="Images of 8 by 8 in which one quadrant is bright; sites differ in brightness.",
    build=_quadrants,
    licence="Apache-2.0",
    source="made by this distribution",
    stands_for="a task that a line solves",
    signature=lambda c: Signature(gives=(PublicData(),) if c.public else (), keeps=ALL),
)
NET = ModelSpec(
    api=1,
    name="frozen-net",
    config=NetConfig,
    summary="A perceptron with one hidden layer of ReLUs.",
    build=_net,
    signature=Signature(gives=(PerExample(),), keeps=ALL),
)
ZCDP_SPEC = AccountantSpec(
    api=1,
    name="frozen-zcdp",
    config=Empty,
    summary="Zero-concentrated DP, without amplification by sampling.",
    build=_zcdp,
)
ENCLAVE = HostSpec(
    api=1,
    name="frozen-enclave",
    config=Empty,
    summary="Rebuilds the COHORT layers and the rule from their names, as an enclave would, and forwards cohorts.",
    build=_enclave,
    signature=Signature(needs=(Hardware("simulated-tee"),), keeps=ALL, hides=(Readable("server", "update", "client"),)),
)
TURNS = EngineSpec(api=1, name="frozen-turns", config=Empty, summary="Trains the last client first.", build=_turns)
PUSH = AttackSpec(
    api=1,
    name="frozen-push",
    config=PushConfig,
    summary="Sends a negative multiple of the benign mean, the multiple that moves the rule furthest.",
    game="poisoning",
    layers=(
        Layer(
            site=Site.UPDATE,
            build=_push,
            signature=Signature(needs=(Controls("client", "update"), Knows("benign-updates"), Knows("aggregator")), keeps=LIES),
        ),
    ),
)
FLIP = AttackSpec(
    api=1,
    name="frozen-flip",
    config=Empty,
    summary="Turns each label y into K - 1 - y.",
    game="poisoning",
    layers=(
        Layer(site=Site.DATA, build=_flip, acts="always", signature=Signature(needs=(Controls("client", "data"),), keeps=ALL)),
    ),
)
ASCENT = AttackSpec(
    api=1,
    name="frozen-ascent",
    config=Empty,
    summary="Its clients climb their loss.",
    game="poisoning",
    layers=(
        Layer(
            site=Site.LOSS,
            build=_ascent,
            acts="always",
            signature=Signature(needs=(Controls("client", "training"),), keeps=IN_TRAINING),
        ),
    ),
)
TRAP = AttackSpec(
    api=1,
    name="frozen-trap",
    config=TrapConfig,
    summary="A malicious server shifts the first biases of a few clients' models, and inverts what they send.",
    game="reconstruction",
    layers=(Layer(site=Site.BROADCAST, build=_trap, signature=Signature(needs=(Controls("server", "broadcast"),), keeps=ALL)),),
    reader=Reader(
        tap=lambda config: Tap(("update",)),
        build=_inverter,
        signature=Signature(needs=(Knows("architecture"),), keeps=ALL),
    ),
)
ANALYTIC = AttackSpec(
    api=1,
    name="frozen-analytic",
    config=ReadConfig,
    summary="Reads the input of a first linear layer off its gradient.",
    game="reconstruction",
    reader=Reader(
        tap=lambda config: Tap(("update", "aggregate"), rounds=config.rounds, by="server"),
        build=_analytic,
        signature=Signature(needs=(Knows("architecture"),), keeps=ALL),
    ),
)
CONFIDENCE = AttackSpec(
    api=1,
    name="frozen-confidence",
    config=ConfidenceConfig,
    summary="Calls those members whose own class is given a small loss.",
    game="membership",
    reader=Reader(
        tap=lambda config: Tap((config.reads,), by="outsider"),
        build=_confidence,
        signature=lambda config: Signature(keeps=ALL),
    ),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (
        *(TEMPERED, LABELS, WATCH, STEPS, SGD, ROUND, CLIP, NOISE, PADS, TWINS, BUCKETS, SPARSE, SMOOTHING),
        *(PUSH, FLIP, ASCENT, TRAP, ANALYTIC, CONFIDENCE),
        *(MEDIAN, MEAN, ADAGRAD, QUADRANTS, NET, ZCDP_SPEC, ENCLAVE, TURNS),
    )
