"""Networks: what is pruned, when one is compiled, what happens without a compiler, equal bits either way, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from sparring_aggregation import network
from sparring_aggregation.network import POLICY, comparators, selection
from sparring_aggregation.order import mean_of_ranks
from sparring_aggregation.statistics import Middle, Statistic

SOME: list[tuple[int, Statistic, torch.dtype]] = [
    (2, Middle(0, 2), torch.float64),
    (20, Middle(9, 11), torch.float32),
    (14, Middle(3, 11), torch.float32),
]


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(POLICY, "compiles", True)
    network.forget()
    yield
    network.forget()


@pytest.mark.parametrize("n", [1, 2, 5, 20, 32])
def test_a_pruned_network_ranks_what_is_asked(n: int) -> None:
    rows = torch.randn(n, 300)
    ranked = rows.sort(dim=0).values
    for low in range(n):
        assert torch.equal(network.run(rows.unbind(0), Middle(low, low + 1)), ranked[low])
    assert len(selection(n, range(n))) == len(comparators(n))
    assert len(selection(20, range(9, 11))) < len(comparators(20))


def test_a_loop_is_compiled_only_for_large_cohorts_that_recur(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(network, "_compiled", lambda n, statistic, dtype: made.append(n) or (lambda block: block[0]))
    monkeypatch.setattr(POLICY, "smallest", 1000)
    monkeypatch.setattr(POLICY, "after", 5000)
    large, small = torch.randn(10, 200), torch.randn(10, 50)
    for _ in range(2):
        mean_of_ranks(large, 4, 6)
    for _ in range(1000):
        mean_of_ranks(small, 4, 6)
    assert made == []
    mean_of_ranks(large, 4, 6)
    mean_of_ranks(large, 4, 6)
    assert made == [10]
    mean_of_ranks(large, 3, 7)
    mean_of_ranks(large.bfloat16(), 4, 6)
    assert made == [10]


def test_without_a_compiler_everything_goes_uncompiled_and_silently(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tried: list[object] = []

    def fails(*given: object, **options: object) -> object:
        tried.append(given)
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr(POLICY, "smallest", 0)
    monkeypatch.setattr(POLICY, "after", 0)
    rows = torch.randn(6, 500)
    for _ in range(3):
        torch.testing.assert_close(mean_of_ranks(rows, 1, 5), rows.sort(0).values[1:5].mean(0))
    assert len(tried) == 1
    assert capfd.readouterr() == ("", "")


def test_a_loop_that_gives_other_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **options: lambda *rows: rows[0])
    assert network._compiled(5, Middle(2, 3), torch.float32) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("n", "statistic", "dtype"), SOME)
def test_compiled_and_uncompiled_give_the_same_bits(n: int, statistic: Statistic, dtype: torch.dtype) -> None:
    made = network._compiled(n, statistic, dtype)
    assert made is not None
    rows = torch.randn(n, 10_007, dtype=dtype)
    rows[:, ::3] = rows[:, ::3].round()
    rows[1, 5], rows[0, 6], rows[0, 7] = torch.nan, torch.inf, 1e30
    for block in (rows, rows[:, 3:4000], rows[:, :17]):
        found, expected = made(block), network.run(block.unbind(0), statistic)
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    assert bool(made(rows)[5:7].isnan().all())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_policy_compiles_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(9, 3000)
    plain = mean_of_ranks(rows, 4, 5)
    monkeypatch.setattr(POLICY, "smallest", 0)
    monkeypatch.setattr(POLICY, "after", 0)
    assert torch.equal(mean_of_ranks(rows, 4, 5), plain)
    assert all(network._kernels.values())
    assert len(network._kernels) == 1


PEAK = """
import json, resource, sys, torch
torch.set_num_threads(2)
from sparring.cohort import Cohort
from sparring.layout import Layout
from sparring.testing.fixtures import make_round
from sparring_aggregation.plugin import sparring_plugins
name, n, d, options, mixed = json.loads(sys.argv[1])
spec = {s.name: s for s in sparring_plugins()}[name]
rule, ctx = spec.build(spec.config(**options)), make_round()

def cohort(rows):
    made = Cohort(rows, Layout.build([("w", (rows.shape[1],), "parameter")]), tuple(range(n)), torch.ones(n))
    if not mixed:
        return made
    mix = torch.rand(n, n, dtype=torch.float64)
    return made.mixed(mix / mix.sum(1, keepdim=True))

rows = torch.zeros(n, d).uniform_()
spec.build(spec.config(**options)).server_aggregate(cohort(torch.rand(n, 40000)), ctx)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
rule.server_aggregate(cohort(rows), ctx)
print((peak() - before) * 1024 / rows.nbytes)
"""
RULES = ["median", "trimmed-mean", "meamed", "krum", "multi-krum", "bulyan", "geometric-median", "centred-clipping"]


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 40])
@pytest.mark.parametrize(
    ("name", "options", "mixed"),
    [(name, {}, False) for name in RULES]
    + [("median", {}, True), ("centred-clipping", {"steps": 5}, True)]
    + [
        ("median", {"weighted": True}, False),
        ("trimmed-mean", {"weighted": True}, False),
        ("centred-clipping", {"steps": 5}, False),
    ],
)
def test_memory_stays_within_a_quarter_of_the_input(name: str, options: dict[str, object], mixed: bool, n: int) -> None:
    """Beside an input of 160 MB; the release is a twentieth of it, or less."""
    given = json.dumps([name, n, 40_000_000 // n, options, mixed])
    done = subprocess.run([sys.executable, "-c", PEAK, given], check=True, capture_output=True, text=True)
    assert float(done.stdout) <= 0.25
