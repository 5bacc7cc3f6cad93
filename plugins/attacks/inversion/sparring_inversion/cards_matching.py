"""What the reference card of cpl measures."""

from __future__ import annotations

from sparring_inversion.cards import measured
from sparring_inversion.cpl import Cpl
from sparring_inversion.plugin_matching import CplConfig


def cpl() -> dict[str, float]:
    """Labels recovered by iDLG, and PSNR of reconstructions from gradients and from noise."""
    return measured(Cpl(CplConfig(iterations=60, labels="idlg", snapshots=0, patch=2)))
