"""Checks of configurations: closed, frozen, bounded, described, and the same after JSON."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from sparring.specs import Config
from sparring.testing.kit import check, demand
from sparring.testing.sampler import annotated, bound, unwrapped
from sparring.testing.subject import CONFIGURED, EVERY, Subject, Trial


def _models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A configuration class and those nested in its fields."""
    yield kind
    for field in kind.model_fields.values():
        for nested in _nested(field.annotation):
            yield from _models(nested)


def _nested(hint: Any) -> Iterator[type[BaseModel]]:
    hint, _ = unwrapped(hint)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    for part in get_args(hint) if get_origin(hint) is not Literal else ():
        yield from _nested(part)


def unbounded(hint: Any) -> str | None:  # noqa: PLR0911 - one answer per kind of annotation
    """What of an annotation has no bounds, or None."""
    hint, limits = unwrapped(hint)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = (option for option in get_args(hint) if option is not type(None))
        return next((found for o in options if (found := unbounded(annotated(o, limits)))), None)
    if hint in (int, float):
        return None if bound(limits, "ge", "gt", "le", "lt") is not None else f"a {hint.__name__} without ge, gt, le or lt"
    if hint is str:
        return None if bound(limits, "max_length", "pattern") is not None else "a str without max_length or pattern"
    if origin in (tuple, list, set, frozenset, dict):
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        fixed = origin is tuple and Ellipsis not in get_args(hint)
        if not fixed and bound(limits, "max_length") is None:
            return f"a {origin.__name__} without max_length"
        return next((f"in a {origin.__name__}, {found}" for part in parts if (found := unbounded(part))), None)
    if hint in (bool, Path) or origin is Literal or hint is type(None):
        return None
    if isinstance(hint, type) and issubclass(hint, enum.Enum | BaseModel):
        return None
    return f"{hint}, which has no bounds"


@check(EVERY)
def config_closed(subject: Subject) -> None:
    """Law: a configuration class derives from `Config`: frozen, no unknown options, no NaN or infinity.
    Why: a misspelt option that is ignored is an experiment that silently did not happen.
    If this fails: subclass `sparring.specs.Config`, and do not loosen its `model_config`.
    """
    demand(issubclass(subject.spec.config, Config), f"{subject.spec.config.__name__} is no sparring.specs.Config")
    for model in _models(subject.spec.config):
        settings = model.model_config
        demand(settings.get("frozen") is True, f"{model.__name__} is not frozen")
        demand(settings.get("extra") == "forbid", f"{model.__name__} has extra={settings.get('extra')!r}, not 'forbid'")
        demand(settings.get("allow_inf_nan") is False, f"{model.__name__} admits NaN and infinity")


@check(EVERY)
def config_bounded(subject: Subject) -> None:
    """Law: every option has a description, and bounds (ge, gt, le, lt), a Literal, or a max_length.
    Why: the schema is the documentation, and a value out of bounds must be refused before anything runs.
    If this fails: write `Field(default, gt=0, le=..., description="...")`.
    """
    for model in _models(subject.spec.config):
        for name, field in model.model_fields.items():
            demand(bool((field.description or "").strip()), f"{model.__name__}.{name} has no description")
            found = unbounded(annotated(field.annotation, tuple(field.metadata)))
            demand(found is None, f"{model.__name__}.{name} is {found}")


@check(EVERY)
def config_tried(subject: Subject) -> None:
    """Law: the kit has a configuration to try: the default one, or an example by the author.
    Why: a technique without one passes every other check because nothing was run.
    If this fails: give `conformance(..., examples={'name': [{...}]})`, or defaults to every option.
    """
    demand(bool(subject.main), f"{subject.spec.config.__name__}() does not validate, and no example is given")


@check(CONFIGURED)
def config_round_trip(trial: Trial) -> None:
    """Law: a configuration is the same after JSON.
    Why: experiments are logged, resumed and rebuilt on other machines from JSON, never from a pickle.
    If this fails: use types that JSON holds: numbers, text, booleans, tuples, nested configurations.
    """
    text = trial.config.model_dump_json()
    again = type(trial.config).model_validate_json(text)
    demand(again == trial.config, f"{text} became {again!r}")
