"""Laws of stratified splits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sparring_arrays.split import quotas, split, stratified, subset

from sparring.errors import DataError

LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=80).map(torch.tensor)
SEEDS = st.integers(0, 2**32)


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(LABELS, st.integers(1, 79), SEEDS)
def test_a_split_is_a_partition_of_the_indices(y, take, seed):
    seen = len(y.unique())
    if take > len(y) - seen:
        with pytest.raises(DataError, match="examples were asked"):
            stratified(y, take, stream(seed))
        return
    rest, taken = stratified(y, take, stream(seed))
    assert len(taken) == take
    assert torch.equal(torch.cat([rest, taken]).sort().values, torch.arange(len(y)))


@given(LABELS, st.integers(1, 79), SEEDS)
def test_each_class_gives_its_share_to_within_one_and_keeps_an_example(y, take, seed):
    counts = torch.bincount(y)
    if take > int((counts - 1).clamp(min=0).sum()):
        return
    _, taken = stratified(y, take, stream(seed))
    got = torch.bincount(y[taken], minlength=len(counts))
    ideal = counts.double() * take / len(y)
    assert (got <= (counts - 1).clamp(min=0)).all()
    capped = (ideal > (counts - 1).clamp(min=0)).any()
    assert capped or ((got - ideal).abs() < 1).all()


@given(LABELS, st.integers(1, 80), SEEDS)
def test_a_subset_has_its_size_no_repeats_and_the_classes_in_their_shares(y, limit, seed):
    index = subset(y, limit, stream(seed))
    assert len(index) == len(index.unique()) == min(limit, len(y))
    counts = torch.bincount(y).double()
    got = torch.bincount(y[index], minlength=len(counts))
    assert ((got - counts * len(index) / len(y)).abs() < 1).all()


@given(LABELS, st.one_of(st.none(), st.integers(1, 80)), SEEDS)
def test_what_is_drawn_next_does_not_depend_on_the_limit(y, limit, seed):
    one, other = stream(seed), stream(seed)
    subset(y, limit, one)
    subset(y, None, other)
    assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=other))


def test_the_same_stream_gives_the_same_split_and_another_gives_another():
    y = torch.arange(100) % 5
    first, again, other = (split(y, 0.2, stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1].sort().values, other[1].sort().values)


def test_a_split_is_shuffled_not_sorted_by_class():
    y = torch.arange(100) // 20
    train, test = split(y, 0.5, stream(0))
    for part in (train, test):
        assert not torch.equal(y[part], y[part].sort().values)


def test_dense_targets_are_split_at_random():
    rest, taken = stratified(torch.zeros(10, 4, 4, dtype=torch.long), 3, stream(0))
    assert torch.equal(torch.cat([rest, taken]).sort().values, torch.arange(10))


def test_quotas_round_by_largest_remainder():
    assert quotas(torch.tensor([5, 3, 2]), 5, 0).tolist() == [3, 1, 1]
    assert quotas(torch.tensor([500] * 10), 1000, 1).tolist() == [100] * 10


def test_every_example_cannot_be_held_out():
    with pytest.raises(DataError, match="between 1 and 9"):
        stratified(torch.zeros(10, dtype=torch.long), 10, stream(0))
