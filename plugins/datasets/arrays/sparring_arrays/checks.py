"""Checks that turn raw arrays into examples, or refuse them with the value, the rule and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sparring.errors import DataError
from sparring.signals import DataShape, Examples

Values = Tensor | np.ndarray[Any, Any]
Channels = Literal["auto", "first", "last"]
CHANNEL_COUNTS = (1, 3, 4)


def tensor(values: Any, source: str) -> Tensor:
    """``values`` as a tensor of its own type, on the CPU; raises `DataError` for what holds no plain numbers."""
    if isinstance(values, Tensor):
        if values.is_complex():
            raise DataError(f"{source}: holds {values.dtype} values; they must be booleans, integers or floats")
        return values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{source}: holds {array.dtype} values; they must be booleans, integers or floats")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    native = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(native).reshape(array.shape))


def finite(x: Tensor, source: str) -> Tensor:
    """``x`` [N, ...] as float32; raises `DataError` with the first example that holds NaN or Inf."""
    x = x.to(torch.float32)
    bad = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise DataError(
            f"{source}: {int(bad.sum())} of {len(x)} examples hold NaN or Inf as float32 (the first: {first}); "
            "values must be finite: drop or impute them"
        )
    return x


def images(values: Values, source: str, channels: Channels = "auto") -> Tensor:
    """Images [N, C, H, W], float32 in [0, 1].

    From [N, H, W], [N, C, H, W] (``first``) or [N, H, W, C] (``last``); ``auto`` takes for channels the axis of size 1, 3 or 4,
    the first of them where both fit. uint8 is divided by 255; other types must be in [0, 1] already.
    """
    x = tensor(values, source)
    if x.dim() == 3:
        x = x[:, None]
    elif x.dim() != 4:
        raise DataError(f"{source}: has shape {list(x.shape)}; images are [N, H, W], [N, C, H, W] or [N, H, W, C]")
    else:
        if channels == "auto":
            fits = [axis for axis in (1, 3) if x.shape[axis] in CHANNEL_COUNTS]
            if not fits:
                raise DataError(
                    f"{source}: has shape {list(x.shape)}, where no axis looks like 1, 3 or 4 channels; "
                    "say which it is with channels: first or channels: last"
                )
            channels = "first" if fits[0] == 1 else "last"
        x = x if channels == "first" else x.permute(0, 3, 1, 2)
    if 0 in x.shape:
        raise DataError(f"{source}: has shape {list(x.shape)}; there must be at least one example, and no axis may be empty")
    if x.dtype == torch.uint8:
        return x.to(torch.float32).div_(255).contiguous()
    x = finite(x, source)
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise DataError(f"{source}: pixels run from {low:g} to {high:g}; they must lie in [0, 1], or be uint8: rescale them")
    return x.contiguous()


def features(values: Values, source: str) -> Tensor:
    """Feature vectors [N, F], float32 and finite, otherwise as they are."""
    x = tensor(values, source)
    if x.dim() != 2 or 0 in x.shape:
        raise DataError(f"{source}: has shape {list(x.shape)}; features are [N, F] with at least one row and one column")
    return finite(x, source).contiguous()


def inputs(values: Values, source: str, channels: Channels = "auto") -> Tensor:
    """Features where ``values`` is [N, F], images where it has three or four axes."""
    return features(values, source) if values.ndim == 2 else images(values, source, channels)


def labels(values: Values, source: str) -> Tensor:
    """Class indices [N] or [N, H, W], int64, from booleans or integers ([N, 1] is read as [N]); at least 0."""
    y = tensor(values, source)
    if y.is_floating_point():
        raise DataError(f"{source}: labels are {str(y.dtype).removeprefix('torch.')}; they must be integers 0 .. classes - 1")
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dim() not in (1, 3) or 0 in y.shape:
        raise DataError(f"{source}: labels have shape {list(y.shape)}; they are [N], or [N, H, W] for segmentation")
    y = y.to(torch.int64).contiguous()
    if int(y.min()) < 0:
        raise DataError(f"{source}: the label {int(y.min())} occurs; labels are 0 .. classes - 1")
    return y


def column(values: Values, name: str, source: str) -> Tensor:
    """A group column [N], int64, from booleans or integers."""
    group = tensor(values, f"{source}, group '{name}'")
    if group.dim() != 1 or group.is_floating_point():
        raise DataError(
            f"{source}: group column '{name}' is {str(group.dtype).removeprefix('torch.')} {list(group.shape)}; "
            "it must be [N] of integers, one value a group"
        )
    return group.to(torch.int64)


def examples(x: Tensor, y: Tensor, shape: DataShape, source: str, groups: Mapping[str, Tensor] | None = None) -> Examples:
    """Examples whose parts agree in length, whose labels are in 0 .. classes - 1 and whose inputs have ``shape``."""
    groups = dict(groups or {})
    lengths = {"x": len(x), "y": len(y)} | {f"group '{name}'": len(group) for name, group in groups.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{source}: lengths differ: {', '.join(f'{name} {n}' for name, n in lengths.items())}")
    if tuple(x.shape[1:]) != shape.inputs:
        raise DataError(f"{source}: an input has shape {list(x.shape[1:])}; it must be {list(shape.inputs)}")
    if int(y.min()) < 0 or int(y.max()) >= shape.classes:
        wrong = int(y.min()) if int(y.min()) < 0 else int(y.max())
        raise DataError(f"{source}: the label {wrong} occurs; with {shape.classes} classes they are 0 .. {shape.classes - 1}")
    dense = tuple(x.shape[2:]) if shape.task == "segmentation" else ()
    if tuple(y.shape[1:]) != dense:
        raise DataError(f"{source}: a target has shape {list(y.shape[1:])}; it must be {list(dense)} for {shape.task}")
    return Examples(x, y, groups)
