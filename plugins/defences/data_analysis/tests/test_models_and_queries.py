"""Laws of STRIP and of Neural Cleanse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sparring_data_analysis.neural_cleanse import anomalies, invert
from sparring_data_analysis.plugin import NeuralCleanseConfig, sparring_plugins
from sparring_data_analysis.strip import entropies
from sparring_data_analysis.tasks import SHAPE, TARGET, Task, images, patched, perceptron, task
from torch import Tensor, nn

from sparring.context import Round, Setup, Wire
from sparring.errors import ConfigError
from sparring.roles import Data, Dataset
from sparring.signals import DataShape, Examples, Release, Responses
from sparring.testing.experiments import outcome

SPECS = {spec.name: spec for spec in sparring_plugins()}
PUBLIC = images(200, 500)


def layer(name: str, **options: object) -> Any:
    return SPECS[name].layers[0].build(SPECS[name].config(**options))


def answered(module: Any, x: Tensor, public: Examples | None = PUBLIC, **options: object) -> Tensor:
    ctx = replace(task().setup, public=public)
    found: Tensor = layer("strip", **options).defence_transform(Responses(module(x), x, "user", module), ctx).outputs
    return found


def test_each_query_is_judged_by_itself_and_kept_answers_are_the_models() -> None:
    bad = task(poison=0.1, sources=(1, 2, 3), size=4)
    module = bad.model(epochs=30).requires_grad_(False)
    x = torch.cat([bad.test.x[:40], patched(bad.test.x[bad.test.y != TARGET][:40], 4)])
    whole = answered(module, x)
    alone = torch.cat([answered(module, part) for part in x.split(7)])
    assert torch.equal(whole == 0, alone == 0)
    refused = (whole == 0).all(1)
    assert torch.equal(whole[~refused], module(x)[~refused])
    assert 0 < int(refused.sum()) < len(x)
    torch.testing.assert_close(whole[refused].softmax(1), torch.full((int(refused.sum()), 4), 0.25))


def test_more_false_rejections_refuse_more() -> None:
    module = task().model().requires_grad_(False)
    x = images(300, 77).x
    counts = [int((answered(module, x, false_rejection=r) == 0).all(1).sum()) for r in (0.001, 0.05, 0.4)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_entropy_is_that_of_the_mean_over_overlays() -> None:
    module, x, overlays = perceptron().double().requires_grad_(False), images(4, 1).x.double(), images(6, 2).x.double()
    found = entropies(module, x, overlays, 0.3)
    for k in range(4):
        y = module(0.7 * x[k] + 0.3 * overlays).softmax(1)
        assert float(found[k]) == pytest.approx(float(-(y * y.log2()).sum(1).mean()))


def test_no_query_is_answered_and_too_little_public_data_is_refused() -> None:
    module = perceptron().requires_grad_(False)
    assert answered(module, torch.zeros(0, 1, 8, 8)).shape == (0, 4)
    with pytest.raises(ConfigError, match="no public data"):
        answered(module, PUBLIC.x, None)
    with pytest.raises(ConfigError, match="3 public examples; it needs at least 4"):
        answered(module, PUBLIC.x, PUBLIC.take(torch.arange(3)))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first draw of a process pays for all
@given(st.lists(st.integers(1, 50), min_size=3, max_size=12))
def test_the_anomaly_index_is_of_median_and_deviation(sizes: list[int]) -> None:
    found = anomalies(torch.tensor(sizes, dtype=torch.float64))
    middle = sorted(sizes)[len(sizes) // 2] if len(sizes) % 2 else sum(sorted(sizes)[len(sizes) // 2 - 1 :][:2]) / 2
    for size, index in zip(sizes, found.tolist(), strict=True):
        assert (index > 0) == (size < middle)
        assert index >= 0
    scaled = anomalies(3 * torch.tensor(sizes, dtype=torch.float64))
    torch.testing.assert_close(scaled, found)


def context(of: Task, index: int, **changes: Any) -> Round:
    lab, row = of.lab, torch.zeros(of.lab.layout.size)
    made = Round(index, 10, lab.key, Wire(index, lambda stage, client: False), "neural-cleanse", row, lab.layout, lab=lab)
    return replace(made, **{"public": PUBLIC, **changes})


def test_it_acts_in_the_last_round_alone_and_leaves_what_a_layer_put_beside_the_model() -> None:
    bad = task()
    row = bad.lab.layout.row(bad.model())
    wide = bad.lab.layout.extended([("beside", (3,))])
    signal = Release(torch.cat([row, torch.arange(3.0)]), wide, 7.0, 4)
    cleanse = layer("neural-cleanse", steps=120)
    assert cleanse.defence_transform(signal, context(bad, 8)) is signal
    out = cleanse.defence_transform(signal, context(bad, 9))
    assert (out.layout, out.total, out.clients) == (wide, 7.0, 4)
    assert torch.equal(out.vector[-3:], torch.arange(3.0))
    plain = cleanse.defence_transform(Release(row, bad.lab.layout), context(bad, 9))
    assert torch.equal(plain.vector, out.vector[:-3])
    assert bad.success(bad.lab.model(row)) > 0.9
    assert bad.success(bad.lab.model(plain.vector)) < 0.05


def test_the_release_and_the_state_together_are_the_repaired_model() -> None:
    bad = task()
    row = bad.lab.layout.row(bad.model())
    cleanse = layer("neural-cleanse", steps=120)
    from_zero = cleanse.defence_transform(Release(row, bad.lab.layout), context(bad, 9)).vector
    start = torch.linspace(-1, 1, len(row))
    step = cleanse.defence_transform(Release(row - start, bad.lab.layout), context(bad, 9, parameters=start)).vector
    torch.testing.assert_close(start + step, from_zero, rtol=1e-3, atol=1e-3)


def test_masks_are_of_pixels_for_images_and_of_features_for_tables() -> None:
    few = NeuralCleanseConfig(steps=3)
    for shape, mask in (((3, 6, 5), (1, 6, 5)), ((7,), (7,))):
        module = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
        x = torch.rand(10, *shape)
        module(x)
        found = invert(module.requires_grad_(False), x, 4, few, torch.Generator().manual_seed(0))
        assert found.mask.shape == (4, *mask)
        assert found.pattern.shape == (4, *shape)
        assert float(found.mask.min()) >= 0
        assert float(found.mask.max()) <= 1
        assert bool((found.sizes[~found.found] == found.mask[0].numel()).all())


def test_refusals_of_neural_cleanse_in_the_first_round() -> None:
    bad = task()
    signal = Release(torch.zeros(bad.lab.layout.size), bad.lab.layout)
    cleanse = layer("neural-cleanse")
    with pytest.raises(ConfigError, match="public data"):
        cleanse.defence_transform(signal, context(bad, 0, public=None))
    fedsgd = replace(bad.lab, settings=replace(bad.lab.settings, algorithm="fedsgd"))
    with pytest.raises(ConfigError, match="fedsgd"):
        cleanse.defence_transform(signal, context(bad, 0, lab=fedsgd))
    two = replace(bad.lab, plan=replace(bad.lab.plan, shape=DataShape(SHAPE.inputs, 2)))
    with pytest.raises(ConfigError, match="2 none can be one"):
        cleanse.defence_transform(signal, context(bad, 0, lab=two))


class Poisoned(Dataset):
    """The small task, poison included, with public data."""

    def load(self, ctx: Setup) -> Data:
        bad = task()
        shown = [bad.data.clients[c] for c in bad.data]
        x, y = torch.cat([e.x for e in shown]), torch.cat([e.y for e in shown])
        source = bad.test.take(bad.test.y == 1)
        return Data(Examples(x, y), Examples(patched(source.x), source.y), SHAPE, public=PUBLIC)


def test_a_whole_run_ends_with_a_model_without_the_backdoor() -> None:
    """Test images are patched images of the source class, so that accuracy is what the backdoor leaves of them."""
    federation = {"clients": 4, "rounds": 8, "local_epochs": 2, "optimiser": {"lr": 0.2}}
    run = {"dataset": Poisoned(), "model": perceptron, "federation": federation}
    waive = [{"need": "PublicData", "reason": "this data set object offers public data"}]
    without = outcome(**run).accuracy
    behind = outcome(**run, defences=[{"neural-cleanse": {"steps": 120}}], waive=waive).accuracy
    assert without is not None
    assert behind is not None
    assert without < 0.2
    assert behind > 0.8
