"""Laws of label recovery from the gradient of the last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from sparring_inversion.labels import RULES, Source, head, recover
from sparring_inversion.matching import stacks
from sparring_inversion.plugin import sparring_plugins
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.errors import ConfigError
from sparring.facts import Knows
from sparring.layout import Layout
from sparring.likeness import recovered
from sparring.local import Batch, Forward, LossFn, cross_entropy
from sparring.signals import DataShape, ModelPlan
from sparring.specs import Config
from sparring.views import Capture, LocalSettings, UpdateView

SOURCES: tuple[Source, ...] = ("idlg", "yin", "wainakh", "geng", "bias")
SHAPE = DataShape((1, 8, 8), 10)


def net(bias: bool = True, end: nn.Module | None = None) -> nn.Module:
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10, bias=bias)]
    return nn.Sequential(*layers, *([] if end is None else [end]))


def digits(seed: int = 0) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    index = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(data.images / 16).float()[index, None], torch.tensor(data.target).long()[index]


def captured(lots: list[Tensor], factory: Callable[[], nn.Module] = net, epochs: int = 0, scale: float = 1.0) -> UpdateView:
    """What clients send whose batches are digits at ``lots``, of a model that was trained for so many epochs on digits."""
    torch.manual_seed(0)
    module, (x, y) = factory(), digits()
    optimiser = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    for _ in range(epochs):
        for i in torch.arange(len(y)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(module(x[i]), y[i]).backward()
            optimiser.step()
    layout, captures = Layout.of(module), []
    for client, i in enumerate(lots):
        gradients = torch.autograd.grad(F.cross_entropy(module(x[i]), y[i]), list(module.parameters()))
        row = -scale * torch.cat([g.reshape(-1) for g in gradients])
        captures.append(Capture(0, client, layout.row(module), row, layout, ModelPlan(factory, SHAPE), 1, len(i)))
    return UpdateView(SHAPE, cross_entropy, captures)


def share(source: Source, lots: list[Tensor], **options: int) -> float:
    """The share of labels that are found, as multisets."""
    (stack,) = stacks(captured(lots, **options), source)  # type: ignore[arg-type]
    truth = digits()[1]
    return sum(recovered(stack.labels[k], truth[i]) for k, i in enumerate(lots)) / len(lots)


def drawn(size: int, times: int = 20) -> list[Tensor]:
    """Batches of ``size`` digits."""
    return list(torch.arange(size * times).split(size))


def unique(size: int, times: int = 20) -> list[Tensor]:
    """Batches of ``size`` digits without a label twice."""
    y = digits()[1]
    of = [torch.nonzero(y == c)[:, 0] for c in range(10)]
    draw = torch.Generator().manual_seed(0)
    return [torch.stack([of[int(c)][t] for c in torch.randperm(10, generator=draw)[:size]]) for t in range(times)]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("bias", [True, False])
def test_every_source_is_exact_for_one_example_trained_or_not(source: Source, bias: bool) -> None:
    for epochs in (0, 1):
        view = captured(drawn(1, 100), lambda: net(bias), epochs)
        (stack,) = stacks(view, source)
        assert stack.labels[:, 0].equal(digits()[1][:100])


def test_bias_recovers_95_per_cent_of_32_labels_of_an_untrained_net() -> None:
    assert share("bias", drawn(32)) >= 0.95


@pytest.mark.parametrize("source", SOURCES)
def test_unique_labels_of_an_untrained_net_are_recovered(source: Source) -> None:
    assert share(source, unique(8)) >= 0.95


@pytest.mark.parametrize("source", ["geng", "idlg"])
def test_repeated_labels_are_counted_beyond_a_uniform_guess(source: Source) -> None:
    assert share(source, drawn(32)) > uniform(drawn(32)) + 0.05


def test_llg_needs_classes_that_are_absent() -> None:
    """Where every class is there, its negative row sums cancel and its step m is too short."""
    assert share("wainakh", drawn(4)) > 0.9
    assert share("wainakh", drawn(32)) < uniform(drawn(32))


def uniform(lots: list[Tensor]) -> float:
    """What one label after the other finds."""
    return sum(recovered(torch.arange(len(i)) % 10, digits()[1][i]) for i in lots) / len(lots)


@pytest.mark.parametrize("source", ["geng", "bias"])
def test_counts_that_need_probabilities_fail_on_a_trained_net(source: Source) -> None:
    assert share(source, drawn(32), epochs=5) < share(source, drawn(32)) - 0.2


@pytest.mark.parametrize("source", SOURCES)
def test_the_order_of_a_batch_changes_nothing(source: Source) -> None:
    lot = drawn(8, 1)[0]
    (stack,) = stacks(captured([lot, lot.flip(0), lot[torch.randperm(8, generator=torch.Generator().manual_seed(0))]]), source)
    assert all(labels.equal(stack.labels[0]) for labels in stack.labels)
    assert stack.labels[0].equal(stack.labels[0].sort().values)


@pytest.mark.parametrize("source", ["yin", "wainakh"])
def test_signs_and_ranks_need_no_scale(source: Source) -> None:
    a, b = (stacks(captured(unique(8), scale=s), source)[0].labels for s in (1, 0.01))
    assert a.equal(b)


@pytest.mark.parametrize("source", ["geng", "bias"])
def test_counts_are_of_the_gradient_where_settings_say_what_a_row_is_a_multiple_of(source: Source) -> None:
    settings = LocalSettings("fedavg", 0.01, 0, 0, None, 1, None)
    scaled = replace(captured(drawn(32), scale=0.01), settings=settings)
    assert stacks(scaled, source)[0].labels.equal(stacks(captured(drawn(32)), source)[0].labels)


def test_llg_draws_as_its_loop_does() -> None:
    view = captured(drawn(32, 5))
    found = RULES["wainakh"](head(view.captures, [1.0] * 5, view.loss)).sort(1).values
    for capture, labels in zip(view.captures, found, strict=True):
        S = capture.layout.split(capture.gradient, "parameter")["3.weight"].sum(1)
        m, drawn_ = float(S[S < 0].sum()) * (1 + 1 / 10) / 32, [c for c in range(10) if S[c] < 0]
        for c in drawn_:
            S[c] -= m
        while len(drawn_) < 32:
            drawn_.append(int(S.argmin()))
            S[drawn_[-1]] -= m
        assert sorted(drawn_) == labels.tolist()


def test_what_a_rule_cannot_read_is_refused_with_one_that_can() -> None:
    with pytest.raises(ConfigError, match="set labels: geng or wainakh"):
        stacks(captured(drawn(4, 1), lambda: net(bias=False)), "bias")
    with pytest.raises(ConfigError, match="set wainakh"):
        stacks(captured(drawn(32, 1)), "yin")


@pytest.mark.parametrize("end", [nn.LayerNorm(10, bias=False), nn.LayerNorm(10), nn.PReLU(10), nn.Tanh(), nn.Softmax(1)])
@pytest.mark.parametrize("source", SOURCES)
def test_a_model_that_does_not_end_in_a_linear_layer_is_refused(source: Source, end: nn.Module) -> None:
    with pytest.raises(ConfigError, match="grant the labels"):
        stacks(captured(drawn(4, 1), lambda: net(end=end)), source)


def test_assumptions_that_do_not_hold_are_noted() -> None:
    lots = drawn(8, 1)

    def signed() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    def doubled(forward: Forward, batch: Batch) -> Tensor:
        return 2 * cross_entropy(forward, batch)

    def notes(view: UpdateView, source: Source, loss: LossFn = cross_entropy) -> str:
        return " ".join(recover(source, head(view.captures, [1.0], loss))[1])

    assert "not negative" in notes(captured(lots, signed), "wainakh")
    assert "cross-entropy" in notes(captured(lots), "bias", doubled)
    assert "labels: bias" in notes(captured(lots), "idlg")
    assert not notes(captured(lots), "bias")


def test_labels_and_scale_are_needs_only_where_they_are_read() -> None:
    """The settings of the clients' training also where that is simulated and not guessed."""
    for spec in (spec for spec in sparring_plugins() if "labels" in spec.config.model_fields):
        reader = spec.reader  # type: ignore[attr-defined]
        others = {"statistics": "none"} if "statistics" in spec.config.model_fields else {}
        trains = (Knows("local-settings"),) if "local" in spec.config.model_fields else ()

        def known(config: Config, reader: Any = reader) -> list[object]:
            return [need for need in reader.facts(config).needs if isinstance(need, Knows)]

        assert known(spec.config(**others)) == [Knows("architecture"), Knows("labels"), *trains]
        for source in ("idlg", "yin", "wainakh"):
            assert known(spec.config(labels=source, **others)) == [Knows("architecture"), *trains]
        for source in ("geng", "bias"):
            assert known(spec.config(labels=source, **others)) == [Knows("architecture"), Knows("local-settings")]
        assert reader.tap(spec.config()).rounds == (0,)
