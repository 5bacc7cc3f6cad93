"""What a check is: a function with a law, the techniques that it applies to, and how it fails."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from sparring.errors import SparringError

if TYPE_CHECKING:
    from sparring.testing.subject import Subject

SECTIONS = ("Law", "Why", "If this fails")


class Inapplicable(Exception):  # noqa: N818 - an answer, not a failure: the test is skipped with this reason
    """There is nothing here that the check could test."""


class Target(Protocol):
    """What one call of a check is given: a technique, or one of its parts under one configuration."""

    @property
    def label(self) -> str:
        """Which configuration, and which layer."""

    @property
    def sampled(self) -> bool:
        """Whether the kit made the configuration up, so that the technique may refuse it."""


T = TypeVar("T", bound=Target)


@dataclass(frozen=True)
class Scope(Generic[T]):
    """What a check runs on: whether it applies to a technique at all (light), and the targets that it is called with."""

    applies: Callable[[Subject], bool]
    targets: Callable[[Subject], Iterable[T]]

    def where(self, applies: Callable[[Subject], bool]) -> Scope[T]:
        """The same targets, of techniques that also fulfil ``applies``."""
        return Scope(lambda s: self.applies(s) and applies(s), self.targets)


def demand(holds: bool, found: str) -> None:
    """Raise `AssertionError` with what was ``found`` unless the law ``holds``; the check adds its law and the fix."""
    if not holds:
        raise AssertionError(found)


@dataclass(frozen=True)
class Check(Generic[T]):
    """A law of the contract with the function that tests it."""

    name: str
    scope: Scope[T]
    function: Callable[[T], None]
    sections: dict[str, str]

    def run(self, subject: Subject) -> None:
        """Test one technique: `AssertionError` with name, value, law and fix, or `Inapplicable`."""
        __tracebackhide__ = True
        ran, reasons = 0, []
        for target in self.scope.targets(subject):
            try:
                self.function(target)
            except Inapplicable as reason:
                reasons.append(str(reason))
                continue
            except SparringError as error:
                if not target.sampled:
                    raise AssertionError(self.failure(subject, target, f"raised {type(error).__name__}: {error}")) from error
                continue
            except AssertionError as error:
                raise AssertionError(self.failure(subject, target, str(error) or _where(error))) from error
            except Exception as error:
                found = f"raised {type(error).__name__}: {error} ({_where(error)})"
                raise AssertionError(self.failure(subject, target, found)) from error
            ran += 1
        if not ran:
            raise Inapplicable("; ".join(dict.fromkeys(reasons)) or "no configuration to try")

    def failure(self, subject: Subject, target: Target, found: str) -> str:
        """The text of a failure."""
        where = f"{subject.spec.name}::{self.name}" + (f" with {target.label}" if target.label else "")
        law, why, fix = (self.sections[section] for section in SECTIONS)
        return f"{where}: {found}\n  law: {law}\n  why: {why}\n  fix: {fix}"


def _where(error: BaseException) -> str:
    trace = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    return f"{trace[-1].filename}:{trace[-1].lineno}" if trace else "nowhere"


CHECKS: dict[str, Check[Any]] = {}
"""Every check by name, in the order in which they run."""


def check(scope: Scope[T]) -> Callable[[Callable[[T], None]], Callable[[T], None]]:
    """Register a function as a check; its docstring has the sections Law, Why, If this fails."""

    def register(function: Callable[[T], None]) -> Callable[[T], None]:
        name = function.__name__.strip("_").replace("_", "-")
        if name in CHECKS:
            raise ValueError(f"a check named '{name}' exists; choose another name")
        CHECKS[name] = Check(name, scope, function, _sections(name, inspect.getdoc(function) or ""))
        return function

    return register


def _sections(name: str, text: str) -> dict[str, str]:
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", text, flags=re.MULTILINE)
    found = {title: " ".join(body.split()) for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    missing = [title for title in SECTIONS if not found.get(title)]
    if missing:
        raise ValueError(
            f"the docstring of check '{name}' lacks {', '.join(missing)}; write 'Law: ... Why: ... If this fails: ...'"
        )
    return found
