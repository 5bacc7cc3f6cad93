"""Declarations can lie: with ``checked: true`` the run names the layer that did."""

from __future__ import annotations

import pytest
import torch

from sparring.errors import EffectError
from sparring.facts import Clipped, Fact, Identified, Space, Weighted
from sparring.layout import Layout
from sparring.layout import Space as RowSpace
from sparring.signals import Updates
from sparring.spotcheck import check_updates

LAYOUT = Layout.build([("w", (3,), "parameter")])
BEFORE = Updates(torch.tensor([[3.0, 4.0, 0.0], [0.1, 0.0, 0.0]]), LAYOUT, (4, 7), torch.ones(2))


@pytest.mark.parametrize(
    "fact",
    [Clipped("l2", "client", "all", 5.0), Clipped("linf", "client", "all", 4.0), Space("real"), Identified(), Weighted()],
    ids=str,
)
def test_true_declarations_pass(fact: Fact) -> None:
    check_updates("layer", BEFORE, BEFORE, [fact])


@pytest.mark.parametrize(
    ("fact", "after"),
    [
        (Clipped("l2", "client", "all", 4.9), BEFORE),
        (Clipped("l1", "client", "all", 6.9), BEFORE),
        (Space("sealed"), BEFORE),
        (Space("real"), Updates(BEFORE.rows * torch.inf, LAYOUT, BEFORE.ids, BEFORE.weights)),
        (Space("real"), Updates(BEFORE.rows, Layout(LAYOUT.segments, RowSpace("ring", 8)), BEFORE.ids, BEFORE.weights)),
        (Identified(), Updates(BEFORE.rows, LAYOUT, (4, 8), BEFORE.weights)),
        (Weighted(), Updates(BEFORE.rows, LAYOUT, BEFORE.ids)),
    ],
)
def test_a_false_declaration_names_the_layer_and_the_fact(fact: Fact, after: Updates) -> None:
    with pytest.raises(EffectError, match=r"'liar' declares \w+"):
        check_updates("liar", BEFORE, after, [fact])
