"""What clients would send that trained on dummies: their local steps, simulated with a graph to those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from sparring.errors import ConfigError
from sparring.views import LocalSettings
from sparring_inversion.matching import Gradient, Look, Stack, local_steps


@dataclass(frozen=True)
class Course:
    """The part of a capture's dummies that one client holds: how many these are, and those in the lot of each of its steps."""

    size: int
    lots: tuple[slice, ...]


def courses(examples: int, clients: int, settings: LocalSettings) -> tuple[Course, ...]:
    """What each client behind a capture does in a round.

    Examples are dealt to clients in equal parts, in order; a client takes its own in order, the same in every epoch, since the
    order that it drew is not sent. Clients without examples take no step and are left out.
    """
    found = []
    for held in torch.arange(examples).tensor_split(clients):
        if size := len(held):
            whole = settings.algorithm == "fedsgd"
            parts = [
                slice(int(part[0]), int(part[-1]) + 1) for part in held.split(size if whole else settings.batch_size or size)
            ]
            steps = 1 if whole else settings.steps or settings.epochs * len(parts)
            found.append(Course(size, tuple(parts[t % len(parts)] for t in range(steps))))
    return tuple(found)


def behind(stack: Stack, settings: LocalSettings) -> tuple[Course, ...]:
    """The courses behind each capture of a stack, whose captures are of equally many clients."""
    first = stack.captures[0]
    return courses(first.examples, first.count, settings)


def gradients(stack: Stack, settings: LocalSettings) -> int:
    """How many gradients one simulation of a capture takes, and holds at once."""
    return sum(len(course.lots) for course in behind(stack, settings))


def unrolled(stack: Stack, settings: LocalSettings) -> Callable[[Tensor], Look]:
    r"""Of dummies x [S, B, ...], what clients that hold them send after training as in ``settings``, over - lr T.

    From the broadcast parameters, $\theta_{t+1} = \theta_t - \eta v_t$ with
    $v_t = \mu v_{t-1} + \nabla_\theta L(\theta_t; x_t) + \lambda \theta_t$ over T lots: SGD with ``momentum`` $\mu$ and
    ``weight_decay`` $\lambda$. The result is $\frac{1}{T} \sum_t v_t = (\theta_0 - \theta_T) / (\eta T)$: on the scale of
    `Stack.targets`, and after one step on all dummies the gradient of `Stack.look`. An aggregate is the mean of its clients,
    weighted by their examples. ``loss`` is the mean over steps, weighted alike. What else training may draw or change (dropout,
    another sampler, a proximal term) is not simulated.

    Raises `ConfigError` for algorithms other than fedavg and fedsgd.

    Sources: Geiping et al., NeurIPS 2020, 2003.14053, section 5; Dimitrov et al., TMLR 2022, 2206.12395.
    """
    if settings.algorithm not in ("fedavg", "fedsgd"):
        raise ConfigError(
            f"clients train by {settings.algorithm}, and only the SGD of fedavg and fedsgd can be simulated; attack with "
            "inverting-gradients"
        )
    whole = settings.algorithm == "fedsgd"
    lr, momentum, decay = (1.0, 0.0, 0.0) if whole else (settings.lr, settings.momentum, settings.weight_decay)
    start, objective, _ = stack.problem
    slope, every, steps = grad_and_value(objective), behind(stack, settings), local_steps(stack.captures[0], settings)

    def travel(course: Course, x: Tensor, y: Tensor) -> tuple[Gradient, Tensor]:
        theta, velocity, total, loss = start, Gradient(), Gradient(), x.new_zeros(())
        for lot in course.lots:
            step, value = slope(theta, x[lot], y[lot])
            if decay:
                step = add(step, decay, theta)
            velocity = add(step, momentum, velocity) if momentum and velocity else step
            total = add(velocity, 1, total) if total else velocity
            theta = add(theta, -lr, velocity)
            loss = loss + value / len(course.lots)
        return total, loss

    def average(x: Tensor, y: Tensor) -> tuple[Gradient, Tensor]:
        total, loss = Gradient(), x.new_zeros(())
        for course in every:
            share = course.size / len(x)
            moved, value = travel(course, x, y)
            total, loss = add(total, share / steps, moved), loss + share * value
        return total, loss

    stacked = vmap(average)
    return lambda x: Look(*stacked(x, stack.labels))


def add(one: Gradient, factor: float, other: Gradient) -> Gradient:
    """one + factor other; a missing ``one`` is zero."""
    return {name: one[name] + factor * value if one else factor * value for name, value in other.items()}
