"""The choice of a training strategy, by device and model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn

from sparring import stacked, workers
from sparring.defaults import ENGINES
from sparring.errors import ConfigError
from sparring.registry import require
from sparring.schema import validated
from sparring.train import Sequential

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring.resolve import Resolved
    from sparring.strategies import Strategy, Work


def choose(resolved: Resolved, work: Work, setup: Setup) -> tuple[Strategy, str]:
    """The training strategy and why: by device and model, unless the file says which."""
    given, asked = resolved.file.engine, resolved.file.performance.workers
    engine, options = (given, {}) if isinstance(given, str) else (given.name, given.options)
    if engine not in ENGINES:
        spec: Any = require(engine, ("engines",))[0]
        return spec.build(validated(spec.config, options, "engine")).strategy(work, setup), f"engine {engine}"
    module = work.plan.factory()
    unstackable = stacked.obstacle(module) or ("local buffers are kept per client" if work.buffers else None)
    unforkable = workers.obstacle() or (f"training runs on {work.device.type}" if work.device.type != "cpu" else None)
    cores = asked or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else asked or os.cpu_count() or 1
    if engine == "stacked" or (engine == "auto" and not unstackable and _prefers_stacked(module, work)):
        if unstackable:
            raise ConfigError(f"engine is stacked, but this model cannot be: {unstackable}; use workers or sequential")
        return stacked.Stacked(work), "asked for" if engine == "stacked" else f"no convolution, or on {work.device.type}"
    if engine == "workers" or (engine == "auto" and not unforkable and cores > 1 and len(work.data.clients) > 1):
        if unforkable:
            raise ConfigError(f"engine is workers, but {unforkable}; use sequential or stacked")
        return workers.Workers(work, cores), "asked for" if engine == "workers" else f"convolutions on {cores} cores"
    return Sequential(work), "asked for" if engine == "sequential" else unforkable or "one core, or one client"


def _prefers_stacked(module: nn.Module, work: Work) -> bool:
    convolutions = any(isinstance(child, nn.modules.conv._ConvNd) for child in module.modules())
    return work.device.type != "cpu" or not convolutions
