"""Partitions: disjoint, complete and repeatable splits in which every client holds something, and refusals that say why."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.errors import ConfigError
from sparring.keys import Key
from sparring.partition import partition
from sparring.schema import Partition
from sparring.signals import Examples
from tests.core.federation import experiment, played


def examples(n: int, classes: int = 5, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    return Examples(torch.rand(n, 2, generator=generator), y, {"ward": torch.arange(n) % 3})


def split(data: Examples, clients: int, seed: int = 0, **how: object) -> dict[int, Tensor]:
    return partition(data, clients, Partition.model_validate(how), Key(seed))


def skew(data: Examples, parts: dict[int, Tensor]) -> float:
    """Mean total variation distance between a client's classes and everybody's."""
    classes = int(data.y.max()) + 1
    whole = torch.bincount(data.y, minlength=classes) / len(data)
    own = [torch.bincount(data.y[part], minlength=classes) / len(part) for part in parts.values()]
    return sum(float((o - whole).abs().sum()) / 2 for o in own) / len(own)


KINDS = st.one_of(
    st.just({"kind": "iid"}),
    st.builds(lambda a: {"kind": "dirichlet", "alpha": a}, st.floats(1e-3, 100)),
    st.builds(lambda a: {"kind": "quantity", "alpha": a}, st.floats(1e-3, 100)),
    st.builds(lambda a: {"kind": "similarity", "similarity": a}, st.floats(0, 1)),
)


@settings(max_examples=150, deadline=None)
@given(how=KINDS, clients=st.integers(1, 12), extra=st.integers(0, 150), classes=st.integers(1, 6), seed=st.integers(0, 2**40))
def test_every_example_goes_to_one_client_and_every_client_holds_one(
    how: dict[str, Any], clients: int, extra: int, classes: int, seed: int
) -> None:
    data = examples(clients + extra, classes, seed % 97)
    parts = split(data, clients, seed, **how)
    assert list(parts) == list(range(clients))
    assert all(len(part) for part in parts.values())
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(len(data)))
    again = split(data, clients, seed, **how)
    assert all(torch.equal(parts[k], again[k]) for k in parts)


@pytest.mark.parametrize("how", [{"kind": "iid"}, {"kind": "dirichlet"}, {"kind": "quantity"}, {"kind": "classes"}])
def test_another_seed_splits_otherwise(how: dict[str, Any]) -> None:
    data = examples(200)
    a, b = (split(data, 5, seed, **how) for seed in (1, 2))
    assert any(len(a[k]) != len(b[k]) or not torch.equal(a[k], b[k]) for k in a)


def test_iid_shares_differ_by_one_at_most() -> None:
    sizes = [len(part) for part in split(examples(103), 10).values()]
    assert max(sizes) - min(sizes) == 1


def test_dirichlet_is_more_skewed_the_smaller_alpha() -> None:
    data = examples(3000)
    skews = [sum(skew(data, split(data, 10, s, kind="dirichlet", alpha=a)) for s in range(5)) / 5 for a in (0.05, 0.5, 5, 1000)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.5
    assert skews[-1] < 0.1


def test_quantity_is_more_uneven_the_smaller_alpha_and_keeps_the_classes() -> None:
    data = examples(3000)
    largest = [max(len(part) for part in split(data, 10, kind="quantity", alpha=a).values()) for a in (0.05, 1, 1000)]
    assert largest == sorted(largest, reverse=True)
    assert largest[-1] < 2 * 300
    sized = split(data, 4, kind="quantity", sizes=[500, 500, 500])
    assert skew(data, sized) < 0.1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 4), st.integers(0, 50))
def test_given_sizes_are_kept_and_the_others_share_the_rest_equally(sizes: list[int], others: int, spare: int) -> None:
    parts = split(examples(sum(sizes) + others + spare), len(sizes) + others, kind="quantity", sizes=sizes)
    assert [len(parts[k]) for k in range(len(sizes))] == sizes
    rest = [len(parts[k]) for k in range(len(sizes), len(parts))]
    if rest:
        assert sum(rest) == others + spare
        assert max(rest) - min(rest) <= 1
    every = torch.cat(list(parts.values()))
    assert len(every.unique()) == len(every)


def test_no_size_at_all_is_equal_shares() -> None:
    assert [len(part) for part in split(examples(12), 4, kind="quantity", sizes=[]).values()] == [3] * 4


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 8))
def test_by_class_a_client_holds_at_most_that_many_classes(clients: int, per_client: int, classes: int) -> None:
    data = Examples(torch.rand(60 * classes, 1), torch.arange(60 * classes) % classes)
    parts = split(data, clients, kind="classes", classes=per_client)
    for part in parts.values():
        assert 1 <= len(data.y[part].unique()) <= per_client
    every = torch.cat(list(parts.values()))
    assert len(every.unique()) == len(every)
    if clients * per_client >= classes:
        assert len(every) == len(data)


def test_by_class_skips_labels_that_no_example_has() -> None:
    data = Examples(torch.rand(40, 1), torch.tensor([1, 7]).repeat(20))
    parts = split(data, 2, kind="classes", classes=1)
    assert [data.y[part].unique().tolist() for part in parts.values()] == [[1], [7]]


def test_by_group_a_client_is_a_group() -> None:
    data = examples(30)
    for part in split(data, 3, kind="group", column="ward").values():
        assert len(data.groups["ward"][part].unique()) == 1
        assert len(part) == 10


DENSE = Examples(torch.rand(20, 1, 4, 4), torch.zeros(20, 4, 4, dtype=torch.long))
RARE = Examples(torch.rand(40, 1), torch.tensor([0] * 39 + [1]))
REFUSED = [
    (examples(3), 4, {"kind": "iid"}, "3 training examples cannot be split over 4 clients; use fewer clients"),
    (examples(9), 2, {"kind": "quantity", "sizes": [1, 2, 3]}, "sizes is .1, 2, 3.: at most 2 sizes, each at least 1"),
    (examples(9), 3, {"kind": "quantity", "sizes": [0]}, "each at least 1"),
    (examples(9), 3, {"kind": "quantity", "sizes": [8]}, "add up to 8; 9 examples must leave one for each client"),
    (examples(9), 1, {"kind": "quantity", "sizes": [10]}, "add up to 10; 9 examples"),
    (examples(9), 3, {"kind": "group"}, "column is None; the data set's group columns: ward"),
    (examples(9), 3, {"kind": "group", "column": "wrad"}, "column is 'wrad'; the data set's group columns: ward"),
    (examples(9), 4, {"kind": "group", "column": "ward"}, "column 'ward' has 3 values; set federation.clients to that"),
    (DENSE, 4, {"kind": "dirichlet"}, "it needs one class an example; use iid, quantity or group"),
    (DENSE, 4, {"kind": "classes"}, "it needs one class an example; use iid, quantity or group"),
    (RARE, 6, {"kind": "classes", "classes": 1}, "client 3 would hold no example.*use fewer clients or more classes"),
]


@pytest.mark.parametrize(("data", "clients", "how", "message"), REFUSED)
def test_what_cannot_be_split_is_refused(data: Examples, clients: int, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split(data, clients, **how)


@pytest.mark.parametrize("clients", [1, 3, 5, 7])
def test_without_similarity_clients_hold_runs_of_the_sorted_classes(clients: int) -> None:
    data = examples(105)
    own = [data.y[part] for part in split(data, clients, kind="similarity", similarity=0).values()]
    assert all(int(a.max()) <= int(b.min()) for a, b in itertools.pairwise(own))
    assert max(map(len, own)) - min(map(len, own)) <= 1


def test_the_less_similar_the_more_skewed() -> None:
    data = examples(2000)
    skews = [skew(data, split(data, 5, kind="similarity", similarity=s)) for s in (0, 0.33, 0.66, 1)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] >= 0.6
    assert skews[3] <= 0.1


def test_clients_beyond_the_holders_hold_nothing() -> None:
    data = examples(60)
    parts = split(data, 6, kind="similarity", holders=4)
    assert [len(part) for part in parts.values()] == [15, 15, 15, 15, 0, 0]
    whole = split(data, 4, kind="similarity")
    assert all(torch.equal(parts[k], whole[k]) for k in whole)


@pytest.mark.parametrize("engine", ["sequential", "workers", "stacked"])
def test_a_client_without_data_sends_an_update_of_zeros(engine: str) -> None:
    sent = played(experiment(partition={"holders": 3}, engine=engine), 1).sent()
    assert [bool(row.any()) for row in sent.values()] == [True, True, True, False]


def test_more_holders_than_clients_are_refused() -> None:
    with pytest.raises(ConfigError, match="holders is 7; there are 6 clients"):
        split(examples(60), 6, holders=7)
