"""What the reference card of `digits` measures."""

from __future__ import annotations

from sparring_arrays.measures import loaded, whole

from sparring_digits.plugin import DIGITS

GAMMA = 0.001 * 16**2
"""Of scikit-learn's example, whose pixels run from 0 to 16."""


def digits() -> dict[str, float]:
    """Numbers of images and grey levels, and a support vector machine's accuracy, against the sources' descriptions."""
    from sklearn.svm import SVC

    data = loaded(DIGITS, test_fraction=0.5)
    read = whole(data)
    counts = read.y.bincount()
    machine = SVC(gamma=GAMMA).fit(data.train.x.flatten(1).numpy(), data.train.y.numpy())
    return {
        "images": float(len(read)),
        "images of the digit 3, the commonest": float(counts[3]),
        "images of the digit 8, the rarest": float(counts[8]),
        "largest pixel": float(read.x.max()),
        "grey levels": float(len(read.x.unique())),
        "accuracy of a support vector machine": float(machine.score(data.test.x.flatten(1).numpy(), data.test.y.numpy())),
    }
