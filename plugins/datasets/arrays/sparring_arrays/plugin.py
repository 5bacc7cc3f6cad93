"""The technique `arrays`: a user's own file of arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sparring.hookspecs import hookimpl
from sparring.specs import AnySpec, Config, DatasetSpec

if TYPE_CHECKING:
    from sparring_arrays.arrays import ArrayFile


class ArraysConfig(Config):
    """Configuration of `arrays`."""

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="an .npz or .safetensors file with x and y, or x_train, y_train, x_test and y_test; "
        "group columns are group_<name>, or group_<name>_train and group_<name>_test",
    )
    test_fraction: float | None = Field(
        None, gt=0, lt=1, description="share of x and y that is held out, stratified (default 0.2); not with a given split"
    )
    classes: int | None = Field(None, ge=2, le=100_000, description="number of classes (default: as the labels show)")
    names: tuple[Annotated[str, Field(max_length=200)], ...] = Field(
        (), max_length=100_000, description="names of the classes (default: 0, 1, ...)"
    )
    channels: Literal["auto", "first", "last"] = Field(
        "auto", description="which axis of 4-axis images holds the channels; auto: the one of size 1, 3 or 4"
    )


def _arrays(config: ArraysConfig) -> ArrayFile:
    from sparring_arrays.arrays import ArrayFile

    return ArrayFile(config)


ARRAYS = DatasetSpec(
    api=1,
    name="arrays",
    config=ArraysConfig,
    summary="Your own arrays from an .npz or .safetensors file, with optional group columns.",
    build=_arrays,
    licence="the user's own",
    source="the file that `path:` names",
    stands_for="whatever the user's file holds",
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (ARRAYS,)
