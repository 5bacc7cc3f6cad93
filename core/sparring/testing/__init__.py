"""The conformance kit: one line in a distribution's tests checks every technique against what it declares."""

from sparring.testing.kit import CHECKS, Check, Inapplicable, check, demand
from sparring.testing.suite import Case, cases, conformance

__all__ = ["CHECKS", "Case", "Check", "Inapplicable", "cases", "check", "conformance", "demand"]
