"""Update poisoning that crafts what is sent from the updates that it sees, and perhaps from the server's rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sparring.facts import Knows
from sparring.specs import AnySpec, Config
from sparring_poisoning.declare import DIRECTION, KNOWLEDGE, Direction, Knowledge, poisons, sees

if TYPE_CHECKING:
    from sparring_poisoning.agr_tailored import AGRTailored
    from sparring_poisoning.fang_krum import FangKrum
    from sparring_poisoning.fang_median import FangMedian
    from sparring_poisoning.fang_trimmed_mean import FangTrimmedMean
    from sparring_poisoning.ipm import IPM
    from sparring_poisoning.mimic import Mimic
    from sparring_poisoning.min_max import MinMax
    from sparring_poisoning.min_sum import MinSum
    from sparring_poisoning.opt_alie import OptALIE
    from sparring_poisoning.opt_ipm import OptIPM

Sides = Literal["minus", "plus", "both"]
EVALUATIONS: Any = Field(
    24, ge=4, le=10_000, description="rehearsals of the server's rule in a round: half on a grid, half about its best point"
)
SIDES: Any = Field("minus", description="sign of the multiple: minus as in the paper, plus, or whichever of both does more")


class IPMConfig(Config):
    """Configuration of `ipm`."""

    epsilon: float = Field(0.5, ge=0, le=1e6, description="factor: each of its clients sends -epsilon times the mean")
    knowledge: Knowledge = KNOWLEDGE


class OptIPMConfig(Config):
    """Configuration of `opt-ipm`."""

    most: float = Field(10.0, gt=0, le=1e6, description="largest epsilon that is tried")
    sides: Sides = SIDES
    evaluations: int = EVALUATIONS
    knowledge: Knowledge = KNOWLEDGE


class OptALIEConfig(Config):
    """Configuration of `opt-alie`."""

    most: float = Field(10.0, gt=0, le=1e6, description="largest z that is tried")
    sides: Sides = SIDES
    evaluations: int = EVALUATIONS
    knowledge: Knowledge = KNOWLEDGE


class MinMaxConfig(Config):
    """Configuration of `min-max` and `min-sum`."""

    direction: Direction = DIRECTION
    knowledge: Knowledge = KNOWLEDGE


class AGRTailoredConfig(Config):
    """Configuration of `agr-tailored`."""

    direction: Direction = DIRECTION
    most: float = Field(10.0, gt=0, le=1e6, description="largest gamma that is tried")
    evaluations: int = EVALUATIONS
    knowledge: Knowledge = KNOWLEDGE


class FangConfig(Config):
    """Configuration of `fang-krum`."""

    knowledge: Knowledge = KNOWLEDGE


class FangOrderConfig(Config):
    """Configuration of `fang-trimmed-mean` and `fang-median`."""

    b: float = Field(2.0, gt=1, le=1e6, description="with benign knowledge, values reach from the extreme one to b times it")
    knowledge: Knowledge = KNOWLEDGE


class MimicConfig(Config):
    """Configuration of `mimic`."""

    warm_up: int = Field(
        10, ge=1, le=1_000_000, description="rounds in which it looks for the client to copy; then it is fixed"
    )
    knowledge: Knowledge = KNOWLEDGE


def _ipm(config: IPMConfig) -> IPM:
    from sparring_poisoning.ipm import IPM

    return IPM(config)


def _opt_ipm(config: OptIPMConfig) -> OptIPM:
    from sparring_poisoning.opt_ipm import OptIPM

    return OptIPM(config)


def _opt_alie(config: OptALIEConfig) -> OptALIE:
    from sparring_poisoning.opt_alie import OptALIE

    return OptALIE(config)


def _min_max(config: MinMaxConfig) -> MinMax:
    from sparring_poisoning.min_max import MinMax

    return MinMax(config)


def _min_sum(config: MinMaxConfig) -> MinSum:
    from sparring_poisoning.min_sum import MinSum

    return MinSum(config)


def _agr_tailored(config: AGRTailoredConfig) -> AGRTailored:
    from sparring_poisoning.agr_tailored import AGRTailored

    return AGRTailored(config)


def _fang_krum(config: FangConfig) -> FangKrum:
    from sparring_poisoning.fang_krum import FangKrum

    return FangKrum(config)


def _fang_median(config: FangOrderConfig) -> FangMedian:
    from sparring_poisoning.fang_median import FangMedian

    return FangMedian(config)


def _fang_trimmed_mean(config: FangOrderConfig) -> FangTrimmedMean:
    from sparring_poisoning.fang_trimmed_mean import FangTrimmedMean

    return FangTrimmedMean(config)


def _mimic(config: MimicConfig) -> Mimic:
    from sparring_poisoning.mimic import Mimic

    return Mimic(config)


RULE = Knows("aggregator")
CRAFTED: tuple[AnySpec, ...] = (
    poisons("ipm", IPMConfig, _ipm, sees(), "inner product manipulation: compromised clients send -epsilon times the mean"),
    poisons(
        "opt-ipm", OptIPMConfig, _opt_ipm, sees(RULE), "the multiple of the mean that moves the server's own rule furthest"
    ),
    poisons(
        "opt-alie",
        OptALIEConfig,
        _opt_alie,
        sees(RULE),
        "the mean less as many standard deviations as move the server's own rule furthest",
    ),
    poisons(
        "min-max",
        MinMaxConfig,
        _min_max,
        sees(),
        "as far along a perturbation as lies no further from any benign update than two of these from each other",
    ),
    poisons(
        "min-sum",
        MinMaxConfig,
        _min_sum,
        sees(),
        "as far along a perturbation as its squared distances to the benign updates sum to no more than a benign update's",
    ),
    poisons(
        "agr-tailored",
        AGRTailoredConfig,
        _agr_tailored,
        sees(RULE),
        "as far along a perturbation as moves the server's own rule most without being left out by it",
    ),
    poisons(
        "fang-krum",
        FangConfig,
        _fang_krum,
        sees(),
        "the largest step against the model's course that Krum still chooses (Fang et al. 2020)",
    ),
    poisons(
        "fang-trimmed-mean",
        FangOrderConfig,
        _fang_trimmed_mean,
        sees(),
        "values just beyond the benign extreme, against the trimmed mean's course in each coordinate (Fang et al. 2020)",
    ),
    poisons(
        "fang-median",
        FangOrderConfig,
        _fang_median,
        sees(),
        "values just beyond the benign extreme, against the median's course in each coordinate (Fang et al. 2020)",
    ),
    poisons(
        "mimic",
        MimicConfig,
        _mimic,
        sees(),
        "compromised clients all copy the client that lies furthest along the spread, so that others count for less",
    ),
)
"""Attacks that craft what they send."""
