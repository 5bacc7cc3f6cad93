"""Every check of the conformance kit passes a correct technique and fails the same technique with one thing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sparring.testing import CHECKS
from sparring.testing.subject import Subject
from tests.kit import (  # noqa: F401 - each registers its mutants
    mutants_attacks,
    mutants_cards,
    mutants_edges,
    mutants_facts,
    mutants_form,
    mutants_gpu,
    mutants_local,
    mutants_roles,
    mutants_signals,
    mutants_sources,
    mutants_utility,
)
from tests.kit.making import MUTANTS, subject


@pytest.fixture(autouse=True, scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A distribution whose light module is ``kit_mutants.plugin``, with one entry point."""
    folder: Path = tmp_path_factory.mktemp("site")
    info = folder / "kit_mutants-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kit-mutants\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sparring.defences]\nlayer = kit_mutants.plugin\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def made_for(name: str, broken: bool) -> Subject:
    if name.split("/", maxsplit=1)[0] in mutants_gpu.ON_DEVICE and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    made = MUTANTS[name](broken)
    return made if isinstance(made, Subject) else subject(made)


def test_every_check_has_a_mutant() -> None:
    assert {name.split("/")[0] for name in MUTANTS} == set(CHECKS)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_correct_twin_passes(name: str) -> None:
    twin, check = made_for(name, broken=False), CHECKS[name.split("/", maxsplit=1)[0]]
    assert check.scope.applies(twin)
    check.run(twin)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_fails_and_is_told_name_law_and_fix(name: str) -> None:
    broken, check = made_for(name, broken=True), CHECKS[name.split("/", maxsplit=1)[0]]
    assert check.scope.applies(broken)
    with pytest.raises(AssertionError) as error:
        check.run(broken)
    text = str(error.value)
    assert text.startswith(f"{broken.spec.name}::{check.name}")
    assert ": raised " not in text, "it broke where it should have been found out"
    assert all(part in text for part in ("\n  law: ", "\n  why: ", "\n  fix: "))
