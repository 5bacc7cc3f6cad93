"""Arrays: any arrays or tensors as a data set, in memory or from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from sparring.errors import DataError
from sparring.roles import Data, Dataset
from sparring.signals import DataShape, Examples
from sparring_arrays import checks, files
from sparring_arrays.checks import Channels, Values
from sparring_arrays.split import split

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_arrays.plugin import ArraysConfig

TEST_FRACTION = 0.2
WHOLE, GIVEN = ("x", "y"), ("x_train", "y_train", "x_test", "y_test")


@final
class Arrays(Dataset):
    """Arrays or tensors as a data set, for experiments that are built in Python.

    ``x``: features [N, F]; or images [N, H, W], [N, C, H, W] or [N, H, W, C], uint8 or in [0, 1]. ``y``: class indices [N], or
    [N, H, W] for segmentation. ``x_test``, ``y_test``: the held-out part; without them a stratified ``test_fraction`` (0.2) of
    the examples is drawn from the run's stream. ``groups``, ``test_groups``: named integer columns [N], such as a sensitive
    attribute or the hospital that a record comes from. ``classes``: as many as the labels show, or the ``names``, unless given.

    Raises `DataError` for values that are not finite, pixels outside [0, 1], labels outside 0 .. classes - 1, or lengths
    that differ. The arrays are copied.

    >>> import torch
    >>> Arrays(torch.rand(10, 3), torch.arange(10) % 2).shape
    DataShape(inputs=(3,), classes=2, task='classification')
    """

    def __init__(
        self,
        x: Values,
        y: Values,
        *,
        x_test: Values | None = None,
        y_test: Values | None = None,
        groups: Mapping[str, Values] | None = None,
        test_groups: Mapping[str, Values] | None = None,
        test_fraction: float | None = None,
        classes: int | None = None,
        names: Sequence[str] = (),
        channels: Channels = "auto",
        source: str = "arrays",
    ) -> None:
        if (x_test is None) != (y_test is None):
            raise DataError(f"{source}: x_test and y_test go together; one of them is missing")
        if x_test is None and test_groups:
            raise DataError(f"{source}: test_groups belong to x_test and y_test, which are missing; give them, or only groups")
        if x_test is not None and test_fraction is not None:
            raise DataError(f"{source}: has its own test part, so test_fraction would do nothing; leave it out")
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise DataError(f"{source}: test_fraction is {test_fraction:g}; it must lie between 0 and 1, both excluded")
        if set(groups or {}) != set(test_groups or {}) and x_test is not None:
            raise DataError(
                f"{source}: the train part has the group columns {sorted(groups or {})} and the test part "
                f"{sorted(test_groups or {})}; they must be the same"
            )
        self.fraction = TEST_FRACTION if test_fraction is None else test_fraction
        self.source, self.names = source, tuple(names)
        parts = [self._part(x, y, groups, channels)]
        if x_test is not None and y_test is not None:
            parts.append(self._part(x_test, y_test, test_groups, channels))
        self.shape = self._shape(parts, classes)
        self.parts = [checks.examples(e.x, e.y, self.shape, source, e.groups) for e in parts]

    def _part(self, x: Values, y: Values, groups: Mapping[str, Values] | None, channels: Channels) -> Examples:
        columns = {name: checks.column(values, name, self.source).clone() for name, values in (groups or {}).items()}
        inputs = checks.inputs(x, f"{self.source}, x", channels)
        return Examples(inputs.clone(), checks.labels(y, f"{self.source}, y").clone(), columns)

    def _shape(self, parts: Sequence[Examples], classes: int | None) -> DataShape:
        if classes is not None and self.names and classes != len(self.names):
            raise DataError(f"{self.source}: {classes} classes, but {len(self.names)} names; they must agree")
        seen = max(int(part.y.max()) for part in parts) + 1
        count = classes or len(self.names) or seen
        if count < 2:
            raise DataError(f"{self.source}: the labels show {count} class; there must be at least 2")
        first = parts[0]
        return DataShape(tuple(first.x.shape[1:]), count, "segmentation" if first.y.dim() == 3 else "classification")

    def load(self, ctx: Setup) -> Data:
        """The train and test part; a split that was not given is drawn from the layer's stream."""
        if len(self.parts) == 2:
            train, test = self.parts
        else:
            whole = self.parts[0]
            train_index, test_index = split(whole.y, self.fraction, ctx.generator())
            train, test = whole.take(train_index), whole.take(test_index)
        return Data(train, test, self.shape, self.names or tuple(str(k) for k in range(self.shape.classes)))


@final
class ArrayFile(Dataset):
    """The technique `arrays`: an ``.npz`` or ``.safetensors`` file with the keys x and y, or x_train, y_train, x_test, y_test.

    Group columns are ``group_<name>`` beside x and y, and ``group_<name>_train``, ``group_<name>_test`` beside a given split.
    Other keys are not read. Raises `DataError` as `Arrays` does, and where the file is absent or malformed.
    """

    def __init__(self, config: ArraysConfig) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """Read the file and check it; see `Arrays.load`."""
        c = self.config
        path = Path(c.path).expanduser()
        held = files.read_arrays(path, lambda name: name in WHOLE + GIVEN or name.startswith("group_"))
        keys = [k for k in WHOLE + GIVEN if k in held]
        if tuple(keys) not in (WHOLE, GIVEN):
            raise DataError(
                f"'{path}' has {', '.join(keys) or 'none'} of the keys that are read; "
                f"it must have {', '.join(WHOLE)}, or {', '.join(GIVEN)}, and not both"
            )
        given = tuple(keys) == GIVEN
        stray = [key for key in held if key.startswith("group_") and not key.endswith(("_train", "_test"))]
        if given and stray:
            raise DataError(f"'{path}' has {stray[0]} beside a given split; write {stray[0]}_train and {stray[0]}_test")
        part: dict[str, Any] = {"x": held[keys[0]], "y": held[keys[1]]}
        if given:
            part |= {"x_test": held["x_test"], "y_test": held["y_test"], "test_groups": _columns(held, "_test")}
        return Arrays(
            **part,
            groups=_columns(held, "_train" if given else ""),
            test_fraction=c.test_fraction,
            classes=c.classes,
            names=c.names,
            channels=c.channels,
            source=f"'{path}'",
        ).load(ctx)


def _columns(held: Mapping[str, Any], end: str) -> dict[str, Values]:
    return {
        key.removeprefix("group_").removesuffix(end): values
        for key, values in held.items()
        if key.startswith("group_") and key.endswith(end)
    }


__all__ = ["ArrayFile", "Arrays"]
