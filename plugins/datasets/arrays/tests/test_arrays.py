"""The technique `arrays` and the class `Arrays`: what is read, what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from sparring_arrays import Arrays, checks, files
from sparring_arrays.plugin import ARRAYS, ArraysConfig

from sparring.context import Setup
from sparring.errors import DataError
from sparring.keys import Key

N = 40


def ctx(seed: int = 1) -> Setup:
    return Setup(Key(seed), "arrays")


def load(path, seed: int = 1, **options):
    return ARRAYS.build(ArraysConfig(path=str(path), **options)).load(ctx(seed))


def table(n: int = N) -> dict[str, np.ndarray]:
    """Row k is [k, k, k], its label k mod 4 and its group k mod 2: so what belongs together can be seen."""
    k = np.arange(n)
    return {"x": np.repeat(k[:, None], 3, 1).astype(np.float32), "y": k % 4, "group_site": k % 2}


def aligned(part) -> bool:
    k = part.x[:, 0].long()
    return torch.equal(part.y, k % 4) and torch.equal(part.groups["site"], k % 2)


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "a.npz", **table())
    return tmp_path / "a.npz"


def test_inputs_labels_and_groups_stay_aligned_through_the_split(npz):
    data = load(npz)
    assert aligned(data.train)
    assert aligned(data.test)
    assert (len(data.train), len(data.test), data.shape.inputs, data.shape.classes) == (32, 8, (3,), 4)


def test_train_and_test_are_disjoint_and_cover_the_file(npz):
    data = load(npz, test_fraction=0.3)
    both = torch.cat([data.train.x[:, 0], data.test.x[:, 0]]).sort().values
    assert torch.equal(both, torch.arange(float(N)))
    assert data.test.y.bincount().tolist() == [3, 3, 3, 3]


def test_the_same_stream_gives_the_same_split_and_another_gives_another(npz):
    assert torch.equal(load(npz).test.x, load(npz).test.x)
    assert not torch.equal(load(npz).test.x, load(npz, seed=2).test.x)


def test_safetensors_and_npz_of_the_same_arrays_are_the_same_data(npz, tmp_path):
    save_file({name: torch.from_numpy(values) for name, values in table().items()}, tmp_path / "a.safetensors")
    one, other = load(npz), load(tmp_path / "a.safetensors")
    assert torch.equal(one.train.x, other.train.x)
    assert torch.equal(one.test.groups["site"], other.test.groups["site"])


def test_memory_and_file_are_the_same_data(npz):
    held = table()
    one = Arrays(held["x"], torch.from_numpy(held["y"]), groups={"site": held["group_site"]}).load(ctx())
    assert torch.equal(one.train.x, load(npz).train.x)
    assert torch.equal(one.test.y, load(npz).test.y)


def test_a_given_split_is_used_as_it_is(tmp_path):
    train, test = table(8), table(4)
    np.savez(
        tmp_path / "b.npz",
        x_train=train["x"],
        y_train=train["y"],
        x_test=test["x"],
        y_test=test["y"],
        group_site_train=train["group_site"],
        group_site_test=test["group_site"],
    )
    data = load(tmp_path / "b.npz", names=["a", "b", "c", "d"])
    assert (len(data.train), len(data.test), data.names) == (8, 4, ("a", "b", "c", "d"))
    assert aligned(data.train)
    assert aligned(data.test)
    with pytest.raises(DataError, match="test_fraction would do nothing"):
        load(tmp_path / "b.npz", test_fraction=0.5)


@pytest.mark.parametrize("shape", [(N, 6, 5), (N, 1, 6, 5), (N, 6, 5, 1)])
def test_uint8_images_become_channels_first_in_0_1(shape):
    pixels = np.arange(N * 30).reshape(N, 6, 5).astype(np.uint8)
    data = Arrays(pixels.reshape(shape), np.arange(N) % 2).load(ctx())
    assert data.shape.inputs == (1, 6, 5)
    first = torch.cat([data.train.x, data.test.x])
    assert first.dtype == torch.float32
    assert {float(v) for v in first.flatten()} == {float(np.float32(v) / np.float32(255)) for v in range(256)}


def test_colour_images_are_permuted_not_reshaped():
    pixels = np.zeros((N, 5, 6, 3), np.uint8)
    pixels[..., 1] = 255
    data = Arrays(pixels, np.arange(N) % 2).load(ctx())
    assert data.shape.inputs == (3, 5, 6)
    assert data.train.x.mean(dim=(0, 2, 3)).tolist() == [0, 1, 0]


def test_ambiguous_channels_are_asked_for():
    pixels = np.zeros((N, 5, 6, 2), np.uint8)
    with pytest.raises(DataError, match="channels: first or channels: last"):
        Arrays(pixels, np.arange(N) % 2)
    assert Arrays(pixels, np.arange(N) % 2, channels="last").shape.inputs == (2, 5, 6)


def test_dense_targets_make_a_segmentation_task():
    y = np.arange(N * 25).reshape(N, 5, 5) % 3
    data = Arrays(np.zeros((N, 5, 5), np.uint8), y).load(ctx())
    assert (data.shape.task, data.shape.classes, tuple(data.test.y.shape)) == ("segmentation", 3, (8, 5, 5))


def test_arrays_are_copied():
    x, y = torch.rand(N, 3), torch.arange(N) % 2
    data = Arrays(x, y).load(ctx())
    x.fill_(-1)
    assert float(data.train.x.min()) >= 0


def nan_at(x: np.ndarray, row: int) -> np.ndarray:
    x = x.copy()
    x[row, 0] = np.nan
    return x


REFUSED = {
    "NaN": (lambda t: t | {"x": nan_at(t["x"], 7)}, r"1 of 40 .*the first: 7"),
    "Inf as float32": (lambda t: t | {"x": t["x"].astype(np.float64) * 1e300}, "Inf"),
    "negative label": (lambda t: t | {"y": t["y"] - 1}, "label -1 occurs"),
    "float labels": (lambda t: t | {"y": t["y"].astype(float)}, "must be integers"),
    "one class": (lambda t: t | {"y": t["y"] * 0}, "at least 2"),
    "lengths": (lambda t: t | {"y": t["y"][:-1]}, "x 40, y 39"),
    "group length": (lambda t: t | {"group_site": t["group_site"][:5]}, "group 'site' 5"),
    "float group": (lambda t: t | {"group_site": t["group_site"] / 2}, "group column 'site'"),
    "bright pixels": (lambda t: t | {"x": np.full((N, 4, 4), 1.5)}, r"1.5 to 1.5; they must lie in \[0, 1\]"),
    "one axis": (lambda t: t | {"x": t["y"]}, r"shape \[40\]"),
    "no rows": (lambda t: {"x": t["x"][:0], "y": t["y"][:0]}, "at least one row"),
    "text": (lambda t: t | {"x": np.array(["a"] * N)}, "booleans, integers or floats"),
    "missing": (lambda t: {"x": t["x"]}, "it must have x, y, or x_train"),
    "both": (lambda t: t | {"x_train": t["x"]}, "not both"),
    "mismatched targets": (
        lambda t: {"x": np.zeros((N, 4, 4)), "y": np.arange(N * 9).reshape(N, 3, 3) % 2},
        "target has shape",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_values_are_refused_with_the_rule(case, tmp_path):
    change, rule = REFUSED[case]
    np.savez(tmp_path / "bad.npz", **change(table()))
    with pytest.raises(DataError, match=rule):
        load(tmp_path / "bad.npz")


def test_labels_beyond_the_stated_classes_are_refused(npz):
    with pytest.raises(DataError, match=r"label 3 occurs; with 3 classes they are 0 .. 2"):
        load(npz, classes=3)
    assert load(npz, classes=7).shape.classes == 7
    with pytest.raises(DataError, match="7 classes, but 1 names"):
        load(npz, classes=7, names=["a"])


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_object_arrays_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.array([Boom()] * 4, dtype=object), y=np.arange(4))
    with pytest.raises(DataError, match="pickles are never read"):
        load(tmp_path / "p.npz")


@pytest.mark.parametrize("name", ["bad.npz", "bad.safetensors"])
@pytest.mark.parametrize("raw", [b"", b"nonsense" * 9, b"PK\x03\x04" + b"\0" * 60], ids=["empty", "nonsense", "zip-like"])
def test_malformed_files_are_refused(name, raw, tmp_path):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=name):
        load(tmp_path / name)


def test_a_truncated_archive_is_refused(npz):
    raw = bytearray(npz.read_bytes())
    raw[200:260] = b"\xff" * 60
    npz.write_bytes(bytes(raw))
    with pytest.raises(DataError, match="no readable"):
        load(npz)


def test_absent_files_and_other_formats_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no file '.*none.npz'; correct `path:`"):
        load(tmp_path / "none.npz")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"must be an \.npz or a \.safetensors"):
        load(tmp_path / "a.csv")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    with pytest.raises(DataError, match="one bare array"):
        load(tmp_path / "bare.npz")


def test_group_columns_of_a_given_split_name_their_part(tmp_path):
    t = table(8)
    given = {"x_train": t["x"], "y_train": t["y"], "x_test": t["x"], "y_test": t["y"]}
    np.savez(tmp_path / "g.npz", **given, group_site=t["group_site"])
    with pytest.raises(DataError, match="group_site_train and group_site_test"):
        load(tmp_path / "g.npz")
    np.savez(tmp_path / "g.npz", **given, group_site_train=t["group_site"])
    with pytest.raises(DataError, match="must be the same"):
        load(tmp_path / "g.npz")


def test_big_endian_and_wide_integers_are_read():
    assert checks.tensor(np.array([1, 2], ">i4"), "t").tolist() == [1, 2]
    assert checks.tensor(np.array([1, 60000], "u2"), "t").tolist() == [1, 60000]


def test_misuse_of_the_class_is_refused():
    x, y = torch.rand(N, 3), torch.arange(N) % 2
    with pytest.raises(DataError, match="go together"):
        Arrays(x, y, x_test=x)
    with pytest.raises(DataError, match="test_groups belong"):
        Arrays(x, y, test_groups={"a": y})
    with pytest.raises(DataError, match="between 0 and 1"):
        Arrays(x, y, test_fraction=1.0)


def test_folders_come_from_the_option_then_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(files.VARIABLE, raising=False)
    with pytest.raises(DataError, match="SPARRING_DATA"):
        files.folder("d", None)
    monkeypatch.setenv(files.VARIABLE, str(tmp_path))
    assert files.folder("d", None) == tmp_path
    assert str(files.folder("d", "elsewhere")) == "elsewhere"


def test_options_have_bounds():
    for wrong in ({"test_fraction": 0}, {"test_fraction": 1}, {"classes": 1}, {"channels": "middle"}, {"fraction": 0.1}):
        with pytest.raises(ValidationError):
            ArraysConfig(path="a.npz", **wrong)


def test_the_light_module_imports_no_torch_and_no_numpy():
    code = "import sys, sparring_arrays.plugin; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
