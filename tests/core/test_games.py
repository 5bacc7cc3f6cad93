"""Games score against the truth: closed forms of each measure, and its null baseline."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparring.errors import NumericalError
from sparring.games import MembershipGame, ModelInversionGame, PoisoningGame, ReconstructionGame
from sparring.likeness import agreement, psnr, voted
from sparring.scoring import Truth, interval
from sparring.signals import Column, Examples
from sparring.views import Finding, Reconstruction, Representatives, Scores

KEY = (0, 3)


def finding(x: Tensor, y: Tensor) -> Reconstruction:
    return Reconstruction(1.0, {KEY: x}, {KEY: y}, {KEY: 0.0}, {})


def truth(x: Tensor, y: Tensor, mean: Tensor | None = None) -> Truth:
    return Truth({KEY: Examples(x, y)}, mean)


@given(st.floats(1e-4, 1.0))
def test_psnr_of_a_constant_error(error: float) -> None:
    assert psnr(torch.full((1, 4, 4), error), torch.zeros(1, 4, 4)) == pytest.approx(-20 * math.log10(error), abs=1e-3)


def test_psnr_is_capped_where_images_are_equal() -> None:
    assert psnr(torch.ones(3, 2, 2), torch.ones(3, 2, 2)) == 100


def test_psnr_of_no_image_is_no_number() -> None:
    assert math.isnan(psnr(torch.full((2, 2), torch.nan), torch.ones(2, 2)))


def test_a_reconstruction_that_is_no_number_is_refused_and_named() -> None:
    x = torch.rand(2, 1, 4, 4)
    y = torch.tensor([0, 1])
    with pytest.raises(NumericalError, match="client 3 in round 0"):
        ReconstructionGame().score(finding(x.clone().index_fill_(0, torch.tensor([1]), torch.nan), y), truth(x, y))


def test_reconstructions_are_scored_in_the_best_order() -> None:
    x, y = torch.rand(5, 1, 12, 12), torch.arange(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    score = ReconstructionGame().score(finding(x[order], y[order]), truth(x, y))
    assert score.measures["psnr"].value == 100
    assert score.measures["mse"].value == 0
    assert score.measures["ssim"].value == pytest.approx(1, abs=1e-5)
    assert score.measures["label"].value == 1
    assert all(torch.equal(a, b) for a, b in score.pairs)


def test_label_accuracy_counts_labels_of_matched_inputs() -> None:
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    score = ReconstructionGame().score(finding(x, torch.tensor([0, 1, 3, 2])), truth(x, y))
    assert score.measures["label"].value == 0.5
    assert score.measures["labels"].value == 1
    repeated = ReconstructionGame().score(finding(x, torch.tensor([0, 1, 1, 1])), truth(x, y))
    assert repeated.measures["labels"].value == 0.5


def test_what_an_attack_finds_without_the_capture_is_a_baseline() -> None:
    x, y = torch.full((2, 1, 4, 4), 0.7), torch.zeros(2, dtype=torch.long)
    known = replace(finding(x, y), prior={(0, 3): torch.full_like(x, 0.69)})
    score = ReconstructionGame().score(known, truth(x, y, torch.full((1, 4, 4), 0.6)))
    assert score.measures["psnr_prior_only"].value == pytest.approx(40, abs=1e-3)
    assert score.measures["psnr"].baseline == pytest.approx(40, abs=1e-3)


def test_retrieval_counts_victims_that_lie_nearest() -> None:
    x, y = torch.rand(4, 1, 4, 4), torch.arange(4)
    decoys = torch.cat([x[:1] + 0.01, torch.rand(18, 1, 4, 4) + 2])
    found = torch.cat([x[:1] + 0.009, x[1:]])
    score = ReconstructionGame().score(finding(found, y), replace(truth(x, y), decoys=decoys))
    assert score.measures["retrieval"].value == 0.75
    assert score.measures["retrieval"].baseline == 0.05


def test_the_baselines_are_the_grey_and_the_mean_image() -> None:
    x, y = torch.full((2, 1, 4, 4), 0.7), torch.zeros(2, dtype=torch.long)
    score = ReconstructionGame().score(finding(x, y), truth(x, y, torch.full((1, 4, 4), 0.6)))
    assert score.measures["psnr_grey_image"].value == pytest.approx(-20 * math.log10(0.2), abs=1e-3)
    assert score.measures["psnr_mean_image"].value == pytest.approx(20, abs=1e-3)
    assert score.measures["psnr"].baseline == pytest.approx(20, abs=1e-3)
    without = ReconstructionGame().score(finding(x, y), truth(x, y))
    assert without.measures["psnr"].baseline == pytest.approx(-20 * math.log10(0.2), abs=1e-3)


def test_a_reconstruction_game_scores_reconstructions_only() -> None:
    with pytest.raises(TypeError, match="scores a Reconstruction, got Scores"):
        ReconstructionGame().score(Scores(0.0, torch.zeros(2)), Truth())


def brute_auc(inside: list[float], outside: list[float]) -> float:
    wins = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    return sum(wins) / len(wins)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_auc_is_the_share_of_ordered_pairs(inside: list[int], outside: list[int]) -> None:
    scores = torch.tensor([*inside, *outside]).float()
    member = torch.arange(len(scores)) < len(inside)
    score = MembershipGame().score(Scores(0.0, scores), Truth(member=member))
    measure = score.measures["auc"]
    assert measure.value == pytest.approx(brute_auc([float(a) for a in inside], [float(b) for b in outside]))
    assert measure.baseline == 0.5
    assert measure.interval is not None
    assert 0 <= measure.interval[0] <= measure.value <= measure.interval[1] <= 1


def test_true_positives_at_a_rate_of_false_ones() -> None:
    """2,000 non-members score 0 to 1999; members score 1985 or more, half of them above the 20 highest non-members."""
    outside = torch.arange(2000).float()
    inside = torch.cat([torch.full((50,), 1970.0), torch.full((50,), 2500.0)])
    member = torch.arange(2100) >= 2000
    score = MembershipGame().score(Scores(0.0, torch.cat([outside, inside])), Truth(member=member))
    assert score.measures["tpr_at_0.01_fpr"].value == 0.5
    assert score.measures["tpr_at_0.01_fpr"].baseline == 0.01
    assert "tpr_at_0.001_fpr" not in score.measures


def test_a_membership_game_needs_scores() -> None:
    with pytest.raises(TypeError, match="scores Scores over candidates"):
        MembershipGame().score(Finding(0.0), Truth(member=torch.ones(2)))


def test_poisoning_reports_the_final_and_the_best_accuracy() -> None:
    score = PoisoningGame().score(None, Truth(accuracy=[0.2, 0.9, 0.4], majority=0.3))
    assert {name: m.value for name, m in score.measures.items()} == {"accuracy_under_attack": 0.4, "best_accuracy": 0.9}
    assert score.measures["accuracy_under_attack"].baseline == 0.3


def test_an_interval_is_normal_and_needs_two_values() -> None:
    assert interval([3.0]) is None
    assert interval([1.0, 3.0]) == pytest.approx((2 - 1.96, 2 + 1.96))


def classes_of(n: int = 4, each: int = 6) -> Examples:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n).repeat(each)
    return Examples((torch.rand(n, 1, 6, 6, generator=generator)[y] + 0.02 * torch.randn(n * each, 1, 6, 6)).clamp(0, 1), y)


def inverted(found: dict[int, Tensor]) -> dict[str, float]:
    private = classes_of()
    truth = Truth(mean=private.x.mean(0), majority=0.25, private=private, tests=private)
    return {name: m.value for name, m in ModelInversionGame().score(Representatives(1.0, found), truth).measures.items()}


def test_the_means_of_the_classes_are_recognised_and_their_neighbours_are_not() -> None:
    private = classes_of()
    means = [private.x[private.y == label].mean(0, keepdim=True) for label in range(4)]
    own, shifted = (inverted({label: means[(label + by) % 4] for label in range(4)}) for by in (0, 1))
    assert (own["recognised"], own["retrieval"], own["evaluator_accuracy"]) == (1, 1, 1)
    assert own["psnr"] > own["psnr_mean_image"] + 20
    assert (shifted["recognised"], shifted["retrieval"]) == (0, 0)


@given(st.integers(0, 3))
def test_one_picture_for_all_classes_is_recognised_once_in_as_many(label: int) -> None:
    private = classes_of()
    picture = private.x[private.y == label][:1]
    assert inverted(dict.fromkeys(range(4), picture))["recognised"] == 0.25


def test_what_is_no_number_is_refused_and_its_class_named() -> None:
    with pytest.raises(NumericalError, match="class 2"):
        inverted({2: torch.full((1, 1, 6, 6), torch.nan)})


def test_a_vote_that_is_tied_goes_to_the_nearest() -> None:
    known = torch.tensor([[0.0], [0.3], [0.4], [0.9]])
    labels = torch.tensor([1, 0, 0, 1])
    assert voted(torch.tensor([[0.1]]), known, labels, k=4).tolist() == [1]
    assert voted(torch.tensor([[0.1]]), known, labels, k=3).tolist() == [0]


COLUMNS = (Column("age", 0, low=-2, high=2, close=0.3), Column("arm", 1, 3, codes=((1, 0, 0), (0, 1, 0), (0, 0, 1))))


@given(st.floats(-1, 1), st.integers(0, 2), st.lists(st.floats(-0.4, 0.4), min_size=3, max_size=3))
def test_a_category_is_told_by_its_nearest_code_and_a_number_by_what_is_close(age: float, arm: int, blur: list[float]) -> None:
    reference = torch.tensor([age, 0, 0, 0])
    reference[1 + arm] = 1
    blurred = reference + torch.tensor([0.2, *blur])
    assert agreement(blurred, reference, COLUMNS) == {"categories": 1, "numbers": 1, "columns": 1}
    far = reference + torch.tensor([0.4, *blur])
    assert agreement(far, reference, COLUMNS) == {"categories": 1, "numbers": 0, "columns": 0.5}
    other = reference.clone()
    other[1:] = other[1:].roll(1)
    assert agreement(other, reference, COLUMNS)["categories"] == 0


def test_records_are_scored_by_columns_beside_the_mean_record() -> None:
    x = torch.tensor([[0.0, 1, 0, 0], [1.0, 0, 1, 0]])
    y = torch.tensor([0, 1])
    score = ReconstructionGame().score(finding(x, y), replace(truth(x, y, x.mean(0)), columns=COLUMNS))
    assert score.headline == "columns"
    # The mean record is .5 from both ages, and as near to one arm as to the other: it has one arm right.
    assert (score.measures["columns"].value, score.measures["columns"].baseline) == (1, 0.25)
    assert (score.measures["numbers"].baseline, score.measures["categories"].baseline) == (0, 0.5)


def test_measures_of_each_victim_stand_in_the_order_of_the_victims() -> None:
    x, y = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    off = torch.tensor([0.0, 0.01, 0.02, 0.04])[:, None, None, None]
    for order in (torch.arange(4), torch.tensor([2, 0, 3, 1])):
        each = ReconstructionGame().score(finding((x + off)[order], y[order]), truth(x, y)).each
        assert each["mse"] == pytest.approx(off.flatten().square().tolist(), abs=1e-7)
        assert each["label"] == [1, 1, 1, 1]


def test_progress_of_what_was_found_of_a_class_is_that_of_each_input() -> None:
    private = classes_of()
    truth = Truth(mean=private.x.mean(0), private=private, tests=private)
    two = private.x[private.y == 1][:2]
    finding = Representatives(1.0, {1: two}, {1: [(5, two * 0.5)]})
    frames = ModelInversionGame().score(finding, truth).frames
    assert [[done for done, _ in kept] for kept in frames] == [[5], [5]]
    assert all(torch.equal(kept[0][1], x * 0.5) for kept, x in zip(frames, two, strict=True))


def test_what_is_found_without_the_capture_is_judged_alike() -> None:
    x, y = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(2)
    found = replace(finding(x, y), prior={KEY: x.flip(0)})
    measures = ReconstructionGame().score(found, replace(truth(x, y), decoys=torch.rand(5, 1, 12, 12))).measures
    # The prior is the same two images, in another order.
    assert [measures[f"{name}_prior_only"].value for name in ("psnr", "ssim", "retrieval")] == [
        100,
        pytest.approx(1, abs=1e-5),
        1,
    ]
