"""Scoring: what a game knows and no attack sees, and the measures that it makes of a finding."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.objectives import Objective
from sparring.signals import Column, Examples
from sparring.views import Finding


@dataclass(frozen=True)
class Measure:
    """A value with its null baseline and, where it was estimated, a 95 % interval."""

    value: float
    baseline: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Wanted:
    """An objective beside what the released model answers: to its inputs [m], and to the test examples [N] of true ``labels``.

    ``tests``: the inputs of those. ``success``: the rate after each evaluated round. ``window``: the first and the last round
    of the attack; None: all.
    """

    objective: Objective
    answers: Tensor
    predicted: Tensor
    labels: Tensor
    success: Sequence[tuple[int, float]]
    tests: Tensor | None = None
    window: tuple[int, int] | None = None


@dataclass(frozen=True)
class Truth:
    """What a game knows and no attack sees.

    ``examples``: the private data behind each capture, keyed by (round, client). ``mean``: the mean training input.
    ``accuracy``: test accuracy after each evaluated round. ``majority``: the share of the largest test class. ``member``: [m].
    ``wanted``: what the attack wants of the model, and what it got. ``decoys`` [m, ...]: inputs of the same kind that no
    capture is made of. ``columns``: what the features of records are. ``private`` and ``tests``: examples of the honest clients
    together, and others that no client holds.
    """

    examples: Mapping[tuple[int, int | None], Examples] = field(default_factory=dict)
    mean: Tensor | None = None
    accuracy: Sequence[float] = ()
    majority: float = 0.0
    member: Tensor | None = None
    wanted: Wanted | None = None
    decoys: Tensor | None = None
    columns: Sequence[Column] = ()
    private: Examples | None = None
    tests: Examples | None = None


@dataclass(frozen=True)
class Score:
    """The measures of a finding, the one that stands in the table first, and originals beside reconstructions.

    ``mean``: the mean input, for pictures. ``frames``: of each pair, what the attack had after so many iterations.
    ``original``: what the first of a pair is called. ``each``: measures of every victim, in the order of the victims, so that
    two runs on the same ones can be paired.
    """

    headline: str
    measures: Mapping[str, Measure]
    pairs: Sequence[tuple[Tensor, Tensor]] = ()
    mean: Tensor | None = None
    frames: Sequence[Sequence[tuple[int, Tensor]]] = ()
    original: str = "original"
    each: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Game(ABC):
    """Scores a finding against the truth."""

    @abstractmethod
    def score(self, finding: Finding | None, truth: Truth) -> Score:
        """Measures with baselines; ``finding`` is None for attacks that only act."""


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95 % normal interval of the mean; None below two values."""
    if len(values) < 2:
        return None
    t = torch.tensor(values, dtype=torch.float64)
    half = 1.96 * float(t.std()) / math.sqrt(len(values))
    return float(t.mean()) - half, float(t.mean()) + half


def wilson(hits: int, trials: int) -> tuple[float, float] | None:
    """A 95 % interval of a share (Wilson, 1927); None without trials."""
    if not trials:
        return None
    z, p = 1.96, hits / trials
    centre, scale = p + z * z / (2 * trials), 1 + z * z / trials
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return (centre - half) / scale, (centre + half) / scale
