"""Partitions: how the training data is split over the clients."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.errors import ConfigError
from sparring.keys import Key
from sparring.schema import Partition
from sparring.signals import Examples


def partition(examples: Examples, clients: int, how: Partition, key: Key) -> dict[int, Tensor]:
    """Disjoint index tensors, one a client, none empty but those of clients beyond ``holders``.

    Every example is used, unless ``sizes`` names every client's, or ``classes`` leaves a class without a holder.
    ``similarity``: that share of the examples is split iid; the rest, sorted by class, is cut into one piece a client
    (Karimireddy et al., ICML 2020, 1910.06378).

    Raises `ConfigError` where the data cannot be split so.
    """
    if how.holders is not None:
        if how.holders > clients:
            raise ConfigError(
                f"dataset.partition.holders is {how.holders}; there are {clients} clients: choose at most as many"
            )
        held = partition(examples, how.holders, how.model_copy(update={"holders": None}), key)
        return {client: held.get(client, torch.zeros(0, dtype=torch.long)) for client in range(clients)}
    generator = key.child("partition").generator()
    n = len(examples)
    if n < clients:
        raise ConfigError(f"dataset.partition: {n} training examples cannot be split over {clients} clients; use fewer clients")
    shuffled = torch.randperm(n, generator=generator)
    if how.kind == "iid":
        parts = list(shuffled.tensor_split(clients))
    elif how.kind == "quantity":
        parts = list(shuffled[: sum(sizes := _sizes(how, n, clients, key))].split(sizes))
    elif how.kind == "dirichlet":
        parts = _dirichlet(_classes(examples, how)[shuffled], shuffled, clients, how.alpha, key)
    elif how.kind == "classes":
        parts = _by_class(_classes(examples, how)[shuffled], shuffled, clients, how.classes)
    elif how.kind == "similarity":
        parts = _similar(_classes(examples, how)[shuffled], shuffled, clients, how.similarity)
    else:
        parts = _by_group(examples, shuffled, clients, how)
    return {client: part.sort().values for client, part in enumerate(parts)}


def _classes(examples: Examples, how: Partition) -> Tensor:
    if examples.y.dim() != 1:
        raise ConfigError(f"dataset.partition.kind is {how.kind}: it needs one class an example; use iid, quantity or group")
    return examples.y


def _sizes(how: Partition, n: int, clients: int, key: Key) -> list[int]:
    if how.sizes is None:
        return _whole(_dirichlet_shares(1, clients, how.alpha, key)[0], n, least=1)
    if len(how.sizes) > clients or min(how.sizes, default=1) < 1:
        raise ConfigError(f"dataset.partition.sizes is {how.sizes}: at most {clients} sizes, each at least 1")
    rest, others = n - sum(how.sizes), clients - len(how.sizes)
    if rest < others or (others == 0 and rest < 0):
        raise ConfigError(f"dataset.partition.sizes add up to {sum(how.sizes)}; {n} examples must leave one for each client")
    share = [rest // others + (k < rest % others) for k in range(others)] if others else []
    return [*how.sizes, *share]


def _dirichlet_shares(rows: int, clients: int, alpha: float, key: Key) -> Tensor:
    """Rows [rows, clients] of Dirichlet(alpha): normalised Gamma(alpha, 1) draws, in log space so that tiny alphas hold."""
    import numpy as np

    rng = np.random.Generator(np.random.Philox(key.child("partition", "dirichlet").number()))
    exponent = rng.exponential(size=(rows, clients)) / alpha
    log_gamma = np.log(rng.gamma(alpha + 1, size=(rows, clients))) - exponent
    return torch.from_numpy(log_gamma).softmax(dim=1)


def _whole(shares: Tensor, n: int, least: int = 0) -> list[int]:
    """Whole numbers near ``shares * n`` that add up to n, none below ``least``."""
    free = n - least * len(shares)
    edges = (shares.cumsum(0) * free).round().long().clamp(max=free)
    edges[-1] = free
    return [int(size) + least for size in edges.diff(prepend=torch.zeros(1, dtype=torch.long))]


def _dirichlet(y: Tensor, order: Tensor, clients: int, alpha: float, key: Key) -> list[Tensor]:
    classes = int(y.max()) + 1
    shares = _dirichlet_shares(classes, clients, alpha, key)
    parts: list[list[Tensor]] = [[] for _ in range(clients)]
    for c in range(classes):
        members = order[y == c]
        for part, own in zip(parts, members.split(_whole(shares[c], len(members))), strict=True):
            part.append(own)
    merged = [torch.cat(part) for part in parts]
    for k in range(clients):
        if len(merged[k]) == 0:
            largest = max(range(clients), key=lambda i: len(merged[i]))
            merged[k], merged[largest] = merged[largest][:1], merged[largest][1:]
    return merged


def _by_class(y: Tensor, order: Tensor, clients: int, per_client: int) -> list[Tensor]:
    classes = y.unique()
    holders: list[list[int]] = [[] for _ in classes]
    for k in range(clients):
        for j in range(min(per_client, len(classes))):
            holders[(k * per_client + j) % len(classes)].append(k)
    parts: list[list[Tensor]] = [[order[:0]] for _ in range(clients)]
    for c, held_by in zip(classes, holders, strict=True):
        for k, own in zip(held_by, order[y == c].tensor_split(max(len(held_by), 1)), strict=False):
            parts[k].append(own)
    merged = [torch.cat(part) for part in parts]
    empty = next((k for k, part in enumerate(merged) if not len(part)), None)
    if empty is not None:
        raise ConfigError(
            f"dataset.partition: client {empty} would hold no example, for its classes have fewer examples than holders; "
            "use fewer clients or more classes a client"
        )
    return merged


def _similar(y: Tensor, order: Tensor, clients: int, similarity: float) -> list[Tensor]:
    """A share of the examples iid; of the rest, which is sorted by class, each client gets a run, so that sizes are equal."""
    n = len(order)
    mixed = order[: round(similarity * n)].tensor_split(clients)
    done = sum(map(len, mixed))
    rest = order[done:][y[done:].sort(stable=True).indices]
    sizes = [n // clients + (k < n % clients) - len(own) for k, own in enumerate(mixed)]
    return [torch.cat(pair) for pair in zip(mixed, rest.split(sizes), strict=True)]


def _by_group(examples: Examples, order: Tensor, clients: int, how: Partition) -> list[Tensor]:
    if how.column is None or how.column not in examples.groups:
        raise ConfigError(
            f"dataset.partition.column is {how.column!r}; the data set's group columns: {', '.join(examples.groups) or 'none'}"
        )
    column = examples.groups[how.column]
    values = column.unique()
    if len(values) != clients:
        raise ConfigError(f"dataset.partition: column {how.column!r} has {len(values)} values; set federation.clients to that")
    return [order[column[order] == value] for value in values]
