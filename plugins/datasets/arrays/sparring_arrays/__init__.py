"""The user's own arrays as a data set, and what loaders of data sets share: `checks`, `files`, `split`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring_arrays.arrays import Arrays

__all__ = ["Arrays"]


def __getattr__(name: str) -> Any:
    if name == "Arrays":
        from sparring_arrays.arrays import Arrays

        return Arrays
    raise AttributeError(f"module 'sparring_arrays' has no attribute {name!r}")
