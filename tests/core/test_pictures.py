"""Pictures: what is on the sheet is what was given, enlarged pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from torch import Tensor

from sparring.pictures import CELL, GAP, LABEL, MARGIN, PAPER, TEXT, PictureRow, _wrapped, contact_sheet, pixels


def sheet(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def placed(page: np.ndarray, image: Tensor, scale: int) -> list[tuple[int, int]]:
    """Where (top, left) the enlarged image stands on the page."""
    big = pixels(image).repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = big.shape[:2]
    corners = np.argwhere((page[: page.shape[0] - height + 1, : page.shape[1] - width + 1] == big[0, 0]).all(-1))
    return [(int(y), int(x)) for y, x in corners if np.array_equal(page[y : y + height, x : x + width], big)]


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (3, 32, 32), (3, 20, 30), (8, 8)])
@pytest.mark.parametrize("scale", [None, 1, 3])
def test_every_image_stands_on_the_sheet_once(shape: tuple[int, ...], scale: int | None, tmp_path: Path) -> None:
    originals, found = [image(*shape, seed=k) for k in (0, 1)], [image(*shape, seed=k) for k in (2, 3)]
    path = contact_sheet(
        [PictureRow("originals", originals), PictureRow("no defence", found, ["31.2 dB", "29.0 dB"])],
        tmp_path / "pictures" / "a.png",
        **({} if scale is None else {"scale": scale}),
    )
    page, factor = sheet(path), scale or max(1, round(CELL / max(shape)))
    spots = [placed(page, x, factor) for x in (*originals, *found)]
    assert all(len(spot) == 1 for spot in spots)
    (a, b), (c, d) = ((spots[0][0], spots[1][0]), (spots[2][0], spots[3][0]))
    assert a[0] == b[0] < c[0] == d[0]
    assert a[1] == c[1] < b[1] == d[1]


def test_the_size_of_a_sheet(tmp_path: Path) -> None:
    rows = [PictureRow("originals", [image(28, 28)] * 3), PictureRow("again", [image(28, 28)] * 3)]
    page = sheet(contact_sheet(rows, tmp_path / "a.png"))
    assert page.shape == (2 * MARGIN + 2 * 112 + 2 * GAP, 2 * MARGIN + LABEL + 3 * (112 + GAP), 3)
    assert tuple(page[0, 0]) == PAPER


def test_a_blind_row_has_a_marked_cell_in_each_column(tmp_path: Path) -> None:
    first = PictureRow("originals", [torch.zeros(28, 28)] * 2)
    empty = sheet(contact_sheet([first, PictureRow("secure-aggregation")], tmp_path / "a.png"))
    none = sheet(contact_sheet([first, PictureRow("secure-aggregation", [None, None])], tmp_path / "b.png"))
    other = sheet(contact_sheet([first, PictureRow("secure-aggregation", absent="no run")], tmp_path / "c.png"))
    assert np.array_equal(empty, none)
    assert not np.array_equal(empty, other)
    cells = empty[MARGIN + 112 + 2 * GAP :, MARGIN + LABEL + GAP :]
    left, right = cells[:112, :112], cells[:112, 112 + GAP : 224 + GAP]
    assert np.array_equal(left, right)
    assert len(np.unique(left.reshape(-1, 3), axis=0)) > 3


def test_values_outside_the_range_are_clamped() -> None:
    shown = pixels(torch.tensor([[-1.0, 0.0, 0.5], [1.0, 2.0, float("nan")]]))
    assert shown[..., 0].tolist() == [[0, 0, 128], [255, 255, 0]]
    assert (shown == shown[..., :1]).all()


def test_odd_channels_show_their_mean_and_other_shapes_are_refused() -> None:
    x = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    assert (pixels(x) == 128).all()
    with pytest.raises(ValueError, match=r"\[C, H, W\] or \[H, W\], got \[4\]"):
        pixels(torch.zeros(4))


def test_labels_stay_left_of_the_images(tmp_path: Path) -> None:
    font = ImageFont.load_default(TEXT)
    for label in ("norm-clip >> gauss-noise, noise multiplier 0.01", "x" * 90, "dp-sgd (ε = 3.2)", ""):
        assert all(font.getlength(line) <= LABEL for line in _wrapped(label, font))
    assert " ".join(_wrapped("dp-sgd (ε = 3.2, δ ≤ 1e-5) é", font)) == "dp-sgd (epsilon = 3.2, delta <= 1e-5) e"
    page = sheet(contact_sheet([PictureRow("long " * 40, [image(8, 8)])], tmp_path / "a.png"))
    gap = page[:, MARGIN + LABEL + 1 : MARGIN + LABEL + GAP - 1]
    assert (gap == 255).all()


def test_captions_fit(tmp_path: Path) -> None:
    row = PictureRow("originals", [image(8, 8)] * 2, ["a caption that is wider than its image"] * 2)
    page = sheet(contact_sheet([row], tmp_path / "a.png"))
    assert (page[:, -MARGIN + 2 :] == 255).all()
    assert (page[-MARGIN + 6 :] == 255).all()


def test_equal_input_gives_equal_files(tmp_path: Path) -> None:
    rows = [PictureRow("originals", [image(8, 8)])]
    assert contact_sheet(rows, tmp_path / "a.png").read_bytes() == contact_sheet(rows, tmp_path / "b.png").read_bytes()
