"""What a malicious server reads: exact inputs from planted layers, one example of a class, and nothing in noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_active_inversion.cards import answers, drowned, exact, found, normal, quality
from sparring_active_inversion.curious_abandon_honesty import SetTraps, SpringTraps
from sparring_active_inversion.fishing import Cast, Haul
from sparring_active_inversion.plugin import CuriousAbandonHonestyConfig, FishingConfig, RobbingTheFedConfig
from sparring_active_inversion.reading import GREY, UNKNOWN
from sparring_active_inversion.robbing_the_fed import Imprint, ReadImprint
from torch import nn

from sparring.errors import ConfigError
from sparring.layout import Layout
from sparring.signals import Broadcast, Examples, ModelPlan
from sparring.testing.experiments import outcome
from sparring.testing.fixtures import IDS, SHAPE, make_round, smooth, tiny_layout, tiny_plan

BINS = RobbingTheFedConfig(deviation=0.05)
HONEST = Broadcast(tiny_plan(), tiny_layout().row(tiny_plan().factory()), tiny_layout())


def images(n: int, seed: int) -> torch.Tensor:
    return normal(n, torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), B=st.integers(1, 12))
def test_an_input_alone_in_its_bin_comes_out_exactly_and_with_its_label(seed: int, B: int) -> None:
    """Brightness at the middles of distinct bins, so that every input is alone.

    In float32 those whose gradient is no more than 1e-4 of the largest may be lost to rounding: one of 720 was, at 3e-5.
    """
    c = torch.arange(1, 14, dtype=torch.float64) / 14
    middles = BINS.mean + BINS.deviation * 2**0.5 * torch.erfinv(2 * c - 1)
    x = images(B, seed)
    x = x - x.mean((1, 2, 3), keepdim=True) + middles[:B].view(-1, 1, 1, 1).float()
    y = torch.arange(B) % SHAPE.classes
    capture = answers(Imprint(BINS), x, y, seed)
    slopes = capture.layout.split(capture.row.double(), "parameter")["imprint_bias"]
    clear = int(((slopes[:-1] - slopes[1:]).abs() > 1e-4 * slopes.abs().max()).sum())
    assert B - 1 <= clear <= B
    assert exact(quality(ReadImprint(BINS), capture, x)) >= clear / B > 0
    labels = found(ReadImprint(BINS), capture).labels[0, IDS[0]]
    inputs = found(ReadImprint(BINS), capture).inputs[0, IDS[0]]
    order = torch.cdist(inputs.flatten(1), x.flatten(1)).argmin(1)
    assert torch.equal(labels[labels >= 0], y[order][labels >= 0])


@pytest.mark.parametrize("clients", [2, 4])
def test_an_aggregate_gives_up_what_one_batch_of_all_its_inputs_does(clients: int) -> None:
    x, y = images(16, 3), torch.arange(16) % SHAPE.classes
    together, apart = (answers(Imprint(BINS), x, y, clients=n) for n in (1, clients))
    values = [exact(quality(ReadImprint(BINS), capture, x)) for capture in (together, apart)]
    assert values[0] == values[1] > 0.8


def test_a_planted_layer_leaves_the_honest_parameters_and_nearly_the_function() -> None:
    sent = Imprint(BINS).attack_transform(HONEST, make_round())
    parts, honest = sent.layout.split(sent.row), HONEST.layout.split(HONEST.row)
    assert all(torch.equal(parts[name], honest[name]) for name in honest)
    x = images(8, 0)
    module, plain = sent.plan.factory(), HONEST.plan.factory()
    sent.layout.load(module, sent.row)
    assert (module(x) - plain(x)).abs().max() < 0.5 * plain(x).std()


def test_a_planted_layer_stands_behind_parameters_of_the_module_itself() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 4)
            self.factor = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * self.inner(x.flatten(1))  # type: ignore[no-any-return]

    plan = ModelPlan(Scaled, SHAPE)
    layout = Layout.of(Scaled())
    sent = Imprint(BINS).attack_transform(Broadcast(plan, torch.zeros(layout.size), layout), make_round())
    assert sent.layout == Layout.of(sent.plan.factory())


def test_public_quantiles_put_equal_shares_of_public_inputs_into_the_bins() -> None:
    config = RobbingTheFedConfig(bins=8, quantiles="public", scale=1.0)
    x = images(800, 1)
    ctx = replace(make_round(), public=Examples(x, torch.zeros(800, dtype=torch.long)))
    sent = Imprint(config).attack_transform(HONEST, ctx)
    c = -sent.layout.split(sent.row)["imprint_bias"]
    counts = torch.bincount(torch.bucketize(x.flatten(1).mean(1), c) - 1, minlength=8)
    assert counts.min() >= 99
    assert counts.max() <= 101
    with pytest.raises(ConfigError, match="no public data"):
        Imprint(config).attack_transform(HONEST, make_round())


def test_the_same_attack_twice_is_refused() -> None:
    sent = Imprint(BINS).attack_transform(HONEST, make_round())
    with pytest.raises(ConfigError, match="name its attack once"):
        Imprint(BINS).attack_transform(sent, make_round())


@pytest.mark.parametrize(
    "reader", [ReadImprint(BINS), SpringTraps(CuriousAbandonHonestyConfig()), Haul(FishingConfig(iterations=1))]
)
def test_a_capture_of_the_honest_model_is_grey_and_noted(reader: ReadImprint | SpringTraps | Haul) -> None:
    x = images(4, 0)
    capture = answers(Imprint(replace_rounds()), x, torch.arange(4))
    result = found(reader, capture)
    assert bool((result.inputs[0, IDS[0]] == GREY).all())
    assert result.labels[0, IDS[0]].tolist() == [UNKNOWN] * 4
    assert len(result.notes) == 1


def replace_rounds() -> RobbingTheFedConfig:
    """An attack that rests in round 0."""
    return RobbingTheFedConfig(rounds=(7,))


def test_traps_in_the_models_own_first_layer_read_one_input_exactly() -> None:
    config = CuriousAbandonHonestyConfig(layer="own", factor=1.0)
    x = smooth(1, torch.Generator().manual_seed(0))
    capture = answers(SetTraps(config), x, torch.tensor([2]))
    assert capture.layout == HONEST.layout
    assert exact(quality(SpringTraps(config), capture, x)) == 1
    plan = ModelPlan(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4)), SHAPE)
    layout = Layout.of(plan.factory())
    with pytest.raises(ConfigError, match="set layer: prepended"):
        SetTraps(config).attack_transform(Broadcast(plan, torch.zeros(layout.size), layout), make_round())


def test_traps_recover_most_of_a_batch_of_eight_and_nothing_of_noise() -> None:
    config = CuriousAbandonHonestyConfig()
    x = smooth(8, torch.Generator().manual_seed(0))
    capture = answers(SetTraps(config), x, torch.arange(8) % 4)
    assert exact(quality(SpringTraps(config), capture, x)) > 0.5
    assert bool((found(SpringTraps(config), drowned(capture)).inputs[0, IDS[0]] == GREY).all())


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 100), n=st.integers(0, 3))
def test_fishing_counts_the_target_class_and_isolates_a_single_example(seed: int, n: int) -> None:
    x = images(6, seed)
    y = torch.tensor([0] * n + [1, 2, 3, 1, 2, 3][: 6 - n])
    reader = Haul(FishingConfig(iterations=1, restarts=1))
    capture = answers(Cast(reader.config), x, y)
    result = found(reader, capture)
    assert int((result.labels[0, IDS[0]] == 0).sum()) == min(n, 1)
    assert len(result.notes) == int(n > 1)
    if n == 1:
        alone = answers(Cast(reader.config), x[:1], y[:1]).row
        assert (reader.isolated(capture).row - alone).norm() < 1e-4 * alone.norm()


def test_fishing_refuses_what_is_no_class_and_no_last_linear_layer() -> None:
    with pytest.raises(ConfigError, match="classes are 0 to 3"):
        Cast(FishingConfig(target=4)).attack_transform(HONEST, make_round())
    plan = ModelPlan(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)), SHAPE)
    layout = Layout.of(plan.factory())
    with pytest.raises(ConfigError, match="ends in a linear layer with a bias"):
        Cast(FishingConfig()).attack_transform(Broadcast(plan, torch.zeros(layout.size), layout), make_round())


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
def test_a_run_goes_on_with_the_honest_model_once_the_imprint_was_read(engine: str) -> None:
    federation = {"algorithm": "fedsgd", "clients": 4, "rounds": 40, "batch_size": None, "optimiser": {"lr": 2.0}}
    plain = outcome(federation=federation, engine=engine)
    attacked = outcome(
        federation=federation,
        engine=engine,
        threat_model={"server": "malicious", "knows": ["architecture"]},
        attacks=[{"robbing-the-fed": {"mean": 0.4, "deviation": 0.05, "bins": 4096}}],
    )
    measures = attacked.scores["robbing-the-fed"].measures
    assert measures["psnr"].value > (measures["psnr"].baseline or 0) + 30
    assert attacked.accuracy is not None
    assert plain.accuracy is not None
    assert attacked.accuracy > plain.accuracy - 0.05
