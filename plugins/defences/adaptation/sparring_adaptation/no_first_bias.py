"""The first layer without its bias."""

from __future__ import annotations

from typing import Any, final

from torch import nn

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ModelPlan
from sparring_adaptation.observing import observe, replaced


@final
class NoFirstBias(Defence[ModelPlan]):
    r"""$W x + b \leftarrow W x$ in the first convolution or linear layer that runs; W stays.

    Closes the closed form $x = \nabla_{W_i} L / \nabla_{b_i} L$ for inputs of a linear layer. It hides the *scale* of x alone:
    where one example reaches neuron i, $\nabla_{W_i} L$ is still a multiple of x, and whoever knows the range of x finds it.
    Biases of later layers still give the inputs of those. Idempotent. A first layer without bias stays as it is.

    Sources: the leak: Phong et al., IEEE TIFS 13(5), 2018; Geiping et al., NeurIPS 2020, 2003.14053. A knob of Usynin et al.,
    PoPETs 2022(1), 10.2478/popets-2022-0014.
    """

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        del ctx
        first: list[Any] = observe(signal).layers()[:1]
        return replaced(signal, "no-first-bias", {v.name: _unbiased for v in first if v.module.bias is not None})


def _unbiased(old: nn.Module) -> nn.Module:
    old.register_parameter("bias", None)
    return old
