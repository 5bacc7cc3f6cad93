"""Sparring: adversarial interference in collaborative machine learning, as plugins that are checked, fast and tracked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparring import _torchvision

if TYPE_CHECKING:
    from sparring.experiment import Experiment

__version__ = "0.1.0"
__all__ = ["Experiment", "__version__"]

_torchvision.install()


def __getattr__(name: str) -> Any:
    if name == "Experiment":
        from sparring.experiment import Experiment

        return Experiment
    raise AttributeError(f"module 'sparring' has no attribute {name!r}")
