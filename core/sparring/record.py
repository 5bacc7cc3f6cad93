"""Records: what attacks tapped, kept on disk so that memory stays flat, and the views made from them after training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from sparring.build import Built
from sparring.errors import BudgetSpent, CheckpointError
from sparring.files import write_bytes
from sparring.groups import HONEST
from sparring.keys import Key
from sparring.layout import Layout
from sparring.live import LiveAttack
from sparring.scoring import Truth
from sparring.signals import Broadcast, Examples, Release, Responses, State, Updates
from sparring.sites import Site
from sparring.specs import AttackSpec
from sparring.taps import Tap
from sparring.train import client_of, generator
from sparring.views import AggregateView, Capture, LocalSettings, ModelView, QueryView, UpdateView, View

POOL = 1000
"""Candidates of each kind, members and non-members, in a membership game."""
DECOYS = 1000
"""Test inputs among which a reconstruction must find its victim."""
PRIVATE = 10_000
"""Private examples, at most, of a model-inversion game, and test examples that say how good its evaluator is: a tenth."""


def group_of(built: Built, client: int, round_: int) -> str:
    """The group of a client in a round."""
    return next(name for name, members in built.groups_at(round_).items() if client in members)


def used(built: Built, client: int, round_: int) -> Tensor:
    """The indices of the examples that a client trained on in a round: its sampler's lots, drawn again."""
    work = built.work
    group = group_of(built, client, round_)
    who = client_of(client, work.examples(client, group), work.settings)
    lots = list(work.plans[group].sampler.batches(who, generator(work, round_, "sampler", client)))
    return torch.cat(lots).unique() if lots else torch.zeros(0, dtype=torch.long)


@dataclass
class Recorder:
    """Writes the transmissions that one passive attack taps; ``planted``: broadcasts of a model that is not the honest one."""

    built: Built
    attack: LiveAttack
    view: str
    tap: Tap
    folder: Path
    planted: dict[tuple[int, int | None], Broadcast] = field(default_factory=dict)

    def __call__(self, round_: int, broadcast: Broadcast, signal: Updates | Release) -> None:
        """Keep what this attack is granted of a transmission."""
        wanted = Updates if self.view == "update" else Release
        if not isinstance(signal, wanted) or (self.tap.rounds is not None and round_ not in self.tap.rounds):
            return
        tensors: dict[str, Tensor] = {"parameters": broadcast.row.cpu()}
        if isinstance(signal, Updates):
            ids = [i for i in signal.ids if i in self.attack.clients]
            if not ids:
                return
            tensors["rows"], name = signal.select(ids).rows.cpu().clone(), f"round-{round_:06d}-{ids[0]:06d}"
            for client in ids:
                if client in broadcast.overrides:
                    tensors[f"parameters/{client}"] = broadcast.to(client).row.cpu().clone()
                self._note(round_, client, broadcast.to(client))
        else:
            ids, name = [signal.clients], f"round-{round_:06d}"
            tensors["rows"] = signal.vector[None].cpu().clone()
            self._note(round_, None, broadcast)
        tensors["clients"] = torch.tensor(ids)
        write_bytes(self.folder / f"{name}.safetensors", save_tensors(tensors))

    def _note(self, round_: int, client: int | None, broadcast: Broadcast) -> None:
        if broadcast.plan is not self.built.plan:
            self.planted[round_, client] = broadcast

    def captures(self) -> list[Capture]:
        """Everything that was tapped, in order."""
        found: list[Capture] = []
        for path in sorted(self.folder.glob("round-*.safetensors")):
            try:
                tensors = load_tensors(path.read_bytes())
            except (OSError, safetensors.SafetensorError) as error:
                raise CheckpointError(f"{path} is corrupt: {error}; run again without --resume") from error
            for row, number in zip(tensors["rows"], tensors["clients"].tolist(), strict=True):
                found.append(self._capture(int(path.stem.split("-")[1]), number, row, tensors))
        return found

    def _capture(self, round_: int, number: int, row: Tensor, tensors: dict[str, Tensor]) -> Capture:
        client = number if self.view == "update" else None
        behind = self.behind(round_, client)
        sent = self.planted.get((round_, client))
        layout = sent.layout if sent else self.built.layout
        if len(tensors["parameters"]) != layout.size:
            raise CheckpointError(
                f"round {round_} was tapped with a planted model, which is lost when a run stops; run again without --resume"
            )
        knows = "labels" in self.built.resolved.knows
        return Capture(
            round=round_,
            client=client,
            parameters=tensors.get(f"parameters/{number}", tensors["parameters"])
            if client is not None
            else tensors["parameters"],
            row=row,
            layout=layout,
            plan=sent.plan if sent else self.built.plan,
            count=1 if client is not None else number,
            examples=len(behind),
            labels=behind.y if knows else None,
        )

    def behind(self, round_: int, client: int | None) -> Examples:
        """The private examples behind a capture: the game's truth, never the attack's."""
        from sparring.round import sampled

        clients = [client] if client is not None else list(sampled(self.built, round_))
        work = self.built.work
        held = {c: work.examples(c, group_of(self.built, c, round_)) for c in clients}
        parts = [examples.take(used(self.built, c, round_)) for c, examples in held.items()]
        return Examples(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))


