"""Laws of FLDetector and DeepSight: predictions, products, energies, answers to random inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_update_analysis.cards_models import cohort_of, quadratic, trained
from sparring_update_analysis.configs_models import DeepSightConfig, FLDetectorConfig
from sparring_update_analysis.deepsight import DeepSight, few_labels, neups, output_layer
from sparring_update_analysis.fldetector import FLDetector, hessian_product
from torch import Tensor, nn

from sparring.cohort import Cohort
from sparring.errors import CompositionError
from sparring.layout import Layout
from sparring.testing.fixtures import Tiny, make_round

MANY = settings(max_examples=60, deadline=None)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bfgs(S: Tensor, Y: Tensor) -> Tensor:
    """The BFGS matrix by its recursion, from the scaled identity."""
    B = torch.eye(S.shape[1], dtype=S.dtype) * (S[-1] @ Y[-1]) / (S[-1] @ S[-1])
    for s, y in zip(S, Y, strict=True):
        B = B - torch.outer(B @ s, B @ s) / (s @ B @ s) + torch.outer(y, y) / (y @ s)
    return B


@MANY
@given(m=st.integers(1, 5), p=st.integers(5, 9), seed=st.integers(0, 10_000))
def test_the_compact_product_is_that_of_the_recursion(m: int, p: int, seed: int) -> None:
    root = draw(seed, p, p)
    S, V = draw(seed + 1, m, p), draw(seed + 2, 3, p)
    Y = S @ (root @ root.T + torch.eye(p))
    expected = V @ bfgs(S, Y)
    torch.testing.assert_close(hessian_product(S, Y, V), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(hessian_product(S, -Y, V), -hessian_product(S, Y, V))


def test_steps_of_zero_say_nothing() -> None:
    S, Y, V = draw(0, 2, 4), draw(1, 2, 4), draw(2, 1, 4)
    with_zero = hessian_product(torch.cat([S, 0 * S[:1]]), torch.cat([Y, Y[:1]]), V)
    torch.testing.assert_close(with_zero, hessian_product(S, Y, V))
    assert not hessian_product(0 * S, Y, V).any()


def fed(layer: FLDetector, t: int, w: Tensor, centres: Tensor, ids: tuple[int, ...]) -> Cohort:
    updates = -(w - centres[list(ids)])
    cohort = replace(cohort_of(updates), ids=ids)
    return layer.defence_transform(cohort, replace(make_round("fldetector", index=t), parameters=w))


def test_clients_of_one_curvature_are_predicted_exactly_and_one_that_was_absent_from_when_it_was_here() -> None:
    """With one parameter the secant is the whole Hessian: only who departs from it has a share of the distances.

    The absent client's optimum is the mean one, so that the mean update does not change by its absence.
    """
    layer, w = FLDetector(FLDetectorConfig(window=4)), torch.zeros(1, dtype=torch.float64)
    centres = torch.tensor([[1.0], [2.0], [7 / 3], [4.0]], dtype=torch.float64)
    for t in range(4):
        ids = (0, 1, 3) if t == 2 else (0, 1, 2, 3)
        drifted = centres.clone()
        drifted[3] += 5 * (t == 3)
        fed(layer, t, w, drifted, ids)
        w = w + 0.5 * (2.0 - w)
    assert layer.distances[3][-1] == pytest.approx(1.0)
    for honest in (0, 1, 2):
        assert layer.distances[honest][-1] == pytest.approx(0.0, abs=1e-9)
    assert len(layer.distances[2]) == 2


def test_a_client_that_was_absent_for_longer_than_the_window_is_not_predicted() -> None:
    layer, w = FLDetector(FLDetectorConfig(window=1)), torch.zeros(1, dtype=torch.float64)
    centres = torch.ones(3, 1, dtype=torch.float64)
    for t, ids in enumerate(((0, 1, 2), (0, 1), (0, 1), (0, 1), (0, 1, 2))):
        fed(layer, t, w + t, centres, ids)
    assert 2 not in layer.distances
    assert set(layer.last) == {0, 1, 2}
    assert len(layer.models) == len(layer.means) == 2


def test_an_update_that_overflows_is_suspect_and_breaks_nothing() -> None:
    layer, huge = FLDetector(FLDetectorConfig(start=2)), torch.tensor([3e38, -3e38])
    for t in range(4):
        updates = torch.cat([torch.ones(5, 2), huge[None] * (-1) ** t])
        ctx = replace(make_round("fldetector", index=t), parameters=torch.full((2,), float(t)))
        out = layer.defence_transform(cohort_of(updates), ctx)
    assert out.verdicts[-1].flagged == {5}
    assert out.verdicts[-1].suspicion[5] == pytest.approx(1.0)


def test_nobody_is_left_out_before_the_start_and_attackers_are_behind_it() -> None:
    assert quadratic(FLDetector(FLDetectorConfig(start=14)), 4)[1:] == (0.0, 0.0)
    assert quadratic(FLDetector(FLDetectorConfig(start=13)), 4)[1:] == (1.0, 0.0)


def test_fldetector_refuses_mixed_rows() -> None:
    mixed = replace(cohort_of(torch.eye(3)), ids=None)
    with pytest.raises(CompositionError, match="mixed"):
        FLDetector(FLDetectorConfig()).defence_transform(mixed, replace(make_round("fldetector"), parameters=torch.zeros(3)))


@MANY
@given(n=st.integers(1, 6), k=st.integers(2, 5), h=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_energies_and_exceedings_are_those_of_the_definition(n: int, k: int, h: int, seed: int) -> None:
    weights, bias = draw(seed, n, k, h), draw(seed + 1, n, k)
    c, counts = neups(weights, bias), []
    for client in range(n):
        energies = [abs(float(bias[client, i])) + sum(abs(float(w)) for w in weights[client, i]) for i in range(k)]
        normed = [e**2 / sum(other**2 for other in energies) for e in energies]
        torch.testing.assert_close(c[client].tolist(), normed)
        counts.append(sum(e > max(0.01, 1 / k) * max(normed) for e in normed))
    median = float(torch.tensor(counts, dtype=torch.float64).quantile(0.5))
    assert few_labels(c).tolist() == [count <= median / 2 for count in counts]


def test_zero_and_tiny_updates_have_energies() -> None:
    c = neups(torch.zeros(2, 3, 2), torch.tensor([[0.0, 0, 0], [1e-40, 0, 0]], dtype=torch.float64))
    assert c.tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


def test_the_output_layer_is_the_last_of_the_right_size_with_the_bias_beside_it() -> None:
    for module, classes, name in (
        (Tiny(), 4, "3"),
        (nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7, bias=False)), 7, "1"),
        (nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)), 4, "2"),
    ):
        layout = Layout.of(module)
        row = layout.row(module)
        weights, bias = output_layer(cohort_of(row[None], layout), classes)
        parts = layout.split(row)
        expected = parts[f"{name}.weight"].flatten(1).double()
        assert torch.equal(weights[0], expected)
        own = parts.get(f"{name}.bias")
        assert torch.equal(bias[0], expected.sum(1) if own is None else own.double())


def test_deepsight_finds_clients_that_know_one_label_and_their_verdict_follows_them() -> None:
    cohort, ctx = trained(7, 4)
    out = DeepSight(DeepSightConfig()).defence_transform(cohort, ctx)
    assert out.verdicts[-1].flagged == {10, 11, 12, 13}
    back = DeepSight(DeepSightConfig()).defence_transform(cohort.select(torch.arange(13, -1, -1)), ctx)
    assert back.verdicts[-1].suspicion == out.verdicts[-1].suspicion


def test_who_changes_nothing_answers_as_the_global_model_does() -> None:
    cohort, ctx = trained(0, 0)
    still = replace(cohort, base=torch.cat([torch.zeros_like(cohort.base[:1]), cohort.base[1:]]))
    answers = DeepSight(DeepSightConfig(samples=50))._ddifs(still, ctx)
    assert answers is not None
    assert answers.shape == (14, 3, 4)
    torch.testing.assert_close(answers[0], torch.ones(3, 4, dtype=torch.float64))
    assert float((answers[1] - 1).abs().max()) > 0.05


@pytest.mark.parametrize("n", [1, 2, 4])
def test_fewer_clients_than_make_a_cluster_are_judged_each_by_itself(n: int) -> None:
    cohort, ctx = trained(0, 4)
    out = DeepSight(DeepSightConfig()).defence_transform(cohort.select(torch.arange(10 - n + 1, 11)), ctx)
    flagged = out.verdicts[-1].flagged
    assert flagged == ({10} if n > 1 else set())
