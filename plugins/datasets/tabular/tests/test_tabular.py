"""The techniques `actg175` and `breast-cancer`."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from sparring_tabular import actg175
from sparring_tabular.plugin import ACTG175, BREAST_CANCER, Actg175Config, BreastCancerConfig
from sparring_tabular.standard import standardised

from sparring.context import Setup
from sparring.errors import DataError
from sparring.keys import Key
from sparring.signals import Examples


def load(spec, seed: int = 1, **options):
    return spec.build(spec.config(**options)).load(Setup(Key(seed), spec.name))


@pytest.mark.parametrize(("spec", "n", "f"), [(ACTG175, 2139, 21), (BREAST_CANCER, 569, 30)])
def test_features_are_standardised_on_the_training_part_alone(spec, n, f):
    data = load(spec)
    assert (len(data.train) + len(data.test), data.shape.inputs, data.shape.classes) == (n, (f,), 2)
    assert torch.allclose(data.train.x.mean(0), torch.zeros(f), atol=1e-5)
    assert torch.allclose(data.train.x.std(0, correction=0), torch.ones(f), atol=1e-5)
    assert not torch.allclose(data.test.x.mean(0), torch.zeros(f), atol=1e-3)
    assert torch.isfinite(data.test.x).all()


@pytest.mark.parametrize("spec", [ACTG175, BREAST_CANCER])
def test_the_split_is_stratified_and_follows_the_stream(spec):
    data, again, other = load(spec), load(spec), load(spec, seed=2)
    assert torch.equal(data.test.x, again.test.x)
    assert not torch.equal(data.test.x, other.test.x)
    train, test = (part.y.double().mean() for part in (data.train, data.test))
    assert abs(train - test) < 1 / len(data.test)
    rows = torch.cat([data.train.x, data.test.x])
    assert len(rows.unique(dim=0)) == len(rows)


def test_group_columns_stay_aligned_with_the_features():
    """`race` is feature 9: it takes two values, and its sign tells them apart."""
    at = actg175.BASELINE.index("race")
    for part in (load(ACTG175).train, load(ACTG175).test):
        assert torch.equal(part.x[:, at] > 0, part.groups["race"] == 1)
        assert set(part.groups) == {"race", "gender", "homo", "hemo", "drugs", "symptom", "arms", "age"}
        assert all(len(column) == len(part) for column in part.groups.values())
    both = torch.cat([part.groups["arms"] for part in (load(ACTG175).train, load(ACTG175).test)])
    assert both.bincount().tolist() == [532, 522, 524, 561]


def test_an_excluded_attribute_leaves_the_features_and_stays_a_group():
    whole, without = load(ACTG175), load(ACTG175, exclude=["race", "age"])
    kept = [k for k in range(21) if k not in (actg175.BASELINE.index("race"), actg175.BASELINE.index("age"))]
    assert torch.equal(without.train.x, whole.train.x[:, kept])
    assert torch.equal(without.train.groups["race"], whole.train.groups["race"])


def test_follow_up_adds_three_features_and_the_time_to_the_outcome_is_never_one():
    assert load(ACTG175, follow_up=True).shape.inputs == (24,)
    assert "days" not in actg175.BASELINE + actg175.FOLLOW_UP + tuple(actg175.LEVELS)


def test_age_bands_are_below_30_40_50_and_above(tmp_path):
    data = load(ACTG175)
    at = actg175.BASELINE.index("age")
    x, band = data.train.x[:, at], data.train.groups["age"]
    assert all(x[band == k].max() < x[band == k + 1].min() for k in range(3))


def test_a_constant_feature_becomes_zero():
    part = Examples(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([0, 1]))
    train, test = standardised(part, Examples(torch.tensor([[5.0, 6.0]]), torch.tensor([0])))
    assert train.x.tolist() == [[-1, 0], [1, 0]]
    assert test.x.tolist() == [[3, 0]]


def write(path, change=lambda row: row, rows: int = 3, drop: str = ""):
    used = [n for n in (*actg175.BASELINE, *actg175.FOLLOW_UP, *actg175.LEVELS, actg175.TARGET, "days") if n != drop]
    with path.open("w", newline="") as lines:
        out = csv.DictWriter(lines, used)
        out.writeheader()
        for k in range(rows):
            out.writerow(change({name: k for name in used}))
    return path


def test_a_small_file_of_the_same_format_is_read(tmp_path):
    held = actg175.read(write(tmp_path / "a.csv"))
    assert held["race"].tolist() == [0, 1, 2]
    assert "days" not in held


def test_malformed_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no column race"):
        actg175.read(write(tmp_path / "a.csv", drop="race"))
    with pytest.raises(DataError, match="line 2"):
        actg175.read(write(tmp_path / "b.csv", lambda row: row | {"age": "NA"}))
    with pytest.raises(DataError, match="no rows"):
        actg175.read(write(tmp_path / "c.csv", rows=0))


def test_options_have_bounds():
    for wrong in ({"exclude": ["cd40"]}, {"test_fraction": 0}, {"test_fraction": 1}, {"sensitive": "race"}):
        with pytest.raises(ValidationError):
            Actg175Config(**wrong)
    with pytest.raises(ValidationError):
        BreastCancerConfig(test_fraction=1)


def test_the_light_module_imports_no_torch_and_no_numpy():
    code = "import sys, sparring_tabular.plugin; assert not {'torch', 'numpy', 'sklearn', 'lifelines'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