def settings(built: Built) -> LocalSettings | None:
    """How clients train, where the threat model grants it."""
    return built.work.settings if "local-settings" in built.resolved.knows else None


def predictor(built: Built, state: State, user: str) -> Callable[[Tensor], Tensor]:
    """The released model behind the RESPONSE layers."""
    module = built.trainer.model(state)

    def raw(inputs: Tensor) -> Tensor:
        outputs: Tensor = module(inputs.to(state.row))
        return outputs

    def answer(inputs: Tensor) -> Tensor:
        responses = Responses(raw(inputs), inputs, user, raw)
        for live in built.at(Site.RESPONSE):
            responses = live.transform(responses, built.setup.at(live.name, live.facts))
        return responses.outputs

    return answer


def budgeted(predict: Callable[[Tensor], Tensor], budget: int | None) -> Callable[[Tensor], Tensor]:
    """An oracle that answers ``budget`` inputs and then raises `BudgetSpent`."""
    left = [budget]

    @torch.no_grad()
    def query(inputs: Tensor) -> Tensor:
        if left[0] is not None:
            if len(inputs) > left[0]:
                raise BudgetSpent(f"the query budget of {budget} inputs has {left[0]} left, and {len(inputs)} were asked")
            left[0] -= len(inputs)
        return predict(inputs)

    return query


def candidates(built: Built) -> tuple[Examples, Tensor]:
    """Equal numbers of training and test examples, shuffled, and which are members."""
    key = built.setup.key.child("game", "membership")
    members = _held(built)
    outside = built.data.test
    count = min(POOL, len(members), len(outside))
    draw = key.generator()
    chosen = [e.take(torch.randperm(len(e), generator=draw)[:count]) for e in (members, outside)]
    order = torch.randperm(2 * count, generator=draw)
    pool = Examples(torch.cat([e.x for e in chosen]), torch.cat([e.y for e in chosen]))
    return pool.take(order), order < count


def _held(built: Built) -> Examples:
    """Everything that the honest clients hold."""
    inside = [built.work.data.clients[i] for i in built.groups[HONEST]]
    return Examples(torch.cat([e.x for e in inside]), torch.cat([e.y for e in inside]))


def _some(examples: Examples, most: int, key: Key) -> Examples:
    return examples.take(torch.randperm(len(examples), generator=key.generator())[:most])


def view_of(name: str, built: Built, recorder: Recorder, state: State, layout: Layout) -> View:
    """The view that an attack is granted, from what its tap recorded and from the released model."""
    shape = built.data.shape
    loss = built.work.plans[HONEST].loss
    if name == "update":
        return UpdateView(shape, loss, recorder.captures(), settings(built))
    if name == "aggregate":
        return AggregateView(shape, loss, recorder.captures(), settings(built))
    pool = candidates(built)[0] if _plays(built, "membership") else None
    x, y = (pool.x, pool.y) if pool else (None, None)
    predict = predictor(built, state, recorder.attack.label)
    if name == "model":
        rounds = (built.resolved.file.federation.rounds - 1,)
        return ModelView(shape, loss, rounds, (state.row,), layout, built.plan, predict, x, y)
    if name == "query":
        budget = built.resolved.file.threat_model.query_budget
        return QueryView(shape, loss, budgeted(predict, budget), budget, x, y)
    raise CheckpointError(f"the {name} view needs a trainer that records it; none in this run does")


def truth_of(built: Built, recorder: Recorder | None, accuracy: list[float]) -> Truth:
    """What the games know: the private examples behind each capture, and the model's accuracy."""
    test = built.data.test.y
    majority = float(torch.bincount(test.reshape(-1)).max()) / test.numel()
    examples = {}
    if recorder is not None and recorder.view in ("update", "aggregate"):
        examples = {(c.round, c.client): recorder.behind(c.round, c.client) for c in recorder.captures()}
    member = candidates(built)[1] if _plays(built, "membership") else None
    private = tests = None
    if _plays(built, "model-inversion"):
        key = built.setup.key.child("game", "model-inversion")
        private = _some(_held(built), PRIVATE, key.child("private"))
        tests = _some(built.data.test, PRIVATE // 10, key.child("tests"))
    known = Truth(examples, built.data.train.x.mean(0), accuracy, majority, member, decoys=built.data.test.x[:DECOYS])
    return replace(known, columns=built.data.shape.columns, private=private, tests=tests)


def _plays(built: Built, game: str) -> bool:
    return any(isinstance(chosen.spec, AttackSpec) and chosen.spec.game == game for chosen in built.resolved.attacks)
