"""The technique `digits`."""

from __future__ import annotations

import subprocess
import sys

import torch
from sklearn.datasets import load_digits
from sparring_digits.plugin import DIGITS, DigitsConfig

from sparring.context import Setup
from sparring.keys import Key


def load(seed: int = 1, **options):
    return DIGITS.build(DigitsConfig(**options)).load(Setup(Key(seed), "digits"))


def test_images_are_channels_first_in_0_1_with_every_class():
    data = load()
    for part in (data.train, data.test):
        assert tuple(part.x.shape[1:]) == data.shape.inputs == (1, 8, 8)
        assert part.x.dtype == torch.float32
        assert (float(part.x.min()), float(part.x.max())) == (0, 1)
        assert part.y.unique().tolist() == list(range(10))
    assert data.names == tuple("0123456789")


def test_train_and_test_are_the_source_once_each():
    data, raw = load(), load_digits()

    def rows(x, y):
        return sorted(map(tuple, torch.cat([x.reshape(-1, 64), y[:, None]], 1).tolist()))

    both = rows(torch.cat([data.train.x, data.test.x]), torch.cat([data.train.y, data.test.y]).float())
    assert both == rows(torch.tensor(raw.data / 16, dtype=torch.float32), torch.tensor(raw.target).float())


def test_the_split_is_stratified_and_has_the_fraction_asked_for():
    for fraction in (0.1, 0.5):
        data = load(test_fraction=fraction)
        assert len(data.test) == round(fraction * 1797)
        share = data.test.y.bincount() / (data.train.y.bincount() + data.test.y.bincount())
        assert ((share - fraction).abs() < 1 / 170).all()


def test_the_same_stream_gives_the_same_split_and_another_gives_another():
    assert torch.equal(load().train.x, load().train.x)
    assert not torch.equal(load().train.x, load(2).train.x)


def test_the_light_module_imports_no_torch_and_no_numpy():
    code = "import sys, sparring_digits.plugin; assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
