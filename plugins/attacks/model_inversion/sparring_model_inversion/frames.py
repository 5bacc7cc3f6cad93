"""Intermediate findings, kept at equal distances."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Frames:
    """Keeps ``wanted`` findings [K, ...] over ``iterations``: memory does not grow with these."""

    wanted: int
    iterations: int
    kept: list[tuple[int, Tensor]] = field(default_factory=list)

    def see(self, done: int, x: Tensor) -> None:
        """Keep ``x`` if a frame is due after ``done`` iterations."""
        if done * self.wanted // self.iterations > (done - 1) * self.wanted // self.iterations:
            self.kept.append((done, x.detach().clone()))

    def of(self, k: int) -> list[tuple[int, Tensor]]:
        """The frames [1, ...] of one finding."""
        return [(done, x[k : k + 1]) for done, x in self.kept]
