"""Figures of studies: a measure of every cell against a number in its name, beside its baseline.

    python experiments/figures.py runs/inversion_oversold --x 'batch (\\d+)' --measure psnr --into batch.png

A cell whose name matches ``--x`` is a point; what is left of its name is the curve that it belongs to. Bars are the 95 %
intervals of the outcome, dashes its baseline.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE = (6.4, 4.2)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, which readers with colour blindness can tell apart."""


@dataclass(frozen=True)
class Point:
    """A cell: where it stands, what it measured, with its interval and its baseline."""

    x: float
    value: float
    low: float
    high: float
    baseline: float | None = None


@dataclass(frozen=True)
class Bound:
    """A curve in closed form that is drawn beside the points, with what it is called."""

    name: str
    at: Callable[[float], float]


def curves(folder: Path, x: str, measure: str, attack: str | None = None) -> dict[str, list[Point]]:
    """The points of a run's cells by curve, from its outcomes; raises `ValueError` where there are none."""
    pattern, found = re.compile(x), dict[str, list[Point]]()
    outcomes = [json.loads(path.read_text()) for path in sorted(folder.glob("cells/*/outcome.json"))]
    for outcome in outcomes:
        match = pattern.search(outcome["name"])
        scores = outcome.get("scores", {})
        chosen = scores.get(attack) if attack else next(iter(scores.values()), None)
        if match is None or chosen is None or measure not in chosen["measures"]:
            continue
        name = re.sub(r"[\s,]+", " ", pattern.sub("", outcome["name"])).strip()
        found.setdefault(name, []).append(_point(float(match.group(1)), chosen["measures"][measure]))
    if not found:
        raise ValueError(
            f"no cell of '{folder}' has a name with '{x}' and a measure '{measure}'; it has {len(outcomes)} outcomes"
        )
    return {name: sorted(points, key=lambda point: point.x) for name, points in sorted(found.items())}


def _point(x: float, measure: Mapping[str, Any]) -> Point:
    low, high = measure["interval"] or (measure["value"],) * 2
    return Point(x, measure["value"], low, high, measure["baseline"])


def draw(
    found: Mapping[str, Sequence[Point]],
    into: Path,
    *,
    across: str = "",
    up: str = "",
    logarithmic: bool = False,
    bounds: Sequence[Bound] = (),
) -> Path:
    """Write the figure to ``into``; its kind follows from the suffix."""
    from matplotlib.figure import Figure

    figure = Figure(SIZE, layout="constrained", dpi=160)
    axes = figure.subplots()
    xs = sorted({point.x for points in found.values() for point in points})
    for k, (name, points) in enumerate(found.items()):
        colour, at = COLOURS[k % len(COLOURS)], [p.x for p in points]
        spread = [[p.value - p.low for p in points], [p.high - p.value for p in points]]
        axes.errorbar(at, [p.value for p in points], spread, color=colour, marker="o", ms=4, capsize=2, label=name or up)
        if all(p.baseline is not None for p in points):
            axes.plot(at, [p.baseline or 0 for p in points], "--", color=colour, lw=1, label=f"{name or up}: baseline".strip())
    for k, bound in enumerate(bounds):
        dense = [xs[0] * (xs[-1] / xs[0]) ** (i / 60) for i in range(61)] if logarithmic else xs
        axes.plot(dense, [bound.at(x) for x in dense], "-", color=COLOURS[-1 - k], lw=1.2, label=bound.name)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    into.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(into)
    return into


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw from the command line; exit status 2 where there is nothing to draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run, such as runs/inversion_oversold")
    parser.add_argument("--x", required=True, help="regular expression with one group: the number in the names of cells")
    parser.add_argument("--measure", default="psnr", help="a measure of the outcome (default: psnr)")
    parser.add_argument("--attack", help="label of the attack, where a cell has several (default: the first)")
    parser.add_argument("--across", default="", help="what the horizontal axis is called")
    parser.add_argument("--log", action="store_true", help="a logarithmic horizontal axis")
    parser.add_argument("--into", type=Path, required=True, help="file to write, .png or .svg")
    parser.add_argument("--rero", type=float, metavar="PRIOR", help="draw the reconstruction bound for noise multipliers")
    parser.add_argument("--psnr-law", type=float, metavar="NORM", help="draw the analytic attack's PSNR for this norm")
    parser.add_argument("--at-most", type=float, metavar="DB", help="with --psnr-law: say which noise keeps PSNR below this")
    given = parser.parse_args(arguments)
    try:
        found = curves(given.run, given.x, given.measure, given.attack)
        if given.at_most is not None:
            print(enough(given.at_most, given.psnr_law))
    except (ValueError, IndexError, re.error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    known = [point.baseline for points in found.values() for point in points if point.baseline is not None]
    bounds = closed_forms(given.rero, given.psnr_law, max(known, default=-math.inf))
    print(draw(found, given.into, across=given.across or given.x, up=given.measure, logarithmic=given.log, bounds=bounds))
    return 0


def enough(at_most: float, norm: float | None) -> str:
    """Which noise keeps the analytic attack at most so good, in words; raises `ValueError` where none does."""
    from sparring_dp.reconstruction import noise_within_the_box

    if norm is None:
        raise ValueError(f"--at-most {at_most:g} is a PSNR of inputs of some norm: give that with --psnr-law")
    return f"at most {at_most:g} dB from a noise multiplier of {noise_within_the_box(at_most, norm):.3g} on"


def closed_forms(prior: float | None, norm: float | None, baseline: float) -> list[Bound]:
    """What no attack (``prior``), and not the analytic one for inputs of ``norm``, passes under a noise multiplier.

    The law of the latter is for who has no prior, and says nothing below the ``baseline`` that is had without any update.
    """
    from sparring_dp.reconstruction import psnr_within_the_box, reconstruction_bound

    bounds = []
    if prior is not None:
        bounds.append(
            Bound(f"bound for any attack (ReRo, prior {prior:.2g})", lambda sigma: reconstruction_bound(prior, sigma))
        )
    if norm is not None:
        name = f"law of the analytic attack, norm {norm:g}, or baseline"
        bounds.append(Bound(name, lambda sigma: max(baseline, psnr_within_the_box(sigma, norm))))
    return bounds


if __name__ == "__main__":
    sys.exit(main())
