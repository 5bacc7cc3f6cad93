"""Multilayer perceptrons, down to logistic regression."""

from __future__ import annotations

from math import prod
from typing import final

from torch import nn

from sparring.roles import Model
from sparring.signals import DataShape
from sparring_zoo.parts import ACTIVATIONS, classifies, normalised
from sparring_zoo.plugin import MLPConfig


@final
class MLP(Model):
    """Linear layers on flattened inputs of any shape, with a nonlinearity after each hidden one.

    ``hidden: []`` is the linear model, multinomial logistic regression under cross-entropy: convex.
    """

    def __init__(self, config: MLPConfig) -> None:
        self.config = config

    def module(self, shape: DataShape) -> nn.Module:
        classifies("mlp", shape)
        layers: list[nn.Module] = [nn.Flatten()]
        features = prod(shape.inputs)
        for hidden in self.config.hidden:
            layers += [nn.Linear(features, hidden), ACTIVATIONS[self.config.activation]()]
            features = hidden
        layers.append(nn.Linear(features, shape.classes))
        return normalised("mlp", self.config.normalise, shape, nn.Sequential(*layers))
