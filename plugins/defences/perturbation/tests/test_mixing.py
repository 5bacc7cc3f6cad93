"""Mixtures are what they say, their loss is the mixed one, and no per-example guarantee survives them."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_perturbation.instahide import InstaHide, flipped
from sparring_perturbation.mixing import coefficients, mixed, mixed_loss
from sparring_perturbation.mixup import Mixup
from sparring_perturbation.plugin import INSTAHIDE, MIXUP, InstaHideConfig, MixupConfig
from torch import nn
from torch.nn import functional as F

from sparring.errors import CompositionError, ConfigError
from sparring.facts import PerExample, PoissonSampled
from sparring.keys import Key
from sparring.local import Batch, Client, LocalContext, LocalPlan, cross_entropy
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import Tiny, make_setup


def generator(seed: int = 0) -> torch.Generator:
    return Key(seed, ("mixing",)).generator()


def batch(size: int, seed: int = 0) -> Batch:
    drawn = generator(seed)
    return Batch(torch.rand(size, 1, 8, 8, generator=drawn), torch.randint(4, (size,), generator=drawn))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 40), st.integers(2, 6), st.floats(0.55, 1))
def test_coefficients_are_positive_sum_to_one_and_obey_the_limit(seed: int, n: int, k: int, limit: float) -> None:
    drawn = coefficients(n, k, limit, generator(seed))
    assert drawn.shape == (n, k)
    assert bool((drawn >= 0).all())
    assert bool((drawn <= limit).all())
    torch.testing.assert_close(drawn.sum(1), torch.ones(n, dtype=torch.float64))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(2, 6))
def test_a_row_is_the_weighted_mean_of_distinct_members_led_by_its_own_example(seed: int, n: int, k: int) -> None:
    b = batch(n, seed)
    made = mixed(b, k, 0.65, generator(seed))
    several = min(k, n)
    assert made.members[:, 0].tolist() == list(range(n))
    assert all(len(set(row)) == several for row in made.members.tolist())
    assert torch.bincount(made.members.flatten(), minlength=n).tolist() == [several] * n
    expected = torch.einsum("bk,bkchw->bchw", made.weights.float(), b.x[made.members])
    torch.testing.assert_close(made.batch.x, expected)
    labels, shares = made.batch.y.chunk(2, dim=1)
    assert torch.equal(labels[:, :several].long(), b.y[made.members])
    torch.testing.assert_close(shares.sum(1), torch.ones(n))
    assert not shares[:, several:].any()


def test_the_loss_is_cross_entropy_against_soft_targets() -> None:
    module, b = Tiny(), batch(9)
    made = mixed(b, 4, 0.65, generator())
    soft = torch.einsum("bk,bkc->bc", made.weights.float(), F.one_hot(b.y[made.members], 4).float())
    expected = F.cross_entropy(module(made.batch.x), soft, reduction="none")
    torch.testing.assert_close(mixed_loss(cross_entropy)(module, made.batch), expected)
    assert torch.equal(mixed_loss(cross_entropy)(module, b), cross_entropy(module, b))


def test_dense_targets_are_mixed_too() -> None:
    module = nn.Conv2d(1, 3, 1)
    b = Batch(torch.rand(5, 1, 4, 4, generator=generator()), torch.randint(3, (5, 4, 4), generator=generator(1)))
    made = mixed(b, 3, 0.65, generator())
    soft = torch.einsum("bk,bkhwc->bchw", made.weights.float(), F.one_hot(b.y[made.members], 3).float())
    expected = F.cross_entropy(module(made.batch.x), soft, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(mixed_loss(cross_entropy)(module, made.batch), expected)


def test_a_lone_example_is_not_mixed_and_an_empty_lot_stays_empty() -> None:
    b = batch(1)
    made = mixed(b, 4, 0.65, generator())
    assert torch.equal(made.batch.x, b.x)
    torch.testing.assert_close(mixed_loss(cross_entropy)(Tiny(), made.batch), cross_entropy(Tiny(), b))
    empty = mixed(batch(0), 4, 0.65, generator())
    assert empty.batch.x.shape == (0, 1, 8, 8)
    assert mixed_loss(cross_entropy)(Tiny(), empty.batch).shape == (0,)


def test_padding_is_dropped_and_mixing_twice_is_refused() -> None:
    b = batch(6)
    padded = Batch(b.x, b.y, torch.tensor([1.0, 1, 0, 1, 0, 1]))
    real = torch.tensor([0, 1, 3, 5])
    found, expected = (mixed(each, 3, 0.65, generator()).batch for each in (padded, Batch(b.x[real], b.y[real])))
    assert torch.equal(found.x, expected.x)
    assert torch.equal(found.y, expected.y)
    with pytest.raises(ConfigError, match="one of mixup and instahide"):
        mixed(found, 3, 0.65, generator())


def test_signs_are_fair_independent_coins_about_the_centre() -> None:
    x = torch.rand(20, 1, 32, 32, generator=generator())
    out = flipped(x, 0.5, generator(1))
    torch.testing.assert_close((out - 0.5).abs(), (x - 0.5).abs())
    sign = ((out - 0.5) * (x - 0.5)).sign()
    assert abs(float(sign.mean())) < 5 / x.numel() ** 0.5
    rows = torch.corrcoef(sign.flatten(1)).fill_diagonal_(0)
    assert float(rows.abs().max()) < 6 / 1024**0.5
    assert bool(((out >= 0) & (out <= 1)).all())
    assert torch.equal(flipped(x, 0.0, generator(1)).abs(), x)


@pytest.mark.parametrize("defence", [Mixup(MixupConfig()), InstaHide(InstaHideConfig())])
def test_streams_decide_and_steps_differ(defence: Mixup | InstaHide) -> None:
    plan = defence.defence_transform(LocalPlan(), make_setup("defence"))
    ((name, change),) = plan.batch
    assert name == "defence"
    client, b = Client(0, 8, 8, 2), batch(8)
    stream = generator(3)
    first, second = (change(b, LocalContext(client, 0, step, stream)) for step in range(2))
    again = change(b, LocalContext(client, 0, 0, generator(3)))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.x, second.x)


@pytest.mark.parametrize("spec", [MIXUP, INSTAHIDE])
def test_examples_neither_stay_apart_nor_enter_by_coins(spec: Any) -> None:
    facts = spec.layers[0].facts(spec.config())
    assert not facts.survives(PerExample())
    assert not facts.survives(PoissonSampled("example"))
    assert facts.survives(PoissonSampled("client"))


def test_engines_agree() -> None:
    """Sequential and stacked training draw the same mixtures."""
    module = lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 4))  # noqa: E731
    federation = {"clients": 3, "rounds": 1, "batch_size": 7, "optimiser": {"lr": 0.5}}
    for name in ("mixup", "instahide"):
        losses = [
            outcome(model=module, federation=federation, engine=engine, defences=[name]).history[-1][2]
            for engine in ("sequential", "stacked")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_soteria_stands_behind_mixtures() -> None:
    task = {"federation": {"clients": 3, "rounds": 2, "batch_size": 7, "optimiser": {"lr": 0.5}}}
    model = lambda: nn.Sequential(nn.Linear(12, 8), nn.Sigmoid(), nn.Linear(8, 4))  # noqa: E731
    assert outcome(model=model, **task, defences=["mixup", "soteria"]).accuracy is not None
    with pytest.raises(CompositionError):
        outcome(model=model, **task, defences=["soteria", "mixup"])
