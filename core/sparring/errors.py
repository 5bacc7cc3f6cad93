"""The few classes of refusal, each an error that names the value, the rule and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SparringError(Exception):
    """Base of every error that a user can mend; the CLI prints it and exits with status 2."""


class ConfigError(SparringError):
    """A value in an experiment or plugin configuration breaks its rule."""


class CompositionError(SparringError):
    """The stack does not type-check as ordered, or a layer that it needs is missing."""


class PluginError(SparringError):
    """A plugin cannot be found, loaded or registered."""


class DataError(SparringError):
    """A data set is absent, malformed, or does not fit the model."""


class NumericalError(SparringError):
    """NaN or Inf appeared in a signal."""


class EffectError(SparringError):
    """A layer that declares that it always acts changed nothing, or a fact that it declares does not hold."""


class CheckpointError(SparringError):
    """A checkpoint is corrupt, or belongs to another experiment."""


class TrackingError(SparringError):
    """The tracking store cannot be used."""


class BudgetSpent(Exception):  # noqa: N818 - an answer of the oracle, not a failure of the program
    """The query budget of an attack is used up; the attack concludes with what it has."""


class RoundAborted(Exception):  # noqa: N818 - a protocol outcome, not a failure of the program
    """A protocol ended a round without a result; the state stays as it was and the round is recorded as aborted."""

    def __init__(self, layer: str, had: int, needed: int) -> None:
        super().__init__(f"'{layer}' had {had} participants where it needs {needed}")
        self.layer, self.had, self.needed = layer, had, needed


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """A hint with the closest option, or with all of them where none is close."""
    known = sorted(set(options))
    close = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(known)}" if known else "none is known"
