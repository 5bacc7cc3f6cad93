"""The default rule, the weighted mean, and the fixed tree in which streaming rules are merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from sparring.context import Round
from sparring.layout import Layout
from sparring.roles import StreamingAggregator
from sparring.signals import Release, Updates

A = TypeVar("A")
BLOCK = 64
"""Clients in a leaf of the tree: fixed, so that sums do not depend on how many workers made them."""


@dataclass(frozen=True)
class Sum:
    """Weighted sum [d] of rows, the sum of weights, the number of clients."""

    vector: Tensor
    total: float
    clients: int
    layout: Layout


@final
class WeightedMean(StreamingAggregator[Sum]):
    r"""Mean of rows weighted by numbers of examples, $\sum_i w_i x_i / \sum_i w_i$ (McMahan et al., AISTATS 2017, 1602.05629).

    Rows in a ring, or sealed, are summed modulo its modulus and not divided: the half that opens them decodes the sum. An empty
    cohort gives a zero release of total weight 0.
    """

    def init(self, updates: Updates) -> Sum:
        return Sum(torch.zeros_like(updates.rows[0]) if len(updates.rows) else updates.rows.sum(0), 0.0, 0, updates.layout)

    def add(self, accumulator: Sum, updates: Updates) -> Sum:
        modulus = updates.layout.space.modulus
        n = len(updates.rows)
        if modulus is not None:
            vector, total = (accumulator.vector + updates.rows.sum(0)) % modulus, float(n)
        else:
            weights = torch.ones(n) if updates.weights is None else updates.weights
            vector = accumulator.vector + weights.to(updates.rows) @ updates.rows
            total = float(weights.double().sum())
        return Sum(vector, accumulator.total + total, accumulator.clients + n, updates.layout)

    def merge(self, left: Sum, right: Sum) -> Sum:
        modulus = left.layout.space.modulus
        vector = left.vector + right.vector
        return Sum(
            vector if modulus is None else vector % modulus, left.total + right.total, left.clients + right.clients, left.layout
        )

    def finish(self, accumulator: Sum, ctx: Round) -> Release:
        del ctx
        vector = accumulator.vector
        if accumulator.layout.space.modulus is None and accumulator.total > 0:
            vector = vector / accumulator.total
        return Release(vector, accumulator.layout, accumulator.total, accumulator.clients)


def fold(rule: StreamingAggregator[A], blocks: Iterable[Updates], ctx: Round) -> Release:
    """Fold rows in leaves of `BLOCK`, merged in a binary tree over their order, with O(log) accumulators.

    Equal bits for any scheduling, and however the rows were split into ``blocks``.
    """
    stack: list[tuple[int, Any]] = []
    for part in _leaves(blocks):
        leaf: tuple[int, Any] = (0, rule.add(rule.init(part), part))
        while stack and stack[-1][0] == leaf[0]:
            level, left = stack.pop()
            leaf = (level + 1, rule.merge(left, leaf[1]))
        stack.append(leaf)
    while len(stack) > 1:
        (_, right), (level, left) = stack.pop(), stack.pop()
        stack.append((level, rule.merge(left, right)))
    return rule.finish(stack[0][1], ctx)


def _leaves(blocks: Iterable[Updates]) -> Iterator[Updates]:
    """The same rows in blocks of `BLOCK`, but for the last; one empty block where there are none."""
    held: Updates | None = None
    for block in blocks:
        held = block if held is None else _beside(held, block)
        while len(held.ids) > BLOCK:
            yield held.select(held.ids[:BLOCK])
            held = held.select(held.ids[BLOCK:])
    if held is not None:
        yield held


def _beside(first: Updates, second: Updates) -> Updates:
    weights = None if first.weights is None or second.weights is None else torch.cat([first.weights, second.weights])
    return replace(first, rows=torch.cat([first.rows, second.rows]), ids=(*first.ids, *second.ids), weights=weights)
