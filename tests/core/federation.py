"""Small federations for the engine's tests: synthetic data, tiny models, and techniques that no distribution offers."""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from sparring import Experiment, checkpoint
from sparring.build import Built, build
from sparring.context import Setup
from sparring.experiment import silent
from sparring.hookspecs import hookimpl
from sparring.measure import Books
from sparring.registry import Entry
from sparring.roles import SITES, ActiveAttack, Data, Dataset, Defence
from sparring.round import plan_rounds, play
from sparring.run import Outcome, identity_of, run_cell
from sparring.signals import Broadcast, DataShape, Examples, Release, State, Updates
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import OBSERVER, Acts, AggregatorSpec, AttackSpec, Config, DefenceSpec, Empty, Layer

CLASSES = 3
SHAPE = DataShape((1, 6, 6), CLASSES)
_numbers = itertools.count()


def blobs(n: int, generator: torch.Generator) -> Examples:
    """Noisy images of three classes, each bright in its own third."""
    y = torch.randint(CLASSES, (n,), generator=generator)
    x = torch.rand(n, 1, 6, 6, generator=generator) * 0.8
    for c in range(CLASSES):
        x[y == c, :, 2 * c : 2 * c + 2] += 0.2
    return Examples(x, y, {"site": torch.arange(n) % 4})


@final
class Blobs(Dataset):
    """Synthetic images [1, 6, 6]."""

    def __init__(self, train: int = 96, test: int = 60) -> None:
        self.sizes = train, test

    def load(self, ctx: Setup) -> Data:
        train, test = (blobs(n, ctx.generator(k)) for k, n in enumerate(self.sizes))
        return Data(train, test, SHAPE)


def linear() -> nn.Module:
    """Multinomial logistic regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))


def mlp() -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, CLASSES))


def conv() -> nn.Module:
    """Two strided convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES)
    )


def batchnorm() -> nn.Module:
    """A convolution with BatchNorm."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES))


def dropout() -> nn.Module:
    """A convolutional net with dropout between its convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.Dropout(0.4), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES)
    )


def offered(specs: Iterable[Any]) -> tuple[Entry, ...]:
    """Entries of specs, behind a module that exists in memory alone."""
    specs = tuple(specs)
    module: Any = types.ModuleType(f"sparring_lab_{next(_numbers)}")
    module.sparring_plugins = hookimpl(lambda: specs)
    sys.modules[module.__name__] = module
    return tuple(Entry(spec.kind, spec.name, module.__name__, "sparring-lab", "1.0") for spec in specs)


def _acting(role: type, hook: str, site: Site, change: Callable[[Any, Any], Any]) -> Any:
    signal = next(kind for kind, sites in SITES.items() if site in sites)

    def body(namespace: dict[str, Any]) -> None:
        namespace[hook] = hookimpl(lambda self, signal, ctx: change(signal, ctx))

    return types.new_class("Acting", (role[signal],), {}, body)  # type: ignore[index]


def defence(
    name: str,
    site: Site,
    change: Callable[[Any, Any], Any],
    *,
    acts: Acts = "may",
    wire: bool = False,
    signature: Signature = OBSERVER,
) -> DefenceSpec[Empty]:
    """A defence of one layer that applies ``change``."""
    made = _acting(Defence, "defence_transform", site, change)
    layer = Layer[Empty](site=site, build=lambda _: made(), acts=acts, wire=wire, signature=signature)
    return DefenceSpec(api=1, name=name, config=Empty, summary="a defence", layers=(layer,))


def attack(
    name: str, site: Site, change: Callable[[Any, Any], Any], *, acts: Acts = "may", signature: Signature = OBSERVER
) -> AttackSpec[Empty]:
    """An active attack of one layer that applies ``change``."""
    made = _acting(ActiveAttack, "attack_transform", site, change)
    layer = Layer[Empty](site=site, build=lambda _: made(), acts=acts, signature=signature)
    return AttackSpec(api=1, name=name, config=Empty, summary="an attack", game="poisoning", layers=(layer,))


def plugin(name: str, layer: Layer[Any], config: type[Config] = Empty) -> DefenceSpec[Any]:
    """A defence around a layer."""
    return DefenceSpec(api=1, name=name, config=config, summary="a defence", layers=(layer,))


def rule(name: str, made: Callable[[], Any]) -> AggregatorSpec[Empty]:
    """An aggregation rule."""
    return AggregatorSpec(api=1, name=name, config=Empty, summary="a rule", build=lambda _: made(), signature=OBSERVER)


def experiment(model: Any = linear, dataset: Any = None, **sections: Any) -> Experiment:
    """A federation of four clients over `Blobs`, in this process unless ``engine`` says otherwise."""
    federation = {"clients": 4, "rounds": 3, "batch_size": 8, "optimiser": {"lr": 0.2}, **sections.pop("federation", {})}
    sections = {"engine": "sequential", "seed": 5, **sections}
    return Experiment.of("lab", dataset=Blobs() if dataset is None else dataset, model=model, federation=federation, **sections)


def built(given: Experiment) -> Built:
    """The one cell of an experiment, assembled."""
    (resolved,) = given.resolve().values()
    return build(resolved, silent)


@dataclass
class Memory:
    """A log that remembers."""

    lines: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((step, dict(values)))


@dataclass
class Played:
    """Rounds that were played: the state, the books, and what travelled."""

    built: Built
    states: list[State]
    books: Books
    updates: list[Updates]
    releases: list[Release]

    @property
    def state(self) -> State:
        return self.states[-1]

    @property
    def row(self) -> Tensor:
        return self.state.row

    def sent(self, round_: int = 0) -> dict[int, Tensor]:
        """The row of each client whose update arrived in a round."""
        return dict(zip(self.updates[round_].ids, self.updates[round_].rows, strict=True))


def played(given: Experiment | Built, rounds: int | None = None) -> Played:
    """Play the rounds of an experiment, without checkpoints."""
    made = given if isinstance(given, Built) else built(given)
    result = Played(made, [State(made.plan, made.initial, made.layout)], Books(), [], [])

    def tap(index: int, broadcast: Broadcast, signal: Updates | Release) -> None:
        if isinstance(signal, Updates):
            result.updates.append(signal)
        else:
            result.releases.append(signal)

    plan = plan_rounds(made)
    try:
        for index in range(rounds or made.resolved.file.federation.rounds):
            result.states.append(play(made, plan, result.state, index, result.books, tap))
    finally:
        made.strategy.close()
    return result


def ran(given: Experiment, folder: Path, resume: bool = False) -> tuple[Outcome, dict[str, Any]]:
    """Run an experiment with checkpoints; its outcome, and the checkpointed state at its end."""
    made = built(given)
    outcome = run_cell(made, "lab", folder, Memory(), resume)
    found = checkpoint.load(folder / "checkpoint", identity_of(made))
    assert found is not None
    return outcome, found[1]
