"""Brain tissue: slices of an averaged brain, with grey and white matter to be found."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from sparring_arrays import checks
from torch import Tensor
from torch.nn import functional as F

from sparring.roles import Data, Dataset
from sparring.signals import DataShape, Examples

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_medical.plugin import BrainTissueConfig

LEAST_TISSUE = 0.02
BLOCK, EVERY, GAP = 7, 4, 2


@final
class BrainTissue(Dataset):
    """Axial T1 slices [N, 1, size, size] in [0, 1] of the MNI152 template, 1 mm apart, and their tissue y [N, size, size].

    Classes: 0 background and fluid, 1 grey matter, 2 white matter: the most probable of (1 - g - w, g, w) by the template's
    maps g and w. Slices with tissue on less than 2 % of their area are left out; a slice is padded to a square, then
    resized.
    Test slices are every fourth block of 7 neighbours, from an offset that is drawn from the stream, and 2 slices on either
    side of a test block are in neither part: neighbours are almost equal. Groups: `third`, 0 lower, 1 middle, 2 upper.

    Source: V. Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54(1), 2011.
    """

    def __init__(self, config: BrainTissueConfig) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """The slices, split by their position."""
        size = self.config.size
        t1, grey, white = _volumes()
        tissue = torch.maximum(grey, white) > 1 - grey - white
        used = tissue.float().mean(dim=(1, 2)) >= LEAST_TISSUE
        t1, grey, white = (_square(volume[used], size) for volume in (t1, grey, white))
        y = torch.stack([1 - grey - white, grey, white], dim=1).argmax(dim=1)
        n = len(t1)
        groups = {"third": torch.arange(n) * 3 // n}
        shape = DataShape((1, size, size), 3, "segmentation")
        x = checks.images(t1[:, None].clamp(0, 1), "brain-tissue", "first")
        whole: Examples = checks.examples(x, y, shape, "brain-tissue", groups)
        train, test = by_position(n, ctx.generator())
        return Data(whole.take(train), whole.take(test), shape, ("background", "grey matter", "white matter"))


def by_position(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Positions (train, test) among ``n`` slices, with a gap around each block of test slices."""
    period = BLOCK * EVERY
    phase = (torch.arange(n) + int(torch.randint(period, (), generator=generator))) % period
    train = (phase >= BLOCK + GAP) & (phase < period - GAP)
    return train.nonzero()[:, 0], (phase < BLOCK).nonzero()[:, 0]


def _volumes() -> list[Tensor]:
    """The T1 template and the maps of grey and white matter, each [slices, H, W] with the front of the head on top."""
    from nilearn import datasets

    loaders = (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    volumes = (torch.from_numpy(load(resolution=1).get_fdata(dtype="float32")) for load in loaders)
    return [volume.permute(2, 1, 0).flip(1).contiguous() for volume in volumes]


def _square(slices: Tensor, size: int) -> Tensor:
    """Slices [N, H, W] padded to squares and resized with antialiasing to [N, size, size]."""
    height, width = slices.shape[1:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    padded = F.pad(slices, (left, side - width - left, top, side - height - top))
    return F.interpolate(padded[:, None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[:, 0]
