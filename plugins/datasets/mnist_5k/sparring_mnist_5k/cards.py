"""What the reference card of `mnist-5k` measures."""

from __future__ import annotations

import torch
from sparring_arrays.measures import loaded, nearest_neighbour, whole

from sparring_mnist_5k.plugin import MNIST_5K


def mnist_5k() -> dict[str, float]:
    """Numbers of images, how a digit lies in its image, moments of pixels and the nearest neighbour, against the sources."""
    data = loaded(MNIST_5K)
    read = whole(data)
    x, counts = read.x[:, 0].double(), read.y.bincount()
    rows, columns = x.sum(dim=2), x.sum(dim=1)
    at = torch.arange(x.shape[1], dtype=torch.float64)
    centres = torch.stack([(mass * at).sum(dim=1) / mass.sum(dim=1) for mass in (rows, columns)])
    return {
        "images": float(len(read)),
        "images of the commonest digit": float(counts.max()),
        "images of the rarest digit": float(counts.min()),
        "largest height of a digit": float((rows > 0).sum(dim=1).max()),
        "largest width of a digit": float((columns > 0).sum(dim=1).max()),
        "largest distance of a centre of mass from pixel 14": float((centres - 14).abs().max()),
        "mean of pixels": float(x.mean()),
        "standard deviation of pixels": float(x.std()),
        "accuracy of the nearest neighbour": nearest_neighbour(data),
    }
