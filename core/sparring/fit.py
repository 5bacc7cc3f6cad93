"""Data, model and device brought together, before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sparring.context import Setup
from sparring.errors import ConfigError, DataError
from sparring.roles import Data
from sparring.schema import Federation
from sparring.signals import ModelPlan
from sparring.views import LocalSettings


def fits(module: nn.Module, data: Data, name: str, dtype: torch.dtype) -> None:
    """Raise `DataError` where a model does not accept the inputs, or does not return one output a class."""
    inputs = torch.zeros(2, *data.shape.inputs, dtype=dtype)
    try:
        with torch.no_grad():
            shape = tuple(module.to(dtype).eval()(inputs).shape)
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"model '{name}' does not accept inputs of shape {data.shape.inputs}: {error}") from error
    wanted = (2, data.shape.classes) if data.shape.task == "classification" else (2, data.shape.classes, *data.shape.inputs[1:])
    if shape != wanted:
        raise DataError(f"model '{name}' returns {shape[1:]} for an input; the data needs {wanted[1:]} ({data.shape.task})")


def initial(plan: ModelPlan, setup: Setup) -> nn.Module:
    """The model at the start of a run, from the run's own stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.key.child("setup", "layer", "model").number())
        return plan.factory()


def cast(data: Data, dtype: torch.dtype) -> Data:
    """The data with inputs in the run's floating-point type."""
    return replace(
        data,
        train=replace(data.train, x=data.train.x.to(dtype)),
        test=replace(data.test, x=data.test.x.to(dtype)),
        public=None if data.public is None else replace(data.public, x=data.public.x.to(dtype)),
    )


def device_of(wanted: str) -> torch.device:
    """The device that an experiment asks for; auto is CUDA where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("performance.device is cuda, but torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def settings(federation: Federation) -> LocalSettings:
    """How each client trains in a round."""
    f, o = federation, federation.optimiser
    return LocalSettings(f.algorithm, o.lr, o.momentum, o.weight_decay, f.batch_size, f.local_epochs, f.local_steps)
