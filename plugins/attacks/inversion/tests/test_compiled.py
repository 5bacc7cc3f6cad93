"""The second derivative by other means: without vmap for a stack of one, and compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from sparring_inversion.inverting_gradients import InvertingGradients
from sparring_inversion.matching import Look, stacks
from sparring_inversion.plugin import InvertingGradientsConfig
from torch import Tensor

from sparring.context import Setup
from sparring.errors import ConfigError
from sparring.keys import Key
from sparring.testing.fixtures import tiny_victim
from sparring.views import Reconstruction


def inverted(images: int, **options: object) -> Reconstruction:
    config = InvertingGradientsConfig.model_validate({"iterations": 40, "restarts": 2, **options})
    return InvertingGradients(config).attack_observe(tiny_victim(images).view, Setup(Key(0), "attack"))


def slope(look: Callable[[Tensor], Look], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    found = look(x)
    total = sum(g.square().sum() for g in found.gradient.values()) + found.loss.sum()
    return torch.autograd.grad(total, x)[0]


def test_a_stack_of_one_is_seen_as_among_others() -> None:
    (stack,) = stacks(tiny_victim(3).view, "granted")
    x = torch.rand(3, *stack.inputs, generator=torch.Generator().manual_seed(0))
    whole, slopes = stack.look(x), slope(stack.look, x)
    for i in range(3):
        alone = stack.take([i])
        for look in (alone.look, alone.functional):
            seen = look(x[i : i + 1])
            assert seen.loss.allclose(whole.loss[i : i + 1])
            assert all(g.allclose(whole.gradient[name][i : i + 1], atol=1e-6) for name, g in seen.gradient.items())
            assert slope(look, x[i : i + 1]).allclose(slopes[i : i + 1], rtol=1e-4, atol=1e-5)


def test_where_nothing_can_be_compiled_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(*args: object, **options: object) -> object:
        def fails(z: Tensor) -> Tensor:
            raise RuntimeError("no C++ compiler")

        return fails

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler; set compiled: false"):
        inverted(2, compiled=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch compiles for the CPU with a C++ compiler, and there is none")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("restarts", [1, 2])
def test_compiled_it_finds_the_same(restarts: int) -> None:
    """Up to what rounding makes of signs: an input whose slope is about 0 may go the other way for a step of lr."""
    plain, compiled = (inverted(1, restarts=restarts, compiled=how, lr=0.01) for how in (False, True))
    for key, x in plain.inputs.items():
        assert (x - compiled.inputs[key]).abs().mean() < 0.01
        assert compiled.loss[key] == pytest.approx(plain.loss[key], rel=0.05, abs=1e-3)
