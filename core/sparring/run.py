"""Running one cell: rounds, checkpoints, evaluation, then the passive attacks and their scores."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparring import checkpoint, saving
from sparring.build import Built
from sparring.claims import Event
from sparring.errors import EffectError, NumericalError
from sparring.games import GAMES
from sparring.groups import HONEST
from sparring.live import LiveAttack
from sparring.measure import Books, Cost
from sparring.objectives import Objective
from sparring.protection import claims
from sparring.record import Recorder, truth_of, view_of
from sparring.round import plan_rounds, play
from sparring.scoring import Score, Wanted
from sparring.signals import Broadcast, Examples, Release, State, Updates
from sparring.specs import AttackSpec
from sparring.views import Reconstruction

EVALUATED_AT_ONCE = 1000
HASHED_AT_MOST = 1000
SMALL = 1 << 20
"""Parameters up to which the server's vector operations run on one thread."""


class Log(Protocol):
    """Where metrics go while a cell runs."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one round."""


@dataclass
class Outcome:
    """What a cell came to: everything that the table shows and the log keeps."""

    name: str
    accuracy: float | None = None
    history: list[tuple[int, float, float]] = field(default_factory=list)
    success: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    detection: dict[str, dict[str, float]] = field(default_factory=dict)
    sights: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    epsilon: dict[str, float] = field(default_factory=dict)
    epsilon_per_client: dict[str, dict[int, float]] = field(default_factory=dict)
    delta: float = 0.0
    accountant: str | None = None
    claims: list[str] = field(default_factory=list)
    costs: dict[str, Cost] = field(default_factory=dict)
    seconds: float = 0.0
    up: int = 0
    down: int = 0
    notes: list[str] = field(default_factory=list)
    error: str | None = None


@torch.no_grad()
def accuracy(module: nn.Module, test: Examples) -> tuple[float, float]:
    """Share of right predictions (of positions, for dense targets) and mean cross-entropy on ``test``."""
    right, loss = 0, 0.0
    device = next((p.device for p in module.parameters()), test.x.device)
    for x, y in zip(test.x.split(EVALUATED_AT_ONCE), test.y.split(EVALUATED_AT_ONCE), strict=True):
        outputs = module(x.to(device))
        right += int((outputs.argmax(1) == y.to(device)).sum())
        loss += float(nn.functional.cross_entropy(outputs, y.to(device), reduction="sum"))
    return right / max(test.y.numel(), 1), loss / max(test.y.numel(), 1)


@torch.no_grad()
def predictions(module: nn.Module, inputs: Tensor) -> Tensor:
    """The predicted label [m] of each input [m, ...], on the CPU."""
    device = next((p.device for p in module.parameters()), inputs.device)
    return torch.cat([module(x.to(device)).argmax(1).cpu() for x in inputs.split(EVALUATED_AT_ONCE)])


