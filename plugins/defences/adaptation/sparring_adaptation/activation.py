"""Another nonlinearity in place of every activation module."""

from __future__ import annotations

from typing import final

from torch import nn

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ModelPlan
from sparring_adaptation.configs import Activation, ActivationConfig
from sparring_adaptation.observing import observe, refuse_functional, replaced

TO: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
KINDS: tuple[type[nn.Module], ...] = (
    *TO.values(), nn.ReLU6, nn.CELU, nn.GELU, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.PReLU,
    nn.RReLU, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold,
)  # fmt: skip
KERNELS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""Functions that hold nonlinearities within."""
FUNCTIONS = (
    "relu", "leaky_relu", "elu", "selu", "silu", "mish", "tanh", "sigmoid", "relu6", "celu", "gelu", "softplus", "softsign",
    "hardtanh", "hardswish", "hardsigmoid", "prelu", "rrelu", "logsigmoid", "tanhshrink", "softshrink", "hardshrink",
    "threshold", "expit",
)  # fmt: skip


def activations(model: nn.Module) -> list[str]:
    """The names of a model's activation modules."""
    return [name for name, module in model.named_modules() if isinstance(module, KINDS)]


@final
class OtherActivation(Defence[ModelPlan]):
    r"""$\sigma \leftarrow \sigma'$ in every activation module; modules of the wanted kind stay as they are.

    Parameters of what is replaced (PReLU) go with it; all others, and their initial values, stay. Softmax and GLU are no
    activations in this sense. Functions called in a forward method are seen by one watched forward pass of two zero inputs.
    Errors: `ConfigError` where a module calls another nonlinearity than the wanted one as a function, or within an RNN kernel.

    Source: a knob of Usynin, Rueckert, Passerat-Palmbach and Kaissis, "Zen and the art of model adaptation", PoPETs 2022(1),
    10.2478/popets-2022-0014.
    """

    def __init__(self, config: ActivationConfig) -> None:
        self.to = config.to

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        del ctx
        seen, kind = observe(signal), TO[self.to]
        others = [name for name in (*FUNCTIONS, *KERNELS) if name != self.to.replace("-", "_")]
        refuse_functional("activation", seen.functional(others, *KINDS), "activations as modules, such as nn.ReLU()")
        modules = dict(seen.model.named_modules())
        return replaced(
            signal,
            "activation",
            {name: lambda old: kind() for name in activations(seen.model) if type(modules[name]) is not kind},
        )
