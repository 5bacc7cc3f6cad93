"""Checkpoints: the whole state of a run after a round, as safetensors and JSON, replaced atomically. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from sparring.errors import CheckpointError
from sparring.files import write_bytes

FORMAT = 1


def save(folder: Path, identity: str, round_: int, state: Mapping[str, Any]) -> None:
    """Write the state after ``round_`` rounds; the previous checkpoint stays valid until this one is whole."""
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "", tensors)
    data = save_tensors(tensors)
    name = f"round-{round_:06d}.safetensors"
    write_bytes(folder / name, data)
    head = {"format": FORMAT, "identity": identity, "round": round_, "tensors": name, "state": tree}
    write_bytes(folder / "checkpoint.json", json.dumps({**head, "sha256": _checksum(head, data)}).encode())
    for old in folder.glob("round-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load(folder: Path, identity: str) -> tuple[int, dict[str, Any]] | None:
    """The number of finished rounds and the state, or None where there is no checkpoint.

    Raises `CheckpointError` where it is corrupt, or belongs to another experiment.
    """
    path = folder / "checkpoint.json"
    if not path.exists():
        return None
    advice = f"delete {folder} to start afresh, or run without --resume"
    try:
        head = dict(json.loads(path.read_bytes()))
        foreign = head["identity"] != identity or head["format"] != FORMAT
        data = b"" if foreign else (folder / head["tensors"]).read_bytes()
        if not foreign and head.pop("sha256") != _checksum(head, data):
            raise CheckpointError(
                f"{path} or {folder / head['tensors']} is corrupt: their checksum differs from the recorded one; {advice}"
            )
        if foreign:
            raise CheckpointError(
                f"{path} belongs to another experiment: seed, plugins, versions or options differ from this file's; {advice}"
            )
        return int(head["round"]), _unflatten(head["state"], load_tensors(data))
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is corrupt: {error}; {advice}") from error


def _checksum(head: Mapping[str, Any], data: bytes) -> str:
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode() + data).hexdigest()


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # A copy, for safetensors refuses tensors that share memory.
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$tensor": path, "device": str(value.device)}
    if isinstance(value, Mapping):
        return {str(key): _flatten(item, f"{path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_flatten(item, f"{path}/{k}", tensors) for k, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(
        f"state at {path} is a {type(value).__name__}; state holds tensors, numbers, strings, lists and mappings"
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]].to(value["device"])
        return {key: _unflatten(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    return value
