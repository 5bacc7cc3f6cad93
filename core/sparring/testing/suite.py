"""`conformance`: a parametrised pytest function over techniques and checks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sparring.errors import did_you_mean
from sparring.specs import AnySpec
from sparring.testing.kit import CHECKS, Check, Inapplicable
from sparring.testing.subject import Example, Subject

MODULES = (
    "packaging", "configs", "declared", "granted", "purity", "state", "updates", "bounds", "server", "edges", "mechanisms",
    "pairs", "local", "examples", "aggregators", "judging", "active", "targeted", "passive", "membership", "inverted",
    "datasets", "models",
    "accountants", "engines", "trainers", "hosts", "gpu", "reference",
)  # fmt: skip
Plugins = Callable[[], Iterable[AnySpec]] | ModuleType


@dataclass(frozen=True)
class Case:
    """One technique under one check."""

    subject: Subject
    check: Check[Any]

    @property
    def id(self) -> str:
        """``technique::check``."""
        return f"{self.subject.spec.name}::{self.check.name}"

    def run(self) -> None:
        """Run the check; raises `AssertionError` or `Inapplicable`."""
        __tracebackhide__ = True
        self.check.run(self.subject)


def cases(
    plugins: Plugins,
    *,
    examples: Mapping[str, Sequence[Example]] | None = None,
    fast: Mapping[str, Mapping[str, Any]] | None = None,
    beside: Iterable[AnySpec] = (),
) -> list[Case]:
    """Every technique of a distribution with every check that applies to it, without pytest."""
    for module in MODULES:
        importlib.import_module(f"sparring.testing.{module}")
    function = plugins.sparring_plugins if isinstance(plugins, ModuleType) else plugins
    specs = tuple(function())
    names = [spec.name for spec in specs]
    examples, fast = examples or {}, fast or {}
    for what, given in (("examples", examples), ("fast", fast)):
        _known(what, given, names)
    others = tuple(beside)
    subjects = [
        Subject(s, specs, function.__module__, tuple(examples.get(s.name, ())), fast.get(s.name, {}), others) for s in specs
    ]
    return [Case(subject, check) for subject in subjects for check in CHECKS.values() if check.scope.applies(subject)]


def conformance(
    plugins: Plugins,
    *,
    xfail: Mapping[str, str] | None = None,
    examples: Mapping[str, Sequence[Example]] | None = None,
    fast: Mapping[str, Mapping[str, Any]] | None = None,
    slow: Collection[str] = (),
    beside: Iterable[AnySpec] = (),
) -> Callable[..., None]:
    """A test function for ``test_conformance = conformance(sparring_plugins)``: one test per technique and check.

    ``plugins``: the distribution's `sparring_plugins`, or its light module. ``examples``: further configurations to try, by
    technique: mappings of options, or functions from an empty folder to one. ``fast``: options by technique that make controls
    of attacks quicker. ``xfail``: ``technique::check`` to the reason why it fails; strict: once it passes, the line must go.
    ``slow``: ids that are marked slow. ``beside``: installed techniques that a host may be asked to rebuild. Raises
    `ValueError` for a name that matches nothing, and for an empty reason.

    >>> from sparring_mine.plugin import sparring_plugins                 # doctest: +SKIP
    >>> test_conformance = conformance(sparring_plugins)                # doctest: +SKIP
    """
    import pytest

    found = cases(plugins, examples=examples, fast=fast, beside=beside)
    xfail = xfail or {}
    ids = [case.id for case in found]
    _known("xfail", xfail, ids)
    _known("slow", slow, ids)
    empty = [name for name, reason in xfail.items() if not reason.strip()]
    if empty:
        raise ValueError(f"xfail[{empty[0]!r}] gives no reason; say why the check fails")
    parameters = []
    for case in found:
        marks: list[Any] = [pytest.mark.slow] if case.id in slow else []
        if case.id in xfail:
            marks.append(pytest.mark.xfail(reason=xfail[case.id], strict=True, raises=AssertionError))
        parameters.append(pytest.param(case, id=case.id, marks=marks))

    @pytest.mark.parametrize("case", parameters)
    def test_conformance(case: Case) -> None:
        __tracebackhide__ = True
        try:
            case.run()
        except Inapplicable as reason:
            pytest.skip(str(reason))

    return test_conformance


def _known(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{what} names {name!r}, which matches nothing here; {did_you_mean(name, known)}")
