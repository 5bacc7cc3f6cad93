"""Configurations drawn from a schema's bounds, deterministically: one option at a time away from a valid configuration."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from sparring.specs import Config

MOST = 12
"""Configurations drawn for one technique: enough for every option of most, few enough to stay quick."""


def samples(base: Config, size: bool = True) -> tuple[Config, ...]:
    """Valid configurations that differ from ``base`` in one option: near its bounds (the upper one capped), or each literal.

    ``size``: whether numbers may grow beyond those of ``base``.
    """
    found: list[Config] = []
    rest = base.model_dump(exclude_unset=True)
    for name, field in type(base).model_fields.items():
        hint = annotated(field.annotation, tuple(field.metadata))
        for value in values(hint, getattr(base, name), size):
            try:
                config = type(base).model_validate({**rest, name: value})
            except ValidationError:
                continue
            if config != base and config not in found:
                found.append(config)
    step = max(1, -(-len(found) // MOST))
    return tuple(found[::step])


def values(hint: Any, now: Any, size: bool) -> Iterator[Any]:
    """Values of an annotation that are worth a try, where the option is ``now``."""
    hint, limits = unwrapped(hint)
    if get_origin(hint) in (Union, types.UnionType):
        for option in get_args(hint):
            if option is not type(None):
                yield from values(annotated(option, limits), now, size)
    elif get_origin(hint) is Literal:
        yield from get_args(hint)
    elif hint is bool:
        yield from (False, True)
    elif hint in (int, float):
        yield from _numbers(hint, limits, now, size)


def _numbers(hint: type[int] | type[float], limits: tuple[Any, ...], now: Any, size: bool) -> Iterator[float]:
    low, high = bound(limits, "ge", "gt"), bound(limits, "le", "lt")
    if low is None or high is None:
        return
    here = now if isinstance(now, int | float) else low
    if bound(limits, "ge") is not None:
        yield hint(low)
    yield low + 1 if hint is int else low + (min(abs(here - low) or 1, high - low)) / 8
    if size:
        cap = min(high, max(2 * abs(here), low + 2) if hint is int else max(100 * abs(here), 100.0))
        yield hint(cap) if cap < high or bound(limits, "le") is not None else here + (high - here) * 7 / 8


def annotated(hint: Any, limits: tuple[Any, ...]) -> Any:
    """An annotation with constraints on it."""
    return Annotated.__class_getitem__((hint, *limits)) if limits else hint  # type: ignore[attr-defined]


def unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without ``Annotated``, and every constraint on it."""
    limits: list[Any] = []
    while get_origin(hint) is Annotated:
        hint, *extra = get_args(hint)
        for item in extra:
            limits += getattr(item, "metadata", None) or [item]
    return hint, tuple(limits)


def bound(limits: tuple[Any, ...], *names: str) -> Any:
    """The first constraint of one of these names."""
    return next((v for item in limits for name in names if (v := getattr(item, name, None)) is not None), None)
