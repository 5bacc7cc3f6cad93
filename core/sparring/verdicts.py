"""Verdicts: what an analysis of updates thinks of each client, and how often it was right."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verdict:
    """What ``layer`` thinks of the clients of a round.

    ``suspicion``: client to a number, the higher the more suspect, in whatever unit the analysis has. ``flagged``: those that
    it takes for malicious, whether or not it left their rows out.
    """

    layer: str
    suspicion: Mapping[int, float]
    flagged: frozenset[int] = frozenset()


@dataclass
class Detection:
    """How the verdicts of one layer compare with the truth, over rounds: counts of clients, and areas under the ROC curve."""

    hit: int = 0
    false_alarm: int = 0
    miss: int = 0
    passed: int = 0
    areas: float = 0.0
    rounds: int = 0

    def add(self, verdict: Verdict, malicious: Collection[int]) -> None:
        """Count the verdict of a round in which ``malicious`` clients attacked."""
        for client in verdict.suspicion:
            bad, flagged = client in malicious, client in verdict.flagged
            self.hit += bad and flagged
            self.miss += bad and not flagged
            self.false_alarm += flagged and not bad
            self.passed += not bad and not flagged
        area = auc(
            [s for c, s in verdict.suspicion.items() if c in malicious],
            [s for c, s in verdict.suspicion.items() if c not in malicious],
        )
        if area is not None:
            self.areas, self.rounds = self.areas + area, self.rounds + 1

    def measures(self) -> dict[str, float]:
        """Precision, recall, false positive rate and mean AUC, each where it is defined."""
        ratios = {
            "precision": (self.hit, self.hit + self.false_alarm),
            "recall": (self.hit, self.hit + self.miss),
            "false_positive_rate": (self.false_alarm, self.false_alarm + self.passed),
            "auc": (self.areas, self.rounds),
        }
        return {name: count / total for name, (count, total) in ratios.items() if total}


def auc(positive: Iterable[float], negative: Iterable[float]) -> float | None:
    """P(positive > negative) + P(equal) / 2 over all pairs; None where one side is empty."""
    inside, outside = list(positive), list(negative)
    if not inside or not outside:
        return None
    return sum((a > b) + (a == b) / 2 for a in inside for b in outside) / (len(inside) * len(outside))


@dataclass
class Detections:
    """The detections of a run, by layer."""

    by_layer: dict[str, Detection] = field(default_factory=dict)

    def add(self, verdicts: Iterable[Verdict], malicious: Collection[int]) -> None:
        """Count the verdicts of a round."""
        for verdict in verdicts:
            self.by_layer.setdefault(verdict.layer, Detection()).add(verdict, malicious)
