"""Checks of state and effect: what changes over rounds is declared and restored, and `acts` is true."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sparring.roles import Stateful
from sparring.testing.kit import Inapplicable, Scope, check, demand
from sparring.testing.purity import ROUNDS
from sparring.testing.stage import outcome, same
from sparring.testing.subject import ACTING, PLAYED, Trial

IN_ROUNDS = Scope[Trial](
    lambda s: s.spec.kind == "aggregators" or any(layer.site in ROUNDS for layer in s.layers),
    lambda s: (trial for trial in ACTING.targets(s) if trial.site in ROUNDS),
)


def _played(trial: Trial, instance: Any, index: int) -> tuple[Tensor, ...]:
    return trial.outcome(index=index, instance=instance, content=index)


def alike(left: Any, right: Any) -> bool:
    """Equality of nested values that may hold tensors."""
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return isinstance(left, Tensor) and isinstance(right, Tensor) and same([left], [right])
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(alike(a, b) for a, b in zip(left, right, strict=True))
    if (
        type(left) is type(right)
        and hasattr(left, "__dict__")
        and getattr(type(left), "__eq__", None) is vars(object)["__eq__"]
    ):
        return alike(vars(left), vars(right))
    return bool(left == right)


def _foreign(value: Any, path: str = "state") -> str | None:
    """Where a state holds what a checkpoint cannot, or None."""
    if isinstance(value, Mapping):
        keys = next((f"{path} has the key {key!r}" for key in value if not isinstance(key, str)), None)
        return keys or next((found for key, item in value.items() if (found := _foreign(item, f"{path}.{key}"))), None)
    return None if isinstance(value, Tensor | int | float | str) else f"{path} is a {type(value).__name__}"


@check(IN_ROUNDS)
def state_declared(trial: Trial) -> None:
    """Law: an instance that is not `Stateful` is the same after a round as before it.
    Why: what it remembers is in no checkpoint, so that a resumed run gives other numbers.
    If this fails: subclass `Stateful` and return everything that changes from `state()`; or keep nothing on `self`.
    """
    seasoned = trial.build()
    if isinstance(seasoned, Stateful):
        raise Inapplicable("it is Stateful")
    _played(trial, seasoned, 0)
    before = copy.deepcopy(vars(seasoned))
    _played(trial, seasoned, 1)
    changed = [name for name, value in vars(seasoned).items() if name not in before or not alike(before[name], value)]
    demand(not changed, f"{', '.join(changed)} changed over rounds, but it is not Stateful")
    fresh = _played(trial, trial.build(), 2)
    demand(
        same(fresh, _played(trial, seasoned, 2)), "after two rounds it makes something else of a signal than a fresh instance"
    )


@check(IN_ROUNDS)
def state_restores(trial: Trial) -> None:
    """Law: a fresh instance with another's `state()` (tensors, numbers, text, mappings) continues as that one does.
    Why: a run that was stopped resumes to the same numbers.
    If this fails: return everything that changes over rounds from `state()`, and take all of it over in `restore()`.
    """
    first = trial.build()
    if not isinstance(first, Stateful):
        raise Inapplicable("it keeps no state")
    for index in (0, 1):
        _played(trial, first, index)
    held = first.state()
    found = _foreign(held)
    demand(found is None, f"{found}, which no checkpoint holds")
    kept = copy.deepcopy(dict(held))
    second = trial.build()
    assert isinstance(second, Stateful)
    second.restore(kept)
    expected = _played(trial, first, 2)
    demand(
        same(expected, _played(trial, second, 2)), "round 2 after restore() differs from round 2 of the instance that went on"
    )
    demand(alike(first.state(), second.state()), "after round 2 the two instances hold different states")


ACTS = Scope[Trial](
    lambda s: any(layer.acts != "may" and layer.site in PLAYED for layer in s.layers),
    lambda s: (trial for trial in ACTING.targets(s) if trial.layer.acts != "may"),
)


@check(ACTS)
def acts_as_declared(trial: Trial) -> None:
    """Law: a layer with `acts="always"` changes a random signal, one with `acts="never"` changes none.
    Why: a defence that silently does nothing is the field's commonest bug; the engine fails the run of an idle `always`.
    If this fails: find why it does nothing; or declare `acts="may"` where it depends on the signal.
    """
    signal = trial.signal()
    before = outcome(trial.site, signal)
    after = outcome(trial.site, trial.apply(trial.build(), signal, trial.context()))
    if trial.layer.acts == "always":
        demand(not same(before, after), f"at {trial.site.label} it declares that it always acts, and changed nothing")
    else:
        demand(same(before, after), f"at {trial.site.label} it declares that it never acts, and changed the signal")