def run_cell(built: Built, name: str, folder: Path, log: Log, resume: bool) -> Outcome:
    """Run a cell to its end, checkpointing after each round; with ``resume``, go on behind the last checkpoint.

    NaN or Inf in an honest update is an error, but under an active attack an outcome: the run stops with its last finite state.
    """
    begun = time.perf_counter()
    state = State(built.plan, built.initial, built.layout)
    books, outcome = Books(), Outcome(name)
    plan = plan_rounds(built)
    rounds = built.resolved.file.federation.rounds
    identity = identity_of(built)
    done, spent = 0, 0.0
    saved = checkpoint.load(folder / "checkpoint", identity) if resume else None
    if saved is not None:
        done, tree = saved
        state, books = saving.restore(built, state, tree)
        outcome.history = [(int(r), float(a), float(loss)) for r, a, loss in tree["history"]]
        outcome.success = {name: [(int(r), float(a)) for r, a in own] for name, own in tree["success"].items()}
        spent = float(tree["seconds"])
    recorders = _recorders(built, folder, fresh=saved is None)

    def tap(index: int, broadcast: Broadcast, signal: Updates | Release) -> None:
        for recorder in recorders:
            recorder(index, broadcast, signal)

    try:
        for index in range(done, rounds):
            try:
                with server_threads(built):
                    state = play(built, plan, state, index, books, tap)
            except NumericalError as error:
                if not built.compromised:
                    raise
                outcome.notes.append(f"diverged under attack in round {index}, and stopped there: {error}")
                outcome.history.append((index, *evaluate(built, state)))
                break
            if (index + 1) % built.resolved.file.federation.evaluate_every == 0 or index + 1 == rounds:
                score, loss = evaluate(built, state)
                outcome.history.append((index, score, loss))
                values = {"accuracy": score, "loss": loss, "bytes_up": books.up, "bytes_down": books.down}
                for label, objective in built.objectives.items():
                    reached = success(built, state, objective)
                    outcome.success.setdefault(label, []).append((index, reached))
                    values[f"{label}/success"] = reached
                log.metrics(index, values)
            seconds = spent + time.perf_counter() - begun
            kept = {
                "history": [list(entry) for entry in outcome.history],
                "success": _plain(outcome.success),
                "seconds": seconds,
            }
            checkpoint.save(folder / "checkpoint", identity, index + 1, saving.tree(built, state, books, kept))
            built.setup.progress(f"{name}: round {index + 1}/{rounds}", (index + 1) / rounds)
    finally:
        built.strategy.close()
    outcome.notes += [f"model: {note}" for note in built.plan.notes]
    outcome.notes += [f"training: {built.strategy.name} on {built.work.device} ({built.why})"]
    outcome.notes += ["rows stream in blocks" if plan.streams else f"whole cohorts in memory, forced by {plan.forced_by}"]
    _conclude(built, state, books, outcome)
    _attacks(built, state, recorders, outcome)
    outcome.seconds = spent + time.perf_counter() - begun
    return outcome


