"""Named streams: every generator is keyed by what it is for, so results do not depend on scheduling."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Key:
    """A path of names under a seed; equal paths give equal streams on one device type."""

    seed: int
    path: tuple[str | int, ...] = ()

    def child(self, *names: str | int) -> Key:
        """The key below this one."""
        return Key(self.seed, (*self.path, *names))

    def number(self) -> int:
        """A 63-bit integer that is a hash of the path."""
        text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (self.seed, *self.path))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator at the start of this key's stream; integers and permutations are always drawn on the CPU."""
        return torch.Generator(device).manual_seed(self.number())
