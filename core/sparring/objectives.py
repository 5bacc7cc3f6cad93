"""Objectives: what an attack wants of the released model, and how far it has got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """Inputs [m, ...] and the labels ``wanted`` [m] that the attack wants the model to give them.

    ``index`` [m]: the test example that each input was made of, by a trigger or unchanged; None: inputs of the attack's own,
    which then must not be of the wanted class.
    """

    inputs: Tensor
    wanted: Tensor
    index: Tensor | None = None

    def counted(self, labels: Tensor) -> Tensor:
        """Which inputs [m] count: those whose test example, of true ``labels`` [N], is not of the wanted class already."""
        if self.index is None:
            return torch.ones(len(self.wanted), dtype=torch.bool)
        return labels[self.index] != self.wanted

    def reached(self, answers: Tensor, labels: Tensor) -> Tensor:
        """For each input that counts, whether the predicted label ``answers`` [m] is the wanted one."""
        return (answers == self.wanted)[self.counted(labels)]
