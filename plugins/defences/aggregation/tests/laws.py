"""The table of rules that `test_laws` holds to the laws of robust aggregation: a rule more is a row more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparring_aggregation.plugin import sparring_plugins
from torch import Tensor

from sparring.cohort import Cohort
from sparring.context import Round, Wire
from sparring.keys import Key
from sparring.layout import Layout
from sparring.signals import Release

SPECS = {spec.name: spec for spec in sparring_plugins()}
CTX = Round(0, 1, Key(0), Wire(0, lambda stage, client: False))
FAR = 1e6
Bound = Callable[[Tensor, Tensor, int, int], float]


def spread(honest: Tensor, clean: Tensor, n: int, f: int) -> float:
    """The diagonal of the box of honest rows: what a rule may move that stays in it."""
    return float((honest.amax(0) - honest.amin(0)).norm())


def geometric(honest: Tensor, clean: Tensor, n: int, f: int) -> float:
    """2 (n - f) / (n - 2f) times the radius of honest rows about any point (Minsker 2015, lemma 2.1; Pillutla et al. 2022)."""
    return 2 * (n - f) / (n - 2 * f) * float((honest - clean).norm(dim=1).max())


@dataclass(frozen=True)
class Rule:
    """A rule under one family of options, and what the laws say of it.

    ``most``: the largest f that it bears of n, where n >= ``least``. ``bound``: how far, in L2, f rows may move the release,
    from the honest rows, the release without a lie, n and f. ``inside``: whether it stays in the box of honest rows when f rows
    stand at 1e6. ``breaks``: how many rows that stand together break it under f = ``most``, and ``beyond``: how far they move
    it then, in ``rounds`` rounds. ``moves``, ``scales``: whether translation and scale pass through, to a relative ``near``.
    """

    name: str
    options: Callable[[int], Mapping[str, object]] = lambda f: {}
    most: Callable[[int], int] = lambda n: (n - 1) // 2
    least: int = 1
    bound: Bound = spread
    inside: bool = True
    breaks: Callable[[int], int] = lambda n: n // 2 + 1
    beyond: float = 1e4
    rounds: int = 1
    moves: bool = True
    scales: bool = True
    near: float = 1e-7

    def build(self, f: int) -> object:
        spec = SPECS[self.name]
        return spec.build(spec.config(**self.options(f)))

    def release(
        self, rows: Tensor, f: int, weights: Tensor | None = None, ids: tuple[int, ...] | None = None, rounds: int = 1
    ) -> Tensor:
        """The release of clients ``ids`` (0, 1, ...) under ``f``, after ``rounds`` rounds of the same rows."""
        built = self.build(f)
        for _ in range(rounds):
            made: Release = built.server_aggregate(cohort(rows, ids, weights), CTX)  # type: ignore[attr-defined]
        return made.vector


def cohort(rows: Tensor, ids: tuple[int, ...] | None = None, weights: Tensor | None = None) -> Cohort:
    layout = Layout.build([("w", (rows.shape[1],), "parameter")])
    return Cohort(rows, layout, tuple(range(len(rows))) if ids is None else ids, weights)


TAU, STEPS = 10.0, 3
GIVEN = {"f": lambda f: {"f": f}, "weighted": lambda f: {"f": f, "weighted": True}}

ELSEWHERE = {
    "monna": "its trusted client must be honest: test_selection",
    "caf": "its bound is one of covariances: test_selection",
    "mda": "its search is exponential in f: test_selection",
    "smea": "its search is exponential in f: test_selection",
}
"""Rules that are held to the same laws elsewhere, and why."""

RULES: dict[str, Rule] = {
    "mean": Rule("mean", most=lambda n: 0, breaks=lambda n: 1),
    "median": Rule("median"),
    "median, weighted": Rule("median", lambda f: {"weighted": True}),
    "trimmed-mean": Rule("trimmed-mean", GIVEN["f"]),
    "trimmed-mean, weighted": Rule("trimmed-mean", GIVEN["weighted"]),
    "meamed": Rule("meamed", GIVEN["f"]),
    "krum": Rule("krum", GIVEN["f"], lambda n: (n - 3) // 2, least=3),
    "multi-krum": Rule("multi-krum", GIVEN["f"], lambda n: (n - 3) // 2, least=3, breaks=lambda n: (n - 3) // 2 + 1),
    "bulyan": Rule("bulyan", GIVEN["f"], lambda n: (n - 3) // 4, least=3),
    "geometric-median": Rule("geometric-median", lambda f: {"nu": 1e-12}, bound=geometric, inside=False, near=1e-5),
    "centred-clipping": Rule(
        "centred-clipping",
        lambda f: {"tau": TAU, "steps": STEPS},
        bound=lambda honest, clean, n, f: 2 * TAU * STEPS * f / n,
        inside=False,
        beyond=20 * TAU,
        rounds=1000,
        moves=False,
        scales=False,
    ),
}
