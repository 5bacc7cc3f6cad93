"""Released models as an attack may be given them: as they are, or behind a query budget."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparring.layout import Layout
from sparring.local import cross_entropy
from sparring.record import budgeted
from sparring.signals import ModelPlan
from sparring.testing.kit import Inapplicable
from sparring.testing.subject import Trial
from sparring.views import ModelView, QueryView


def released(
    trial: Trial, plan: ModelPlan, module: nn.Module, budget: int, x: Tensor | None = None, y: Tensor | None = None
) -> Any:
    """The view of ``module`` that the attack of ``trial`` taps; ``x``, ``y``: candidates and their targets."""
    wanted = trial.spec.reader.tap(trial.config).views
    if "model" in wanted:
        layout = Layout.of(module)
        return ModelView(plan.shape, cross_entropy, (0,), (layout.row(module),), layout, plan, module, x, y)
    if "query" in wanted:
        return QueryView(plan.shape, cross_entropy, budgeted(module, budget), budget, x, y)
    raise Inapplicable("it reads neither a model nor its answers")


def taught(module: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float, decay: float = 0.0) -> nn.Module:
    """``module`` after ``steps`` of Adam on all of ``x``, ``y``, frozen and in evaluation mode."""
    optimiser = torch.optim.Adam(module.parameters(), lr=lr, weight_decay=decay)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimiser.step()
    return module.requires_grad_(False).eval()
