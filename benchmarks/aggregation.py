"""Aggregation rules against byzfl and against the expression that one writes first, as ratios within one run.

Run: python benchmarks/aggregation.py [--quick] [--rules median,krum] [--repeats 5]. A ratio of 2 means twice as fast. float32,
a fifth of the rows Byzantine. Baselines run at the better of one and all threads, in turn with ours; "reads" is the time over
that of one read of the rows, "peak" the most memory held over the size of the rows, measured in a process of its own. Columns
of byzfl need byzfl 0.0.11 (`pip install --no-deps --target FOLDER byzfl==0.0.11`, and FOLDER in PYTHONPATH), and are left out
without it. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from sparring_aggregation import network
from sparring_aggregation.plugin import sparring_plugins
from torch import Tensor

from sparring.cohort import Cohort
from sparring.layout import Layout
from sparring.testing.fixtures import make_round

SPECS: dict[str, Any] = {spec.name: spec for spec in sparring_plugins()}
SIZES = [(20, 100_000), (20, 1_000_000), (20, 10_000_000), (100, 100_000), (100, 1_000_000), (100, 10_000_000)]
QUICK = [(20, 100_000), (20, 1_000_000), (100, 100_000)]
COPIES = 6
"""Copies of the rows that a baseline may make: it is left out where memory would not hold them."""
PATIENCE = 60.0
"""Seconds of a baseline's first call from which it is not repeated."""
WARMED = 1 << 16
"""Columns of the rows on which a new number of threads is tried before a call is timed."""
Call = Callable[[Tensor], Any]


def cohort(rows: Tensor) -> Cohort:
    """A cohort of which nothing is known yet."""
    layout = Layout.build([("rows", (rows.shape[1],), "parameter")])
    return Cohort(rows, layout, tuple(range(len(rows))), torch.ones(len(rows)))


def rule(name: str, **options: object) -> Call:
    """A rule of ours: rows [n, d] to its release [d]; made afresh for each call, as some keep what they released."""
    spec = SPECS[name]
    return lambda rows: spec.build(spec.config(**options)).server_aggregate(cohort(rows), make_round()).vector


def mixed(name: str, then: str | None, **options: object) -> Call:
    """A pre-aggregator of ours, and a rule behind it; without one, the mixed rows."""
    spec = SPECS[name]
    before = spec.layers[0].build(spec.config(**options))
    behind = None if then is None else SPECS[then].build(SPECS[then].config(**options))

    def call(rows: Tensor) -> Tensor:
        made = before.defence_transform(cohort(rows), make_round())
        found: Tensor = made.rows if behind is None else behind.server_aggregate(made, make_round()).vector
        return found

    return call


def pairs(rows: Tensor) -> Tensor:
    """Squared distances [n, n], row by row."""
    return torch.stack([(rows - row).square().sum(1) for row in rows])


def krum_scores(distances: Tensor, f: int) -> Tensor:
    return distances.sort(dim=1).values[:, 1 : max(2, len(distances) - f - 1)].sum(1)


def plain_bulyan(rows: Tensor, f: int) -> Tensor:
    distances, left = pairs(rows), list(range(len(rows)))
    chosen = []
    while len(chosen) < len(rows) - 2 * f:
        chosen.append(left.pop(int(krum_scores(distances[left][:, left], f).argmin())))
    return plain_meamed(rows[chosen], 2 * f)


def plain_meamed(rows: Tensor, f: int) -> Tensor:
    nearest = (rows - rows.median(0).values).abs().argsort(0)[: len(rows) - f]
    return rows.gather(0, nearest).mean(0)


def plain_weiszfeld(rows: Tensor, steps: int) -> Tensor:
    y = rows.mean(0)
    for _ in range(steps):
        beta = 1 / (rows - y).norm(dim=1).clamp(min=1e-6)
        y = (beta[:, None] * rows).sum(0) / beta.sum()
    return y


def plain_clipping(rows: Tensor, tau: float, steps: int) -> Tensor:
    v = torch.zeros_like(rows[0])
    for _ in range(steps):
        apart = rows - v
        v = v + (apart * (tau / apart.norm(dim=1, keepdim=True)).clamp(max=1)).mean(0)
    return v