def identity_of(built: Built) -> str:
    """A hash of what the numbers depend on: the file and its plugins, the model's layout, and the data, by a sample of it."""
    digest = hashlib.sha256(f"{built.resolved.identity} {built.layout} {built.data.shape}".encode())
    for examples in (built.data.train, built.data.test):
        sample = examples.x[:: max(1, len(examples) // HASHED_AT_MOST)]
        for tensor in (examples.y, sample.double()):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def server_threads(built: Built) -> Iterator[None]:
    """One thread for a server whose vectors are small while worker processes hold the cores: barriers would cost more."""
    before = torch.get_num_threads()
    if built.strategy.name == "workers" and built.layout.size < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evaluate(built: Built, state: State) -> tuple[float, float]:
    """Test accuracy and loss of the released model; with local buffers, the mean over the clients' own models."""
    holders = sorted(built.work.buffers) if built.work.buffers is not None else [None]
    found = [accuracy(built.trainer.model(state, client), built.data.test) for client in holders]
    return sum(a for a, _ in found) / len(found), sum(loss for _, loss in found) / len(found)


def success(built: Built, state: State, objective: Objective) -> float:
    """The share of the inputs that count to which the released model gives the label that an attack wants."""
    answers = predictions(built.trainer.model(state), objective.inputs)
    return float(objective.reached(answers, built.data.test.y).double().mean())


def _plain(success: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, list[list[float]]]:
    return {name: [list(entry) for entry in own] for name, own in success.items()}


def _recorders(built: Built, folder: Path, fresh: bool) -> list[Recorder]:
    recorders = []
    for attack in built.attacks:
        spec = attack.chosen.spec
        assert isinstance(spec, AttackSpec)
        if spec.reader is not None:
            place = folder / "record" / attack.label
            if fresh:
                for old in place.glob("round-*.safetensors"):
                    old.unlink()
            view = built.resolved.sights[attack.label].view or ""
            recorders.append(Recorder(built, attack, view, spec.reader.tap(attack.chosen.config), place))
    return recorders


def _conclude(built: Built, state: State, books: Books, outcome: Outcome) -> None:
    outcome.accuracy = outcome.history[-1][1] if outcome.history else evaluate(built, state)[0]
    outcome.up, outcome.down, outcome.costs = books.up, books.down, books.costs
    outcome.sights = {label: str(seen) for label, seen in built.resolved.sights.items()}
    lines = claims(built.resolved.report)
    outcome.claims = [str(line) for line in lines]
    outcome.detection = {layer: found.measures() for layer, found in books.detections.by_layer.items()}
    if books.aborted:
        outcome.notes.append(f"{books.aborted} rounds aborted: too few clients were left; the state stayed as it was")
    if books.rejected:
        outcome.notes.append(f"{books.rejected} updates of compromised clients held NaN or Inf and were rejected")
    idle = [live.name for live in built.layers if live.layer.acts == "may" and _idle(books.costs.get(live.name))]
    outcome.notes += [f"'{name}' never changed anything in this run" for name in idle]
    if any(line.withdrawn is None and line.claim.kind == "formal" for line in lines):
        _epsilon(built, books, outcome)


def _idle(cost: Cost | None) -> bool:
    return cost is not None and cost.rounds > 0 and cost.acted == 0


def _epsilon(built: Built, books: Books, outcome: Outcome) -> None:
    """The largest epsilon of any honest client, per unit of privacy, by the run's accountant."""
    chosen, delta = built.resolved.accountant, built.resolved.file.privacy.delta
    if chosen is None or built.accountant is None:
        outcome.notes.append("epsilon not computed: name an accountant under `privacy: {accountant: ...}`")
        return
    outcome.delta, outcome.accountant = delta, chosen.label
    known: dict[frozenset[tuple[Event, int]], float] = {}
    for client in built.groups[HONEST]:
        for unit in ("example", "client"):
            own = frozenset((e, n) for e, n in books.events.get(client, {}).items() if e.unit == unit)
            if own:
                if own not in known:
                    known[own] = built.accountant.epsilon(sorted(own, key=repr), delta)
                outcome.epsilon_per_client.setdefault(unit, {})[client] = known[own]
    outcome.epsilon = {unit: max(values.values()) for unit, values in outcome.epsilon_per_client.items()}


def _attacks(built: Built, state: State, recorders: list[Recorder], outcome: Outcome) -> None:
    by_label = {recorder.attack.label: recorder for recorder in recorders}
    theirs = built.setup if "recipe" in built.resolved.knows else replace(built.setup, lab=None)
    history = [score for _, score, _ in outcome.history] or [outcome.accuracy or 0.0]
    for attack in built.attacks:
        spec = attack.chosen.spec
        assert isinstance(spec, AttackSpec)
        recorder = by_label.get(attack.label)
        finding = None
        if recorder is not None and attack.read is not None:
            view = view_of(recorder.view, built, recorder, state, built.layout)
            begun = time.perf_counter()
            finding = attack.read(view, theirs.at(attack.label))
            outcome.costs[attack.label] = Cost(time.perf_counter() - begun, 0.0, 1, 1)
            outcome.notes += [f"{attack.label}: {note}" for note in (finding.notes if finding is not None else ())]
            if finding is None or (isinstance(finding, Reconstruction) and not finding.inputs):
                outcome.notes.append(f"attack '{attack.label}' found nothing")
                continue
        truth = truth_of(built, recorder, history)
        if attack.label in built.objectives:
            truth = replace(truth, wanted=_wanted(built, state, attack, outcome))
        outcome.scores[attack.label] = GAMES[spec.game]().score(finding, truth)


def _wanted(built: Built, state: State, attack: LiveAttack, outcome: Outcome) -> Wanted:
    objective, test, module = built.objectives[attack.label], built.data.test, built.trainer.model(state)
    answers, predicted = (predictions(module, x) for x in (objective.inputs, test.x))
    return Wanted(objective, answers, predicted, test.y, outcome.success.get(attack.label, []), test.x, attack.window)


def strict(outcome: Outcome) -> None:
    """Raise `EffectError` where a layer never acted in the whole run."""
    idle = [note for note in outcome.notes if "never changed anything" in note]
    if idle:
        raise EffectError(f"{outcome.name}: " + "; ".join(idle))


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON values; pictures stay apart."""
    scores = {
        label: {"headline": s.headline, "measures": {name: asdict(m) for name, m in s.measures.items()}, "each": dict(s.each)}
        for label, s in outcome.scores.items()
    }
    plain = {key: value for key, value in vars(outcome).items() if key not in ("scores", "costs")}
    return json.loads(json.dumps({**plain, "scores": scores, "costs": {n: asdict(c) for n, c in outcome.costs.items()}}))  # type: ignore[no-any-return]


Progress = Callable[[str, float], None]
