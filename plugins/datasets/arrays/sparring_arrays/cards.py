"""What the reference card of `arrays` measures."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from sparring_arrays.measures import loaded, whole
from sparring_arrays.plugin import ARRAYS

N, HEIGHT, WIDTH = 200, 5, 6


def arrays() -> dict[str, float]:
    """A file of 200 colour images, channels last, three quarters of them of class 0, against what the reader makes of it.

    The number of an image is written into its red channel, its class into green and its hospital into blue. Test images
    drawn at random have the mean number 99.5, to within 8.2 (one standard deviation of the mean of 40 of 200).
    """
    k = np.arange(N)
    columns = (k, np.where(k % 4 == 0, 1, 0), k % 5)
    x = np.broadcast_to(np.stack(columns, axis=1)[:, None, None], (N, HEIGHT, WIDTH, 3)).astype(np.uint8)
    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        path = Path(folder) / "own.npz"
        np.savez(path, x=x, y=columns[1], group_hospital=columns[2])
        data = loaded(ARRAYS, path=str(path))
    read = whole(data)
    red, _, _ = read.x.mul(255).unbind(dim=1)
    number, label, hospital = read.x[:, :, 0, 0].mul(255).round().long().T
    return {
        "test images": float(len(data.test)),
        "test images of class 1": float((data.test.y == 1).sum()),
        "images that are read once": float(len(number.unique())),
        "channels": float(data.shape.inputs[0]),
        "largest difference of a byte of red from the image's number": float((red - number[:, None, None]).abs().max()),
        "labels or hospitals of another image": float(((label != read.y) | (hospital != read.groups["hospital"])).sum()),
        "mean number of a test image": float(number[len(data.train) :].to(torch.float64).mean()),
    }