def plain_nnm(rows: Tensor, f: int) -> Tensor:
    return torch.stack([rows[own.argsort()[: len(rows) - f]].mean(0) for own in pairs(rows)])


@dataclass(frozen=True)
class Case:
    """Ours, what one writes first, and byzfl's class with its options (a ``>`` names one behind another)."""

    ours: Call
    plain: Call
    byzfl: tuple[str, dict[str, object]] | None = None
    behind: tuple[str, dict[str, object]] | None = None


def cases(n: int) -> Iterator[tuple[str, Case]]:
    """Every case for ``n`` rows."""
    f, tau = n // 5, 100.0
    given: dict[str, object] = {"f": f}
    yield "median", Case(rule("median"), lambda x: x.median(0).values, ("Median", {}))
    yield "trimmed-mean", Case(rule("trimmed-mean", f=f), lambda x: x.sort(0).values[f : n - f].mean(0), ("TrMean", given))
    yield "meamed", Case(rule("meamed", f=f), lambda x: plain_meamed(x, f), ("Meamed", given))
    yield "krum", Case(rule("krum", f=f), lambda x: x[krum_scores(pairs(x), f).argmin()], ("Krum", given))
    yield (
        "multi-krum",
        Case(rule("multi-krum", f=f), lambda x: x[krum_scores(pairs(x), f).argsort()[: n - f]].mean(0), ("MultiKrum", given)),
    )
    yield "bulyan", Case(rule("bulyan", f=f), lambda x: plain_bulyan(x, f))
    yield (
        "geometric-median, 3 steps",
        Case(rule("geometric-median", steps=3), lambda x: plain_weiszfeld(x, 3), ("GeometricMedian", {"T": 3})),
    )
    for steps in (1, 5):
        yield (
            f"centred-clipping, {steps} step" + "s" * (steps > 1),
            Case(
                rule("centred-clipping", tau=tau, steps=steps),
                lambda x, steps=steps: plain_clipping(x, tau, steps),  # type: ignore[misc]
                ("CenteredClipping", {"L": steps, "tau": tau}),
            ),
        )
    if "nnm" in SPECS:
        yield "nnm", Case(mixed("nnm", None, f=f), lambda x: plain_nnm(x, f), ("NNM", given))
        yield (
            "nnm, krum",
            Case(
                mixed("nnm", "krum", f=f),
                lambda x: (m := plain_nnm(x, f))[krum_scores(pairs(m), f).argmin()],
                ("NNM", given),
                ("Krum", given),
            ),
        )


def peer() -> Callable[[str, dict[str, object]], Call] | None:
    """How byzfl's aggregators are made, or None; its modules alone, whose package would import all that it depends on."""
    found = find_spec("byzfl") if "byzfl" not in sys.modules else None
    if found is not None and found.submodule_search_locations:
        for name in ("byzfl", "byzfl.aggregators", "byzfl.utils"):
            module = types.ModuleType(name)
            module.__path__ = [os.path.join(found.submodule_search_locations[0], *name.split(".")[1:])]
            sys.modules[name] = module
    if "byzfl" not in sys.modules:
        return None
    modules = [importlib.import_module(f"byzfl.aggregators.{name}") for name in ("aggregators", "preaggregators")]

    def make(name: str, options: dict[str, object]) -> Call:
        kind = next(vars(module)[name] for module in modules if name in vars(module))

        def call(rows: Tensor) -> Any:
            return kind(**options)(rows)  # afresh, as ours

        return call

    return make


def seconds(call: Call, rows: Tensor, threads: int) -> float:
    """One timed call; the threads are made, and have met once, before the clock starts."""
    torch.set_num_threads(threads)
    few = rows[:, :WARMED]
    (few @ few.T).sum()
    few.abs().sum()
    begun = time.perf_counter()
    call(rows)
    return time.perf_counter() - begun


@dataclass
class Timed:
    """A call with its number of threads and its times; ``slow``: measured once."""

    call: Call
    threads: int
    times: list[float]
    slow: bool = False

    def again(self, rows: Tensor) -> None:
        if not (self.slow and self.times):
            self.times.append(seconds(self.call, rows, self.threads))


