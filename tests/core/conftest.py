"""Shared by core's tests: techniques offered without a distribution, and one torch thread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make specs known to the experiments of one test, as if a distribution offered them."""
    from sparring import cli, listing, registry, resolve
    from tests.core.federation import offered

    def make_known(*specs: object) -> None:
        known = (*registry.entries(), *offered(specs))
        for module in (registry, resolve, cli, listing):
            monkeypatch.setattr(module, "entries", lambda: known)

    return make_known
