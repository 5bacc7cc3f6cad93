"""The techniques `mnist`, `fashion-mnist`, `cifar10` and `gtsrb`, on small files of the same formats."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import subprocess
import sys
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sparring_images import cifar10, gtsrb
from sparring_images.plugin import CIFAR10, FASHION_MNIST, GTSRB, MNIST
from sparring_images.samples import idx, write_cifar10, write_gtsrb, write_mnist

from sparring.context import Setup
from sparring.errors import DataError
from sparring.keys import Key

SPECS = (MNIST, FASHION_MNIST, CIFAR10, GTSRB)
RNG = np.random.default_rng(0)


def load(spec, seed: int = 1, **options):
    options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return spec.build(spec.config(**options)).load(Setup(Key(seed), spec.name))


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


def mnist_files(folder: Path, gz: bool = False, name: str = "{}-ubyte") -> dict[str, np.ndarray]:
    """Thirty training and ten test images; the first pixel of an image is its label, the second its number."""
    parts = {}
    for split, n in (("train", 30), ("t10k", 10)):
        x = RNG.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        y = np.arange(n) % 10
        x[:, 0, 0], x[:, 0, 1] = y, np.arange(n)
        parts[split] = x, y
    write_mnist(folder, parts, gz=gz, name=name)
    return {f"{split}-images-idx3": x for split, (x, _) in parts.items()}


def in_order(part) -> bool:
    pixels = part.x.mul(255).round().long()
    return torch.equal(pixels[:, 0, 0, 1], torch.arange(len(part))) and torch.equal(pixels[:, 0, 0, 0], part.y)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    ("spec", "folder"), [(MNIST, "MNIST/raw"), (FASHION_MNIST, "FashionMNIST/raw"), (FASHION_MNIST, "fashion-mnist")]
)
def test_idx_files_are_read_in_their_order(spec, folder, gz, tmp_path):
    held = mnist_files(tmp_path / folder, gz)
    data = load(spec, root=tmp_path)
    assert in_order(data.train)
    assert in_order(data.test)
    expected = torch.from_numpy(held["t10k-images-idx3"]).float() / 255
    assert torch.equal(data.test.x[:, 0], expected)
    assert (data.shape.inputs, data.shape.classes, len(data.names)) == ((1, 28, 28), 10, 10)


def test_the_folder_itself_is_opened_only_where_the_user_named_it(tmp_path, monkeypatch):
    mnist_files(tmp_path / "here")
    assert len(load(MNIST, root=tmp_path / "here").train) == 30
    monkeypatch.setenv("SPARRING_DATA", str(tmp_path / "here"))
    with pytest.raises(DataError, match="holds no FashionMNIST"):
        load(FASHION_MNIST)


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    mnist_files(tmp_path / "MNIST" / "raw")
    monkeypatch.setenv("SPARRING_DATA", str(tmp_path))
    assert len(load(MNIST).test) == 10


def test_padding_adds_a_black_border(tmp_path):
    mnist_files(tmp_path / "MNIST/raw")
    small, large = load(MNIST, root=tmp_path), load(MNIST, root=tmp_path, pad_to=32)
    assert torch.equal(large.train.x[..., 2:-2, 2:-2], small.train.x)
    assert large.train.x[..., :2, :].sum() == 0
    assert large.shape.inputs == (1, 32, 32)


def test_limits_draw_stratified_subsets_from_the_stream(tmp_path):
    mnist_files(tmp_path / "MNIST/raw")
    one = load(MNIST, root=tmp_path, limit_train=20, limit_test=10)
    assert one.train.y.bincount().tolist() == [2] * 10
    assert len(one.train.x.flatten(1).unique(dim=0)) == 20
    assert in_order(one.test)
    assert torch.equal(one.train.x, load(MNIST, root=tmp_path, limit_train=20).train.x)
    assert not torch.equal(one.train.x, load(MNIST, seed=2, root=tmp_path, limit_train=20).train.x)
    pixels = one.train.x.mul(255).round().long()
    assert torch.equal(pixels[:, 0, 0, 0], one.train.y)
    few = load(MNIST, root=tmp_path, limit_test=5)
    assert torch.equal(few.test.x, load(MNIST, root=tmp_path, limit_train=1, limit_test=5).test.x)


def test_malformed_idx_files_are_refused(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    mnist_files(folder)
    images = folder / "train-images-idx3-ubyte"
    raw = images.read_bytes()
    for broken, rule in (
        (raw[:-1], "says 30 x 28 x 28 bytes but holds"),
        (raw + b"\0", "says 30 x 28 x 28 bytes but holds"),
        (b"\0\0\x0b\3" + raw[4:], "no idx file of bytes with 3 axes"),
        (b"", "begins with nothing"),
    ):
        images.write_bytes(broken)
        with pytest.raises(DataError, match=rule):
            load(MNIST, root=tmp_path)
    images.write_bytes(idx(np.zeros((29, 28, 28))))
    with pytest.raises(DataError, match="29 images but 30 labels"):
        load(MNIST, root=tmp_path)
    images.write_bytes(idx(np.zeros((30, 20, 20))))
    with pytest.raises(DataError, match=r"shape \[1, 20, 20\]; it must be \[1, 28, 28\]"):
        load(MNIST, root=tmp_path)
    images.write_bytes(raw)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.full(30, 10)))
    with pytest.raises(DataError, match="label 10 occurs"):
        load(MNIST, root=tmp_path)
    (folder / "train-labels-idx1-ubyte").rename(folder / "train-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match="cannot be read"):
        load(MNIST, root=tmp_path)


def cifar_files(folder: Path, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = RNG.integers(0, 256, (6, n, 3, 32, 32)).astype(np.uint8), RNG.integers(0, 10, (6, n))
    write_cifar10(folder, pixels, labels)
    return pixels, labels


def test_cifar10_s_binary_version_is_read(tmp_path):
    pixels, labels = cifar_files(tmp_path / "cifar-10-batches-bin")
    data = load(CIFAR10, root=tmp_path)
    assert tuple(data.train.x.shape) == (20, 3, 32, 32)
    assert data.train.y.tolist() == labels[:5].flatten().tolist()
    assert torch.equal(data.test.x, torch.from_numpy(pixels[5]).float() / 255)


def test_cifar10_s_pickled_version_is_refused(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"holds pickles, which are never read\); set download: true, or put .* binary version"):
        load(CIFAR10, root=tmp_path)


def test_cifar10_files_of_broken_records_are_refused(tmp_path):
    cifar_files(tmp_path / "b")
    (tmp_path / "b" / "data_batch_3.bin").write_bytes(b"\0" * 3074)
    with pytest.raises(DataError, match=r"data_batch_3\.bin' holds 3074 bytes"):
        load(CIFAR10, root=tmp_path / "b")
    (tmp_path / "b" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match="holds no cifar-10-batches-bin"):
        load(CIFAR10, root=tmp_path / "b")


def sign(height: int, width: int, *colour: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))


def gtsrb_files(base: Path) -> None:
    """Two signs of each of three classes to train, three to test; a sign is of one colour, red = 10 class."""
    train = [(sign(25, 20 + k, 10 * label % 256, k, 255), label) for label in (0, 7, 42) for k in range(2)]
    write_gtsrb(base, train, [(sign(18, 30, 10 * label % 256, 0, 0), label) for label in (42, 0, 7)])


@pytest.mark.parametrize("folder", ["gtsrb", "."])
def test_gtsrb_s_folders_are_read_and_resized(folder, tmp_path):
    gtsrb_files(tmp_path / folder)
    data = load(GTSRB, root=tmp_path, size=16)
    assert tuple(data.train.x.shape) == (6, 3, 16, 16)
    assert data.train.y.tolist() == [0, 0, 7, 7, 42, 42]
    assert data.test.y.tolist() == [42, 0, 7]
    for part in (data.train, data.test):
        assert torch.equal(part.x[:, 0, 3, 3].mul(255).round().long(), 10 * part.y % 256)
    assert (data.shape.classes, len(set(data.names))) == (43, 43)


def test_gtsrb_opens_only_the_images_within_the_limits(tmp_path, monkeypatch):
    gtsrb_files(tmp_path)
    opened = []
    read = gtsrb._read
    monkeypatch.setattr(gtsrb, "_read", lambda path, size: opened.append(path) or read(path, size))
    data = load(GTSRB, root=tmp_path, limit_train=3, limit_test=1)
    assert data.train.y.sort().values.tolist() == [0, 7, 42]
    assert len(opened) == 4


def test_gtsrb_s_malformed_files_are_refused(tmp_path):
    gtsrb_files(tmp_path)
    answers = tmp_path / gtsrb.ANSWERS
    lines = answers.read_text()
    for line in ("../../Training/00000/00000.ppm;1;1;0", "99999.ppm;1;1;0", "00000.ppm;1;1;x", "00000.ppm"):
        answers.write_text("Filename;Width;Height;ClassId\n" + line)
        with pytest.raises(DataError, match="line 2: Filename is"):
            load(GTSRB, root=tmp_path)
    answers.write_text("Filename;ClassId")
    with pytest.raises(DataError, match="names no image"):
        load(GTSRB, root=tmp_path)
    answers.write_text(lines.replace(";42", ";43"))
    with pytest.raises(DataError, match="label 43 occurs"):
        load(GTSRB, root=tmp_path)
    answers.write_text(lines)
    sign = tmp_path / gtsrb.TRAIN / "00007" / "00000.ppm"
    Image.new("RGB", (9, 9)).save(sign.with_suffix(".png"))
    sign.with_suffix(".png").rename(sign)
    with pytest.raises(DataError, match="no readable ppm image"):
        load(GTSRB, root=tmp_path)
    sign.parent.rename(sign.parent.with_name("stop"))
    with pytest.raises(DataError, match="is no class"):
        load(GTSRB, root=tmp_path)


FILES = [(MNIST, (28, 28)), (FASHION_MNIST, (28, 28)), (CIFAR10, (32, 32, 3)), (GTSRB, (32, 32, 3))]


@pytest.mark.parametrize(("spec", "shape"), FILES)
def test_an_npz_file_takes_the_place_of_the_folder(spec, shape, tmp_path):
    held = {}
    for split, n in (("train", 20), ("test", 10)):
        held |= {f"x_{split}": RNG.integers(0, 256, (n, *shape)).astype(np.uint8), f"y_{split}": (np.arange(n) % 10)[:, None]}
    np.savez(tmp_path / "a.npz", **held)
    data = load(spec, root=tmp_path, file="a.npz")
    assert torch.equal(data.train.y, torch.arange(20) % 10)
    x = torch.from_numpy(held["x_test"]).float() / 255
    assert torch.equal(data.test.x, x.permute(0, 3, 1, 2) if x.dim() == 4 else x[:, None])
    np.savez(tmp_path / "a.npz", **{key: values for key, values in held.items() if key != "y_test"})
    with pytest.raises(DataError, match="has no y_test"):
        load(spec, file=tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **held | {"x_test": held["x_test"][:3]})
    with pytest.raises(DataError, match="3 images but 10 labels"):
        load(spec, file=tmp_path / "a.npz")


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_absent_is_named_with_the_rule_and_the_fix_and_not_downloaded(spec, tmp_path):
    with pytest.raises(DataError, match=r"set `root:`, or the environment variable SPARRING_DATA"):
        load(spec)
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="set download: true") as error:
            load(spec, root=root)
        assert str(root) in str(error.value)
        assert "SPARRING_DATA" in str(error.value)
    with pytest.raises(DataError, match=r"there is no file '.*none.npz'"):
        load(spec, root=tmp_path, file="none.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_was_asked_for_fetches_and_checks_the_official_files(tmp_path, mirror, monkeypatch):
    import torchvision.datasets

    folder, address = mirror
    mnist_files(folder / "mnist", gz=True)
    sums = [(p.name, hashlib.md5(p.read_bytes()).hexdigest()) for p in sorted((folder / "mnist").iterdir())]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address + "down/", address + "mnist/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    data = load(MNIST, root=tmp_path / "root", download=True)
    assert in_order(data.train)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address + "down/"])
    assert len(load(MNIST, root=tmp_path / "root", download=True).train) == 30, "what is there is not fetched again"
    with pytest.raises(DataError, match=r"the download into '.*' failed"):
        load(MNIST, root=tmp_path / "other", download=True)


def test_cifar10_s_download_is_the_binary_version(tmp_path, mirror, monkeypatch):
    folder, address = mirror
    _, labels = cifar_files(tmp_path / "cifar-10-batches-bin")
    with tarfile.open(folder / "c.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    monkeypatch.setattr(cifar10, "URL", address + "c.tar.gz")
    with pytest.raises(DataError, match="failed"):
        load(CIFAR10, root=tmp_path / "unchecked", download=True)
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5((folder / "c.tar.gz").read_bytes()).hexdigest())
    data = load(CIFAR10, root=tmp_path / "root", download=True)
    assert data.test.y.tolist() == labels[5].tolist()


@pytest.mark.parametrize("spec", [CIFAR10, GTSRB])
def test_a_failed_download_is_one_clear_error(spec, tmp_path, monkeypatch):
    def fail(*args, **kw):
        raise RuntimeError("no route")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fail)
    monkeypatch.setattr("torchvision.datasets.gtsrb.download_and_extract_archive", fail)
    with pytest.raises(DataError, match="no route"):
        load(spec, root=tmp_path, download=True)


@pytest.mark.parametrize("spec", SPECS)
def test_options_have_bounds(spec):
    for wrong in ({"limit_train": 0}, {"limit_test": 0}, {"root": ""}, {"file": "a.npz", "download": True}, {"folder": "x"}):
        with pytest.raises(ValidationError):
            spec.config(**wrong)


def test_loading_a_folder_needs_no_torchvision_and_the_light_module_no_torch(tmp_path):
    mnist_files(tmp_path / "MNIST" / "raw")
    code = (
        "import sys, sparring_images.plugin as p; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules); "
        "from sparring.context import Setup; from sparring.keys import Key; "
        "p.MNIST.build(p.MnistConfig()).load(Setup(Key(1))); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"SPARRING_DATA": str(tmp_path)})
