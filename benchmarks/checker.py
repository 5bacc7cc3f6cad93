"""Speed of the checker: `python benchmarks/checker.py`. Targets: a stack of ten under 10 ms, a pair under 0.1 ms."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from sparring.checker import sight, walk
from sparring.claims import Formal
from sparring.explain import explain
from sparring.facts import Clipped, Fact, Identified, Knows, PerExample, Readable, Space, Summable, Weighted
from sparring.protection import claims
from sparring.signature import ALL, Signature, Step, compose
from sparring.sites import Site
from sparring.taps import Tap

CARRIED = (Summable(), Identified(), Weighted(), Space("real"), PerExample())


def start() -> tuple[Fact, ...]:
    """What a usual threat model, dataset and model grant, made afresh."""
    return (
        *(Readable("server", "update", grain) for grain in ("client", "cohort")),
        *(Readable("aggregator", "update", grain) for grain in ("client", "cohort")),
        *(Readable(by, "model", "round") for by in ("server", "client", "outsider")),
        Readable("outsider", "response", "example"),
        Knows("architecture"),
        Knows("labels"),
        *CARRIED,
    )


def pair() -> tuple[Step, Step]:
    """Clipping, then noise, made afresh."""
    clip = Signature(needs=(Space("real"),), gives=(Clipped("l2", "client", "all", 1.0),), keeps=CARRIED)
    claimed = (Formal("Gaussian mechanism", "client"),)
    noise = Signature(needs=(Clipped("l2", "client"), Space("real")), keeps=(*CARRIED, Clipped()), claims=claimed)
    return Step("clip", Site.UPDATE, clip), Step("noise", Site.UPDATE, noise)


def ten() -> tuple[Step, ...]:
    """Four pairs, a rule and a layer behind it, made afresh."""
    rule = Step("rule", Site.AGGREGATE, Signature(needs=(Summable(), Readable("aggregator", "update", "client")), keeps=ALL))
    last = Step("last", Site.RELEASE, Signature(needs=(Clipped("l2"),), hides=(Readable("client", "model"),)))
    return (*(replace(step, name=f"{step.name}-{k}") for k in range(4) for step in pair()), rule, last)


def milliseconds(run: Callable[[], object]) -> float:
    """The least time of a call over 20 batches of 20."""
    times = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(20):
            run()
        times.append(time.perf_counter() - began)
    return min(times) / 20 * 1e3


def main() -> None:
    """Print the table."""
    facts, two, stack = start(), pair(), ten()
    report, backwards = walk(stack, facts), tuple(reversed(two))
    rows: dict[str, tuple[Callable[[], object], float]] = {
        "walk a pair": (lambda: walk(two, facts), 0.1),
        "compose a pair": (lambda: compose(*two), 0.1),
        "walk ten layers": (lambda: walk(stack, facts), 10),
        "walk ten layers, facts and layers made afresh": (lambda: walk(ten(), start()), 10),
        "explain ten layers": (lambda: explain(report, {}), 10),
        "explain a pair in the wrong order": (lambda: explain(walk(backwards, facts), {}), 10),
        "claims of ten layers": (lambda: claims(report), 10),
        "sight of an attack": (lambda: sight(report, Signature(), Tap(("update", "aggregate")).options()), 10),
    }
    for name, (run, target) in rows.items():
        print(f"{name:48} {milliseconds(run):8.4f} ms   target {target:g} ms")


if __name__ == "__main__":
    main()
