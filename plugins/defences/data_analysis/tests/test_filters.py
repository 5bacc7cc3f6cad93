"""Laws of the filters of raw data: what they need, what they score, whom they drop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_data_analysis.activation_clustering import silhouette, two_means, whitened
from sparring_data_analysis.influence_filter import fitted, hessian, self_influence, tracin, with_bias
from sparring_data_analysis.plugin import SHOWN, sparring_plugins
from sparring_data_analysis.shown import kept, pooled, removed, represented
from sparring_data_analysis.spectral_signatures import signatures
from sparring_data_analysis.tasks import EPOCHS, images, perceptron, pool, task
from torch import Tensor, nn

from sparring.checker import walk
from sparring.context import Setup
from sparring.errors import CompositionError, ConfigError, NumericalError
from sparring.experiment import Experiment
from sparring.explain import explain
from sparring.facts import PerExample, PoissonSampled
from sparring.keys import Key
from sparring.roles import Data, Dataset
from sparring.signals import ClientData, DataShape, Examples
from sparring.signature import Step
from sparring.sites import Site
from sparring.testing.experiments import Blobs, linear, outcome
from sparring.threat import skips

SPECS = {spec.name: spec for spec in sparring_plugins()}
FILTERS = ("spectral-signatures", "activation-clustering", "loss-filter", "influence-filter")


def layer(name: str, **options: object) -> Any:
    return SPECS[name].layers[0].build(SPECS[name].config(**options))


def resolved(name: str, **threat: object) -> Any:
    """A stack of this filter alone; plugins are looked up among those that are installed, so the walk is done by hand."""
    experiment = Experiment.of("small", dataset=Blobs(), model=linear, threat_model=threat)
    (cell,) = experiment.resolve().values()
    step = Step(name, Site.DATA, SPECS[name].layers[0].facts(SPECS[name].config()))
    return walk([step, *cell.report.steps], cell.sources)


@pytest.mark.parametrize("name", FILTERS)
def test_raw_data_are_shown_by_the_threat_model_or_not_at_all(name: str) -> None:
    refused = resolved(name)
    assert not refused.ok
    assert [m.clause for m in refused.missing] == [(fact,) for fact in SHOWN]
    text = explain(refused, {})
    assert f"'{name}' needs Readable(server, data, example), which does not hold where it stands." in text
    assert "grant it in the threat model: raw_data: true" in text
    granted = resolved(name, raw_data=True)
    assert granted.ok
    assert set(SHOWN) <= granted.facts, "what is shown stays shown: an exposure that attacks may use"


@pytest.mark.parametrize("name", FILTERS)
def test_compromised_clients_cannot_skip_it_and_no_example_stands_for_itself_behind_it(name: str) -> None:
    (declared,) = SPECS[name].layers
    assert declared.wire
    assert declared.site is Site.DATA
    signature = declared.facts(SPECS[name].config())
    assert not any(signature.survives(fact) for fact in (PerExample(), PoissonSampled("example"), PoissonSampled("client")))


@pytest.mark.parametrize("name", FILTERS)
def test_what_a_client_holds_does_not_depend_on_the_order_of_clients(name: str) -> None:
    bad = task()
    backwards = ClientData(dict(reversed(bad.data.clients.items())), bad.data.shape)
    one, two = (layer(name).defence_transform(data, bad.setup) for data in (bad.data, backwards))
    assert tuple(two) == tuple(reversed(tuple(one)))
    for client in one:
        assert torch.equal(one.clients[client].x, two.clients[client].x)
        assert torch.equal(one.clients[client].groups["poison"], two.clients[client].groups["poison"])


@pytest.mark.parametrize("name", FILTERS)
def test_a_client_without_data_and_a_class_without_examples_are_no_obstacle(name: str) -> None:
    bad = task()
    clients = {c: e.take(e.y != 2) for c, e in bad.data.clients.items()}
    empty = next(iter(clients.values())).take(torch.zeros(0, dtype=torch.long))
    out = layer(name).defence_transform(ClientData({**clients, 99: empty}, bad.data.shape), bad.setup)
    assert set(out) == {*clients, 99}
    assert len(out.clients[99]) == 0


@pytest.mark.parametrize("name", FILTERS)
def test_refusals(name: str) -> None:
    bad = task()
    with pytest.raises(ConfigError, match="no lab"):
        layer(name).defence_transform(bad.data, Setup(Key(0), "filter"))
    dense = {c: Examples(e.x, e.y[:, None].expand(-1, 4)) for c, e in bad.data.clients.items()}
    with pytest.raises(ConfigError, match="one label for each"):
        layer(name).defence_transform(ClientData(dense, bad.data.shape), bad.setup)


def test_a_lab_that_diverges_is_an_error() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    nn.init.constant_(module[1].weight, torch.nan)
    with pytest.raises(NumericalError, match="diverged"):
        represented(module, torch.rand(3, 1, 8, 8))


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), data=st.data())
@settings(deadline=None)
def test_who_is_kept_stays_with_his_client_in_his_order(sizes: list[int], data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(len(sizes))
    held = {
        7 * (5 - k): Examples(torch.rand(n, 2, generator=generator), torch.zeros(n, dtype=torch.long))
        for k, n in enumerate(sizes)
    }
    signal = ClientData(held, DataShape((2,), 2))
    n = len(pooled(signal))
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=torch.bool)
    out = kept(signal, keep)
    assert torch.equal(pooled(out).x, pooled(signal).x[keep])
    assert tuple(out) == tuple(signal)


@given(share=st.floats(1e-6, 0.5), n=st.integers(0, 10_000))
def test_one_and_a_half_times_the_share_is_removed(share: float, n: int) -> None:
    assert removed(share, n) <= n
    assert removed(share, n) == pytest.approx(1.5 * share * n, abs=1)
    assert removed(share, n) <= 1.5 * share * n + 1e-8


@given(seed=st.integers(0, 1000), n=st.integers(2, 12), k=st.integers(1, 6))
@settings(deadline=None)
def test_signatures_are_those_of_the_singular_value_decomposition(seed: int, n: int, k: int) -> None:
    rows = torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, s, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    if len(s) > 1 and s[0] - s[1] < 1e-3 * s[0]:
        return
    torch.testing.assert_close(signatures(rows), (u[:, 0] * s[0]).square(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(signatures(rows + 5), signatures(rows), rtol=1e-6, atol=1e-9)


def test_equal_features_have_no_signature() -> None:
    assert torch.equal(signatures(torch.ones(5, 3, dtype=torch.float64)), torch.zeros(5, dtype=torch.float64))


def test_clusters_are_those_of_independent_components_and_of_another_implementation() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    decomposition, metrics = pytest.importorskip("sklearn.decomposition"), pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    rows = torch.rand(120, 6, generator=generator, dtype=torch.float64)
    rows[:30, 0] += 4
    rows = rows @ mixing
    points = whitened(rows, 4)
    ica = decomposition.FastICA(4, random_state=0, whiten="unit-variance", max_iter=5000, tol=1e-2).fit_transform(rows.numpy())
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(*2 * [torch.from_numpy(ica)]), rtol=1e-6, atol=1e-6)
    side = two_means(points, torch.Generator().manual_seed(0))
    theirs = cluster.KMeans(2, n_init=20, random_state=0).fit(points.numpy())
    assert torch.equal(side == side[0], torch.from_numpy(theirs.labels_ == theirs.labels_[0]))
    assert silhouette(points, side) == pytest.approx(metrics.silhouette_score(points.numpy(), side.numpy()))


def test_edges_of_clustering() -> None:
    same = torch.ones(5, 3, dtype=torch.float64)
    assert whitened(same, 10).shape == (5, 0)
    clustering = layer("activation-clustering")
    for features in (same, same[:0], same[:1], same[:2]):
        assert not bool(clustering.poisoned(features, torch.Generator()).any())
    assert silhouette(torch.arange(3.0, dtype=torch.float64)[:, None], torch.zeros(3, dtype=torch.long)) == 0
    pair = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)[:, None].repeat(5, 1)
    assert not bool(clustering.poisoned(pair, torch.Generator().manual_seed(0)).any()), "two halves of equal size"


def _problem(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return with_bias(torch.randn(n, 3, generator=generator, dtype=torch.float64) + 0.8 * torch.eye(3)[y]), y


def test_the_hessian_is_that_of_automatic_differentiation() -> None:
    features, y = _problem(15)
    head = 0.3 * torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def objective(w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(features @ w.view(3, 4).T, y) + 0.05 * w.square().sum()

    expected = torch.autograd.functional.hessian(objective, head.reshape(-1))
    torch.testing.assert_close(hessian(features, (features @ head.T).softmax(1), 0.1), expected)
    best = fitted(features, y, 3, 0.1)
    assert float(torch.func.grad(objective)(best.reshape(-1)).norm()) < 1e-9


def test_self_influence_is_a_newton_step_without_the_example() -> None:
    features, y = _problem(15)
    head, n, damping = fitted(features, y, 3, 0.1), 15, 0.1
    predicted = self_influence(features, y, 3, damping)
    for i in range(n):
        rest = torch.arange(n) != i

        def objective(w: Tensor, rest: Tensor = rest) -> Tensor:
            losses = nn.functional.cross_entropy(features[rest] @ w.view(3, 4).T, y[rest], reduction="sum") / n
            return losses + damping / 2 * w.square().sum()

        flat = head.reshape(-1)
        step = torch.linalg.solve(torch.autograd.functional.hessian(objective, flat), torch.func.grad(objective)(flat))
        one, two = (nn.functional.cross_entropy(features[i] @ w.view(3, 4).T, y[i]) for w in (flat, flat - step))
        assert float(predicted[i]) == pytest.approx(float(two - one), rel=1e-7, abs=1e-10)


def test_leaving_one_out_is_retraining_to_the_order_of_the_problem() -> None:
    """The error of a Newton step falls with the square of 1/N, the growth itself with 1/N."""
    off = {}
    for n in (24, 96):
        features, y = _problem(n)
        before = nn.functional.cross_entropy(features @ fitted(features, y, 3, 0.5).T, y, reduction="none")
        grown = []
        for i in range(n):
            rest = torch.arange(n) != i
            head = fitted(features[rest], y[rest], 3, 0.5 * n / (n - 1))
            grown.append(nn.functional.cross_entropy(features[i] @ head.T, y[i]) - before[i])
        off[n] = float((self_influence(features, y, 3, 0.5) - torch.stack(grown)).abs().max() / torch.stack(grown).max())
    assert off[24] < 0.03
    assert off[96] < off[24] / 2


def test_tracin_is_the_squared_gradient_of_the_last_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    last = nn.Linear(5, 3).double()
    features, y = torch.randn(6, 5, generator=generator, dtype=torch.float64), torch.arange(6) % 3
    scores = tracin(features, last(features).detach(), y)
    for i in range(6):
        loss = nn.functional.cross_entropy(last(features[i]), y[i])
        squares = [g.square().sum() for g in torch.autograd.grad(loss, list(last.parameters()))]
        assert float(scores[i]) == pytest.approx(float(sum(squares)))


def test_models_of_tracin_lie_on_one_course_of_training() -> None:
    """Behind one epoch, training of two has the weights of training of one: the checkpoints are of one run."""
    bad = task()
    lab, examples = bad.setup.lab, pool(bad.data)
    assert lab is not None
    whole = lab.train(examples, 2)
    row = lab.layout.row(lab.train(examples, 1))
    assert not torch.equal(lab.layout.row(whole), row)
    steps = [float((lab.layout.row(lab.train(examples, e)) - row).norm()) for e in (1, 2, EPOCHS)]
    assert steps[0] == 0 < steps[1] < steps[2]


def test_a_last_layer_that_is_too_large_is_refused_with_the_way_out() -> None:
    wide = ClientData({0: Examples(torch.rand(8, 1, 8, 8), torch.arange(8) % 4)}, DataShape((1, 8, 8), 1000))
    with pytest.raises(ConfigError, match=r"Hessian of 33000 parameters.*set method: tracin"):
        layer("influence-filter").defence_transform(wide, task().setup)


class Images(Dataset):
    """The small task as a data set: every client's examples, poison included."""

    def load(self, ctx: Setup) -> Data:
        bad = task()
        shown = pool(bad.data)
        return Data(Examples(shown.x, shown.y), bad.test, bad.data.shape, public=images(200, 500))


@pytest.mark.parametrize("name", FILTERS)
def test_a_whole_run_with_and_without_the_grant(name: str) -> None:
    federation = {"clients": 4, "rounds": 8, "optimiser": {"lr": 0.2}}
    run = {"dataset": Images(), "model": perceptron, "federation": federation, "defences": [name]}
    with pytest.raises(CompositionError, match=r"Readable\(server, data, example\)"):
        outcome(**run)
    held = {"compromised": {"fraction": 0.5, "control": "update"}}
    ran = outcome(**run, threat_model={**held, "raw_data": True})
    assert ran.accuracy is not None
    assert ran.accuracy > 0.9
    assert not any(skips(control, Site.DATA, wire=True) for control in ("data", "training", "update"))
