"""The conformance kit: one line in a distribution's tests checks every technique against what it declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring.testing.kit import CHECKS, Check, Inapplicable, check, demand
    from sparring.testing.suite import Case, cases, conformance

__all__ = ["CHECKS", "Case", "Check", "Inapplicable", "cases", "check", "conformance", "demand"]
_SUITE = ("Case", "cases", "conformance")


def __getattr__(name: str) -> Any:
    """Loaded when asked for: the command line lists the commands beside the kit without it."""
    if name not in __all__:
        raise AttributeError(f"module 'sparring.testing' has no attribute {name!r}")
    from sparring.testing import kit, suite

    return getattr(suite if name in _SUITE else kit, name)
