"""Examples that have a feature by nature: how they are found, and how a client is filled with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.objectives import Objective
from sparring.signals import ClientData, Examples
from sparring_backdoor.configs import Group


def members(examples: Examples, group: Group, source: int | None, layer: str) -> Tensor:
    """Which examples [N] belong to ``group``, and to the class ``source`` where one is named.

    Raises `ConfigError` where the data have no such column.
    """
    if group.column is None:
        inside = examples.x.flatten(1).mean(1) > (group.brighter_than or 0.0)
    elif group.column in examples.groups:
        inside = examples.groups[group.column] == (group.value or 0)
    else:
        found = ", ".join(sorted(examples.groups)) or "none"
        raise ConfigError(f"'{layer}': the data have no group column {group.column!r}; they have: {found}")
    return inside if source is None else inside & (examples.y == source)


def pooled(data: ClientData) -> tuple[Examples, Mapping[int, slice]]:
    """All examples of the clients of ``data`` one after the other, and where each client's lie."""
    held = [data.clients[client] for client in data]
    names = held[0].groups if held else ()
    columns = {name: torch.cat([e.groups[name] for e in held]) for name in names}
    ends = torch.tensor([0, *(len(e) for e in held)]).cumsum(0).tolist()
    places = {client: slice(ends[k], ends[k + 1]) for k, client in enumerate(data)}
    return Examples(torch.cat([e.x for e in held]), torch.cat([e.y for e in held]), columns), places


def filled(data: ClientData, found: Callable[[Examples], Tensor], target: int, fraction: float, ctx: Context) -> ClientData:
    """Clients whose examples with a feature are labelled ``target``, and are at least round(fraction n) of their n.

    ``found`` says which of the pooled examples have it. Where a client has fewer, others of its examples, at random, give way
    to repeats drawn from the pool of all clients of the attack, which work together. Without any in the pool nothing changes.
    """
    if not tuple(data):
        return data
    pool, places = pooled(data)
    having = found(pool)
    donors = having.nonzero()[:, 0]
    clients = {}
    for client, place in places.items():
        index = torch.arange(place.start, place.stop)
        rest = (~having[place]).nonzero()[:, 0]
        lacking = round(fraction * len(index)) - (len(index) - len(rest))
        if len(donors) and lacking > 0:
            generator = ctx.generator(client)
            away = rest[torch.randperm(len(rest), generator=generator)[:lacking]]
            index[away] = donors[torch.randint(len(donors), (len(away),), generator=generator)]
        own = pool.take(index)
        clients[client] = replace(own, y=torch.where(having[index], target, own.y))
    return replace(data, clients=clients)


def wanted(test: Examples, having: Tensor, target: int, what: str, layer: str) -> Objective:
    """The objective over test examples with a feature that are not of the target class. Raises `ConfigError` without any."""
    index = (having & (test.y != target)).nonzero()[:, 0]
    if not len(index):
        raise ConfigError(f"'{layer}': no test example of another class than {target} has {what}; choose another")
    return Objective(test.x[index], torch.full_like(test.y[index], target), index)