def timed(call: Call, rows: Tensor, most: int, baseline: bool) -> Timed:
    """A call that was warmed up, at its better number of threads if it is a baseline."""
    first = seconds(call, rows, most)
    if not baseline:
        return Timed(call, most, [])
    if first > PATIENCE:
        return Timed(call, most, [first], slow=True)
    counts = {threads: seconds(call, rows, threads) for threads in {1, most}}
    return Timed(call, min(counts, key=counts.__getitem__), [], slow=first > PATIENCE / 10)


def compiled(call: Call) -> Call:
    """The same with networks compiled at once."""

    def run(rows: Tensor) -> Any:
        network.POLICY.compiles, network.POLICY.smallest, network.POLICY.after = True, 0, 0
        try:
            return call(rows)
        finally:
            network.POLICY.compiles = False

    return run


def measure(n: int, d: int, wanted: list[str], repeats: int, peaks: bool) -> None:
    """Print the cases of one size."""
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    most, make = torch.get_num_threads(), peer()
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    read = statistics.median(seconds(lambda x: x.sum(), rows, most) for _ in range(9))
    print(f"\nn = {n}, d = {d:,} ({rows.nbytes / 1e6:,.0f} MB): one read {read * 1e3:.2f} ms")
    for name, case in cases(n):
        if wanted and name.partition(",")[0] not in wanted:
            continue
        ours = {name: case.ours}
        if n <= network.LARGEST and name in ("median", "trimmed-mean"):
            ours[f"{name}, compiled"] = compiled(case.ours)
        theirs: dict[str, Call] = {}
        if free > COPIES * rows.nbytes:
            theirs["plain"] = case.plain
            if make is not None and case.byzfl is not None:
                theirs["byzfl"] = _theirs(make, case)
        running = {key: timed(call, rows, most, False) for key, call in ours.items()}
        running |= {key: timed(call, rows, most, True) for key, call in theirs.items()}
        for _ in range(repeats):
            for one in running.values():
                one.again(rows)
        torch.set_num_threads(most)
        for key in ours:
            own = statistics.median(running[key].times)
            line = f"  {key:28} {own * 1e3:9.2f} ms {own / read:6.1f} reads"
            for other in theirs:
                line += f"   {other} {_ratio(running[other].times, running[key].times)}"
            print(line + (f"   peak {peak(key, n, d):.2f}" if peaks else ""), flush=True)


def _theirs(make: Callable[[str, dict[str, object]], Call], case: Case) -> Call:
    assert case.byzfl is not None
    first = make(*case.byzfl)
    if case.behind is None:
        return first
    second = make(*case.behind)
    return lambda rows: second(first(rows))


def _ratio(theirs: list[float], ours: list[float]) -> str:
    if len(theirs) < len(ours):
        return f"{theirs[0] / statistics.median(ours):6.1f} times"
    ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    return f"{statistics.median(ratios):6.1f} times [{ratios[0]:.1f}, {ratios[-1]:.1f}]"


def peak(name: str, n: int, d: int) -> float:
    """The most memory held by a case of ours, over the size of the rows, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", name, str(n), str(d)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def report_peak(name: str, n: int, d: int) -> None:
    """Print how far a case raises the peak of this process above the rows themselves, over the size of the rows."""
    key, fused = name.removesuffix(", compiled"), name.endswith(", compiled")
    network.POLICY.compiles = False
    warm, call = (compiled(case.ours) if fused else case.ours for case in (dict(cases(n))[key] for _ in range(2)))
    rows = torch.zeros(n, d).uniform_()
    warm(rows[:, : min(d, 50_000)].contiguous())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call(rows)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(1 + (after - before) * 1024 / rows.nbytes)


def main() -> None:
    """Every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--rules", default="", help="rules to measure, by name, separated by commas; default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", nargs=3, metavar=("CASE", "N", "D"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        report_peak(given.peak[0], int(given.peak[1]), int(given.peak[2]))
        return
    try:
        print(f"byzfl {version('byzfl')}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    except PackageNotFoundError:
        print("without byzfl: install byzfl 0.0.11 for its columns")
    network.POLICY.compiles = False
    wanted = [name for name in given.rules.split(",") if name]
    for n, d in QUICK if given.quick else SIZES:
        measure(n, d, wanted, given.repeats, peaks=n * d >= 10_000_000)


if __name__ == "__main__":
    main()
