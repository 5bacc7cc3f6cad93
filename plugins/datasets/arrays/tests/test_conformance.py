"""The distribution keeps every law of the contract that applies to it."""

from pathlib import Path
from typing import Any

import numpy as np
from sparring_arrays.plugin import sparring_plugins

from sparring.testing import conformance


def images(folder: Path) -> dict[str, Any]:
    """A file of 60 small images with one group column."""
    rng = np.random.default_rng(0)
    path = folder / "images.npz"
    np.savez(path, x=rng.random((60, 1, 5, 4), np.float32), y=np.arange(60) % 3, group_site=np.arange(60) % 4)
    return {"path": str(path)}


test_conformance = conformance(sparring_plugins, examples={"arrays": [images]})
