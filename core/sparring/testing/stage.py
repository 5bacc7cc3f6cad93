"""The stage on which layers are tried: a signal for each site, the context of the engine, and what a layer made of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparring.claims import Event
from sparring.context import Context, Round, Setup, Wire
from sparring.facts import Clipped, Fact, Identified, PublicData, Space, Summable, Weighted, closed_fields
from sparring.groups import HONEST
from sparring.keys import Key
from sparring.layout import Layout
from sparring.local import LocalPlan
from sparring.signals import Broadcast, ClientData, Cohort, ModelPlan, Release, Responses, Updates
from sparring.signature import Signature
from sparring.sites import Site
from sparring.strategies import Work
from sparring.testing.fixtures import IDS, make_updates, tiny_data, tiny_lab, tiny_plan, tiny_public
from sparring.train import Sequential
from sparring.views import LocalSettings

NUMBERS = {"bound": 1.0, "rate": 0.25, "modulus": float(1 << 32)}
NORMS: Mapping[str, float] = {"l1": 1.0, "l2": 2.0, "linf": float("inf")}
SETTINGS = LocalSettings("fedavg", 0.1, 0.0, 0.0, 8, 1, None)


def standing(signature: Signature) -> tuple[Fact, ...]:
    """What training gives, and for every need the preferred fact that meets it, with numbers."""
    held: list[Fact] = [Summable(), Identified(), Weighted(), Space("real")]
    for clause in signature.clauses:
        if not any(fact.meets(need) for fact in held for need in clause):
            held.append(numbered(next(iter(clause[0].ground()))))
    return tuple(held)


def holds(signature: Signature, fact: Fact) -> bool:
    """Whether ``fact`` holds behind a layer where it held before it: it is kept, or given."""
    return any(given.meets(fact) for given in signature.gives) or signature.survives(fact)


def real(signature: Signature) -> bool:
    """Whether numbers are reals behind a layer that was given reals."""
    given = [fact for fact in signature.gives if isinstance(fact, Space)]
    return given[-1].kind == "real" if given else signature.survives(Space("real"))


def numbered(fact: Fact) -> Fact:
    """``fact`` with a value for each number that it carries."""
    closed = closed_fields(type(fact))
    blank = [f.name for f in fields(fact) if f.name not in closed and getattr(fact, f.name) is None]
    return replace(fact, **{name: NUMBERS.get(name, 1.0) for name in blank})


def clip_bounds(facts: Sequence[Fact]) -> dict[str, float]:
    """The least bound of each norm that is known to be clipped per client."""
    found: dict[str, float] = {}
    for fact in facts:
        if isinstance(fact, Clipped) and fact.unit == "client" and fact.norm and fact.bound is not None:
            found[fact.norm] = min(found.get(fact.norm, fact.bound), fact.bound)
    return found


def clipped(updates: Updates, bounds: Mapping[str, float]) -> Updates:
    """The updates with every row scaled within ``bounds`` by norm."""
    params = updates.params
    for norm, limit in bounds.items():
        size = torch.linalg.vector_norm(params.double(), ord=NORMS[norm], dim=1)
        params = params * (limit * (1 - 1e-5) / size.clamp(min=limit)).to(params)[:, None]
    return updates.with_params(params)


def make_context(site: Site, index: int, seed: int, layer: str, facts: tuple[Fact, ...], **grants: Any) -> Context:
    """The context that the engine gives at ``site``: a `Round`, or a `Setup` where a layer runs once."""
    public = tiny_public() if any(isinstance(fact, PublicData) for fact in facts) else None
    lab = tiny_lab(seed).called(layer) if grants.pop("trains", True) else None
    if site in (Site.MODEL, Site.DATA, Site.RESPONSE) or site.local:
        return Setup(Key(seed), layer, facts, public=public, lab=lab)
    lost: Callable[[str, int], bool] = grants.pop("lost", lambda stage, client: False)
    plan = tiny_plan()
    parameters = Layout.of(plan.factory()).row(plan.factory())
    made = Round(index, 10, Key(seed), Wire(index, lost), layer, parameters, Layout.of(plan.factory()), facts, IDS)
    return replace(made, **{"secure": secure_bytes(seed, index), "public": public, "lab": lab, **grants})


def secure_bytes(seed: int, index: int = 0) -> Callable[[int], bytes]:
    """A stand-in for ``ctx.secure`` that repeats: fresh bytes at every call, the same sequence for the same numbers."""
    return random.Random(f"{seed}/{index}").randbytes


def make_signal(  # noqa: PLR0911 - one signal per site
    site: Site, facts: tuple[Fact, ...] = (), seed: int = 0, clients: int = len(IDS)
) -> Any:
    """A small signal for ``site`` in which ``facts`` hold; cohorts are of so many ``clients``."""
    if site is Site.MODEL:
        return tiny_plan()
    if site is Site.DATA:
        return tiny_data(seed=seed)
    if site.local:
        return LocalPlan()
    layout = Layout.of(tiny_plan().factory())
    number = clients if site in (Site.COHORT, Site.AGGREGATE) else len(IDS)
    updates = clipped(make_updates(number, layout=layout, seed=seed), clip_bounds(facts))
    if site is Site.UPDATE:
        return updates
    if site in (Site.COHORT, Site.AGGREGATE):
        return Cohort(updates.rows, layout, updates.ids, updates.weights, sources=updates.ids)
    if site is Site.BROADCAST:
        return Broadcast(tiny_plan(), updates.rows[0], layout)
    if site is Site.RELEASE:
        return Release(updates.rows[0], layout, 60.0, len(IDS))
    if site is Site.RESPONSE:
        module = tiny_plan().factory().requires_grad_(False)
        x = next(iter(tiny_data(seed=seed).clients.values())).x
        return Responses(module(x), x, "user", module)
    raise ValueError(f"no layer acts alone at {site.label}")


def aggregate(rule: Any, cohort: Cohort, ctx: Context) -> Release:
    """What a rule releases."""
    assert isinstance(ctx, Round)
    release: Release = rule.server_aggregate(cohort, ctx)
    return release


def make_work(plans: Mapping[str, LocalPlan], data: ClientData | None = None, seed: int = 0) -> Work:
    """What a strategy is given: the tiny model, the tiny data (or others), and these plans."""
    model = tiny_plan()
    held = tiny_data() if data is None else data
    return Work(model, Layout.of(model.factory()), held, plans, SETTINGS, Key(seed), torch.device("cpu"))


def start(work: Work) -> Broadcast:
    """The first broadcast of a run of ``work``."""
    return Broadcast(work.plan, work.layout.row(work.plan.factory()), work.layout)


def trained(plan: LocalPlan, index: int = 0, seed: int = 0) -> Tensor:
    """Rows [n, d] of a round of local training under ``plan``: what a local layer comes to."""
    work = make_work({HONEST: plan}, seed=seed)
    return Sequential(work).train(start(work), list(work.data), HONEST, index)


def outcome(site: Site, signal: Any, index: int = 0) -> tuple[Tensor, ...]:  # noqa: PLR0911 - one answer per signal
    """Tensors in which everything that a signal comes to can be seen."""
    if isinstance(signal, LocalPlan):
        return (trained(signal, index),)
    if isinstance(signal, ModelPlan):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = signal.factory().eval()
        x = next(iter(tiny_data().clients.values())).x
        return (Layout.of(module).row(module), module(x).detach())
    if isinstance(signal, Broadcast):
        others = (tensor for client in sorted(signal.overrides) for tensor in outcome(site, signal.overrides[client]))
        refused = torch.tensor(sorted(signal.refused), dtype=torch.long)
        return (signal.row, *(signal.extras[name] for name in sorted(signal.extras)), refused, *others)
    if isinstance(signal, Updates | Cohort):
        ids = () if signal.ids is None else (torch.tensor(signal.ids),)
        return (signal.rows, *(() if signal.weights is None else (signal.weights,)), *ids)
    if isinstance(signal, Release):
        return (signal.vector, torch.tensor([signal.total]))
    if isinstance(signal, ClientData):
        return tuple(tensor for client in sorted(signal.clients) for tensor in tensors(signal.clients[client]))
    return (signal.outputs,)


def tensors(value: Any) -> list[Tensor]:
    """Every tensor within dataclasses, mappings and sequences."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        return [t for field in fields(value) for t in tensors(getattr(value, field.name))]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in tensors(item)]
    return [t for item in value for t in tensors(item)] if isinstance(value, list | tuple) else []


def same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Whether two sequences of tensors are equal bit for bit (NaN equals NaN)."""
    return len(left) == len(right) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(left, right, strict=True)
    )


class Emitted(list[tuple[Event, tuple[int, ...]]]):
    """Collects mechanism events: pass it as ``emit``."""

    def __call__(self, event: Event, clients: Sequence[int]) -> None:
        self.append((event, tuple(clients)))
