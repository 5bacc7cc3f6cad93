"""What the cards of mixup and InstaHide measure, as if gradients gave up exactly what was trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.keys import Key
from sparring.local import Batch, Client, LocalContext, LocalPlan
from sparring.roles import Defence
from sparring.testing.experiments import CLASSES, FEATURES, outcome
from sparring.testing.fixtures import make_setup
from sparring_perturbation.instahide import InstaHide, flipped
from sparring_perturbation.mixing import Mixture, mixed
from sparring_perturbation.mixup import Mixup
from sparring_perturbation.plugin import InstaHideConfig, MixupConfig
from sparring_perturbation.probe import grey, images, reached

IMAGES, DRAWS, TRIES = 8, 16, 30
FEDERATION = {"clients": 10, "rounds": 8, "batch_size": 10, "local_epochs": 4, "optimiser": {"lr": 0.5}}


def perceptron() -> nn.Module:
    """A model of the small task that can tell signs from sizes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def _trained_on(defence: Defence[LocalPlan], x: Tensor, y: Tensor) -> Tensor:
    """What a client trains on in one step."""
    ((_, change),) = defence.defence_transform(LocalPlan(), make_setup("defence")).batch
    return change(Batch(x, y), LocalContext(Client(0, len(y), len(y), 1), 0, 0, Key(2, ("step",)).generator())).x


def _matrix(mixture: Mixture) -> Tensor:
    """The coefficients as a matrix [B, B] from examples to mixtures."""
    n = len(mixture.members)
    return torch.zeros(n, n, dtype=torch.float64).scatter(1, mixture.members, mixture.weights)


def _cost(name: str, options: dict[str, float], epochs: int) -> dict[str, float]:
    task = {"model": perceptron, "federation": {**FEDERATION, "local_epochs": epochs}}
    return {
        "accuracy": outcome(**task, defences=[{name: options}]).accuracy or 0.0,
        "accuracy, undefended": outcome(**task).accuracy or 0.0,
    }


def mixup() -> dict[str, float]:
    """PSNR of mixtures, of solved mixtures, and of a batch of one; the largest coefficient; accuracy."""
    x, y = images(IMAGES)
    options = MixupConfig()
    shown = _trained_on(Mixup(options), x, y)
    again = mixed(Batch(x, y), options.k, options.limit, Key(2, ("step",)).generator())
    solved = torch.linalg.lstsq(_matrix(again), shown.double().flatten(1)).solution
    many = mixed(Batch(x.repeat(100, 1, 1, 1), y.repeat(100)), options.k, options.limit, Key(3, ("many",)).generator())
    return {
        "largest coefficient": float(many.weights.max()),
        "largest error of a sum of coefficients": float((many.weights.sum(1) - 1).abs().max()),
        "PSNR of grey": grey(x),
        "PSNR of the mean of the batch": reached(x.mean(0).expand_as(x), x),
        "PSNR of mixtures": reached(shown, x),
        "PSNR of mixtures, solved with their coefficients": reached(solved.view_as(x), x),
        "PSNR of a batch of one": reached(_trained_on(Mixup(options), x[:1], y[:1]), x[:1]),
        **_cost("mixup", {}, 4),
    }


def instahide() -> dict[str, float]:
    """PSNR of encodings; of absolute values once decoded from 16 draws; of a batch of one; accuracy."""
    x, y = images(IMAGES)
    options, generator = InstaHideConfig(), Key(2, ("draws",)).generator()
    shown = _trained_on(InstaHide(options), x, y)
    matrices, sizes = [], []
    for _ in range(DRAWS):
        mixture = mixed(Batch(x, y), options.k, options.limit, generator)
        matrices.append(_matrix(mixture))
        sizes.append((flipped(mixture.batch.x, 0.5, generator) - 0.5).abs().double().flatten(1))
    truth = 0.5 + (x - 0.5).abs()
    alone = _trained_on(InstaHide(options), x[:1], y[:1])
    dark = torch.zeros(1, 1, 64, 64)
    reflected = _trained_on(InstaHide(options), dark, y[:1])
    guess = truth.mean(0).expand_as(truth)
    decoded = 0.5 + decode(torch.cat(matrices), torch.cat(sizes)).abs()
    return {
        "share of pixels that are reflected": float((reflected > 0.5).double().mean()),
        "PSNR of grey": grey(x),
        "PSNR of encodings": reached(shown, x),
        "PSNR up to signs, mean of the batch": reached(guess, truth),
        "PSNR up to signs, one draw": reached(0.5 + (shown - 0.5).abs(), truth),
        "PSNR up to signs, 16 draws decoded": reached(decoded.view_as(truth), truth),
        "PSNR up to signs, a batch of one": reached(0.5 + (alone - 0.5).abs(), truth[:1]),
        **_cost("instahide", {"centre": 0.0}, 6),
    }


def decode(matrix: Tensor, sizes: Tensor) -> Tensor:
    """Values [B, d] whose mixtures ``matrix`` [m, B] have the magnitudes ``sizes`` [m, d]; up to one sign a pixel.

    Alternates between signs and least squares from several starts; the best start of each pixel counts.
    """
    inverse = torch.linalg.pinv(matrix)
    z = torch.randn(TRIES, matrix.shape[1], sizes.shape[1], generator=Key(4, ("decode",)).generator(), dtype=torch.float64)
    for _ in range(60):
        z = inverse @ ((matrix @ z).sign() * sizes)
    off = ((matrix @ z).abs() - sizes).square().sum(1)
    return z.gather(0, off.argmin(0)[None, None].expand(1, *z.shape[1:]))[0]
