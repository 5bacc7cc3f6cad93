"""Files that a user names: where they are looked for, and how arrays are read from them without ever unpickling."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sparring.errors import DataError

VARIABLE = "SPARRING_DATA"


def folder(dataset: str, root: str | None) -> Path:
    """The folder of ``root``, else of the environment variable SPARRING_DATA; it need not exist yet."""
    named = root or os.environ.get(VARIABLE)
    if not named:
        raise DataError(f"{dataset}: no folder is named; set `root:`, or the environment variable {VARIABLE}")
    return Path(named).expanduser()


def absent(dataset: str, path: Path, needs: str, fix: str) -> DataError:
    """The error for a path that is not there: it names the path, where paths come from, what is needed and the fix."""
    what = "holds no" if path.is_dir() else "does not exist; it should hold"
    return DataError(f"{dataset}: '{path}' (from `root:` or {VARIABLE}) {what} {needs}; {fix}")


def named_file(dataset: str, file: str, root: str | None) -> Path:
    """The path of the option ``file``: a relative one is taken from ``root``, else from SPARRING_DATA, else from here."""
    path = Path(file).expanduser()
    base = root or os.environ.get(VARIABLE)
    if not path.is_absolute() and base:
        path = Path(base).expanduser() / path
    if not path.is_file():
        raise DataError(
            f"{dataset}: there is no file '{path}'; `file:` is relative to `root:` or {VARIABLE} where one is set: "
            "correct it, or put the file there"
        )
    return path


def package_file(dataset: str, package: str, *parts: str) -> Path:
    """A data file inside an installed package, found without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"{dataset}: its data come in the package '{package}', which is not installed: pip install {package}")
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    if not path.is_file():
        raise DataError(f"{dataset}: the installed '{package}' has no file '{path}'; install another version of it")
    return path


def read_npz(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray[Any, Any]]:
    """The wanted arrays of an ``.npz`` file; object arrays, which are pickles, are refused."""
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"'{path}' holds one bare array; it must be an .npz archive of named arrays (numpy.savez)")
            with archive:
                return {name: archive[name] for name in archive.files if wanted(name)}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(
            f"'{path}' is no readable .npz archive of plain numbers ({type(error).__name__}: {error}); "
            "write it with numpy.savez, without object arrays: pickles are never read"
        ) from error


def read_arrays(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """The wanted arrays of an ``.npz`` file, or tensors of a ``.safetensors`` file."""
    if not path.is_file():
        raise DataError(f"there is no file '{path}'; correct `path:`, or put the file there")
    if path.suffix == ".npz":
        return dict(read_npz(path, wanted))
    if path.suffix != ".safetensors":
        raise DataError(f"'{path}' ends in '{path.suffix}'; it must be an .npz or a .safetensors file")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as archive:
            return {name: archive.get_tensor(name) for name in archive.keys() if wanted(name)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"'{path}' is no readable safetensors file ({error}); write it with safetensors' save_file") from error
