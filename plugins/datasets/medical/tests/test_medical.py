"""The techniques `medmnist` and `brain-tissue`."""

from __future__ import annotations

import functools
import hashlib
import socket
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sparring_medical.brain_tissue import GAP, by_position
from sparring_medical.plugin import BRAIN_TISSUE, MEDMNIST, BrainTissueConfig, MedMnistConfig, Subset

from sparring.context import Setup
from sparring.errors import DataError
from sparring.facts import PublicData
from sparring.keys import Key

RNG = np.random.default_rng(0)
SIZES = {"train": 12, "val": 4, "test": 6}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    connect = socket.socket.connect

    def local(self, address):
        assert address[0] == "127.0.0.1", f"a data set opened a connection to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.delenv("SPARRING_DATA", raising=False)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder, served at a local address."""
    (tmp_path / "mirror").mkdir()
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "mirror"))
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path / "mirror", f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def load(spec, seed: int = 1, **options):
    options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return spec.build(spec.config(**options)).load(Setup(Key(seed), spec.name))


def medmnist_arrays(shape=(28, 28), classes: int = 2) -> dict[str, np.ndarray]:
    held = {}
    for split, n in SIZES.items():
        held[f"{split}_images"] = RNG.integers(0, 256, (n, *shape)).astype(np.uint8)
        held[f"{split}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
    return held


@pytest.fixture
def root(tmp_path):
    np.savez(tmp_path / "pneumoniamnist.npz", **medmnist_arrays())
    return tmp_path


def test_a_file_in_medmnist_s_format_is_read(root, monkeypatch):
    held = dict(np.load(root / "pneumoniamnist.npz"))
    monkeypatch.setenv("SPARRING_DATA", str(root))
    for data in (load(MEDMNIST, root=root), load(MEDMNIST), load(MEDMNIST, file="pneumoniamnist.npz")):
        assert torch.equal(data.train.x[:, 0], torch.from_numpy(held["train_images"]).float() / 255)
        assert torch.equal(data.test.y, torch.arange(6) % 2)
        assert (data.shape.inputs, data.shape.classes, data.names) == ((1, 28, 28), 2, ("normal", "pneumonia"))
        assert data.public is None


def test_colour_images_and_larger_ones_are_read(tmp_path):
    held = medmnist_arrays((64, 64, 3), classes=8)
    np.savez(tmp_path / "bloodmnist_64.npz", **held)
    data = load(MEDMNIST, subset="bloodmnist", size=64, root=tmp_path)
    assert (data.shape.inputs, data.shape.classes) == ((3, 64, 64), 8)
    assert torch.equal(data.test.x.permute(0, 2, 3, 1), torch.from_numpy(held["test_images"]).float() / 255)


def test_the_validation_part_goes_where_the_user_says(root):
    held = dict(np.load(root / "pneumoniamnist.npz"))
    joined, public = load(MEDMNIST, root=root, validation="train"), load(MEDMNIST, root=root, validation="public")
    assert (len(joined.train), joined.public) == (16, None)
    assert torch.equal(joined.train.x[12:, 0], torch.from_numpy(held["val_images"]).float() / 255)
    assert (len(public.train), len(public.public)) == (12, 4)
    assert torch.equal(public.public.x[:, 0], torch.from_numpy(held["val_images"]).float() / 255)


def test_public_data_is_declared_exactly_where_there_is_some(root):
    for validation in ("unused", "train", "public"):
        config = MedMnistConfig(validation=validation, root=str(root))
        offered = MEDMNIST.build(config).load(Setup(Key(1))).public is not None
        assert (PublicData() in MEDMNIST.facts(config).gives) == offered


def test_no_group_is_made_up_unasked(root):
    assert all(not part.groups for part in (load(MEDMNIST, root=root).train, load(MEDMNIST, root=root).test))


@pytest.mark.parametrize("validation", ["unused", "train", "public"])
def test_the_proxy_group_is_the_images_brighter_than_the_median_training_image(root, validation):
    data = load(MEDMNIST, root=root, validation=validation, proxy_group="brightness")
    held = dict(np.load(root / "pneumoniamnist.npz"))
    means = {split: held[f"{split}_images"].reshape(len(held[f"{split}_images"]), -1).mean(1) for split in SIZES}
    middle = np.sort(means["train"])[(SIZES["train"] - 1) // 2]
    expected = {split: (own > middle).astype(int).tolist() for split, own in means.items()}
    assert sum(expected["train"]) == SIZES["train"] // 2
    extra = expected["val"] if validation == "train" else []
    assert data.train.groups["bright"].tolist() == expected["train"] + extra
    assert data.test.groups["bright"].tolist() == expected["test"]
    if data.public is not None:
        assert data.public.groups["bright"].tolist() == expected["val"]


BAD = {
    "label": (lambda h: h | {"test_labels": h["test_labels"] + 1}, "label 2 occurs"),
    "size": (lambda h: h | {"train_images": h["train_images"][:, :20]}, r"shape \[1, 20, 28\]; it must be \[1, 28, 28\]"),
    "length": (lambda h: h | {"train_images": h["train_images"][:5]}, "x 5, y 12"),
    "colour": (lambda h: h | {"train_images": np.zeros((12, 28, 28, 3), np.uint8)}, r"\[3, 28, 28\]; it must be \[1, 28, 28\]"),
    "several labels": (lambda h: h | {"train_labels": np.zeros((12, 14), np.uint8)}, r"labels have shape \[12, 14\]"),
    "missing": (lambda h: {k: v for k, v in h.items() if k != "test_labels"}, "has no test_labels"),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_files_are_refused(case, tmp_path):
    change, rule = BAD[case]
    np.savez(tmp_path / "pneumoniamnist.npz", **change(medmnist_arrays()))
    with pytest.raises(DataError, match=rule):
        load(MEDMNIST, root=tmp_path)


def test_what_is_absent_is_named_with_the_rule_and_the_fix_and_not_downloaded(tmp_path):
    with pytest.raises(DataError, match=r"set `root:`, or the environment variable SPARRING_DATA"):
        load(MEDMNIST)
    with pytest.raises(DataError, match=r"SPARRING_DATA\) holds no pneumoniamnist.npz; set download: true") as error:
        load(MEDMNIST, root=tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(DataError, match="there is no file"):
        load(MEDMNIST, root=tmp_path, file="a.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_was_asked_for_fetches_and_checks_the_official_file(tmp_path, mirror, monkeypatch):
    from medmnist.info import INFO

    folder, address = mirror
    source = folder / "p.npz"
    np.savez(source, **medmnist_arrays())
    monkeypatch.setitem(INFO["pneumoniamnist"], "url", address + "p.npz")
    monkeypatch.setitem(INFO["pneumoniamnist"], "MD5", hashlib.md5(source.read_bytes()).hexdigest())
    data = load(MEDMNIST, root=tmp_path / "fresh", download=True)
    assert len(data.train) == 12
    monkeypatch.setitem(INFO["pneumoniamnist"], "MD5", "0" * 32)
    with pytest.raises(DataError, match="the download of pneumoniamnist into"):
        load(MEDMNIST, root=tmp_path / "other", download=True)


def test_every_subset_has_one_label_and_two_dimensions():
    from medmnist.info import INFO

    flat = {name for name, info in INFO.items() if not name.endswith("3d") and info["task"] != "multi-label, binary-class"}
    assert set(get_args(Subset)) == flat


@pytest.fixture(scope="module")
def brain():
    return load(BRAIN_TISSUE)


def test_slices_and_tissue_have_the_stated_shape_and_range(brain):
    assert (brain.shape.inputs, brain.shape.classes, brain.shape.task) == ((1, 64, 64), 3, "segmentation")
    for part in (brain.train, brain.test):
        assert tuple(part.x.shape[1:]) == (1, 64, 64)
        assert tuple(part.y.shape[1:]) == (64, 64)
        assert float(part.x.min()) >= 0
        assert float(part.x.max()) <= 1
        assert part.y.unique().tolist() == [0, 1, 2]


def test_white_matter_is_brighter_than_grey_and_grey_than_background(brain):
    x, y = brain.train.x[:, 0], brain.train.y
    background, grey, white = (float(x[y == k].mean()) for k in range(3))
    assert background < 0.2 < grey < white


def test_the_template_is_symmetric_about_the_midline(brain):
    """Left and right agree but for a rim, so slices stand upright and their tissue lies on them."""
    y = brain.train.y
    assert float((y == y.flip(2)).double().mean()) > 0.95
    assert float((y == y.flip(1)).double().mean()) < 0.9


def test_the_size_is_an_option_and_the_same_stream_gives_the_same_split(brain):
    small = load(BRAIN_TISSUE, size=32)
    assert small.shape.inputs == (1, 32, 32)
    for part, again in ((brain.train, small.train), (brain.test, small.test)):
        assert torch.equal(part.groups["third"], again.groups["third"])
        half = torch.nn.functional.avg_pool2d(part.x, 2)
        assert float((half - again.x).abs().mean()) < 0.02


def test_the_group_column_is_a_third_of_the_head(brain):
    assert brain.train.groups["third"].unique().tolist() == [0, 1, 2]
    assert len(brain.train.groups["third"]) == len(brain.train)


@given(st.integers(28, 400), st.integers(0, 2**32))
def test_no_training_slice_is_near_a_test_slice(n, seed):
    train, test = by_position(n, torch.Generator().manual_seed(seed))
    assert len(train)
    assert len(test)
    assert int((train[:, None] - test[None]).abs().min()) > GAP


def test_another_stream_gives_another_split():
    splits = {tuple(by_position(140, torch.Generator().manual_seed(seed))[1].tolist()) for seed in range(20)}
    assert len(splits) > 5


def test_options_have_bounds():
    for wrong in ({"subset": "chestmnist"}, {"size": 32}, {"validation": "test"}, {"file": "a", "download": True}):
        with pytest.raises(ValidationError):
            MedMnistConfig(**wrong)
    for wrong in ({"size": 8}, {"size": 500}):
        with pytest.raises(ValidationError):
            BrainTissueConfig(**wrong)


def test_the_light_module_imports_no_torch_and_no_numpy():
    code = "import sys, sparring_medical.plugin; assert not {'torch', 'numpy', 'nilearn', 'medmnist'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
