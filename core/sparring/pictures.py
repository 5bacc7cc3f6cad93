"""Pictures: one sheet on which a person sees at once what leaks, originals above what an attack made of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from torch import Tensor

CELL, MARGIN, GAP, LABEL, TEXT = 112, 20, 12, 200, 15
"""Pixels: least height and width of an image, edge of the sheet, space between cells, width of labels, size of the font."""
INK, FAINT, RULE = (24, 24, 28), (104, 106, 114), (208, 210, 216)
PAPER, BLANK, HATCH = (255, 255, 255), (236, 237, 240), (214, 216, 222)

SPELT = {"ε": "epsilon", "δ": "delta", "σ": "sigma", "×": "x", "≥": ">=", "≤": "<=", "≫": ">>", "±": "+-", "∞": "inf", "–": "-"}


@dataclass(frozen=True)
class PictureRow:
    """A labelled row of ``images`` [C, H, W] or [H, W] in [0, 1], each with a caption such as ``31.2 dB``.

    Where an image is None, or the row is shorter than another, stands a hatched cell that says ``absent``.
    """

    label: str
    images: Sequence[Tensor | None] = ()
    captions: Sequence[str] = ()
    absent: str = "blind"


def contact_sheet(rows: Sequence[PictureRow], path: Path, scale: int | None = None) -> Path:
    """Write ``rows`` under one another to a PNG at ``path``; the first, the originals, stands above a line.

    Every pixel becomes ``scale`` x ``scale`` pixels (default: so many that an image is about 112 pixels wide). Values
    outside [0, 1] are clamped, NaN is black, and images of neither one nor three channels show the mean over channels.
    """
    arrays = [[None if image is None else pixels(image) for image in row.images] for row in rows]
    shapes = [array.shape for row in arrays for array in row if array is not None] or [(1, 1, 3)]
    height, width = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    scale = scale or max(1, round(CELL / max(height, width)))
    height, width = max(height * scale, CELL // 2), max(width * scale, CELL // 2)
    font = ImageFont.load_default(TEXT)
    captions = [[_legible(text) for text in row.captions] for row in rows]
    width = max([width, *(round(font.getlength(text)) for row in captions for text in row)])
    labels = [_wrapped(row.label, font) for row in rows]
    line = TEXT + 5
    heights = [
        max(height + (line + 2 if any(row.captions) else 0), len(label) * line) for row, label in zip(rows, labels, strict=True)
    ]
    columns = max([len(row) for row in arrays] + [1])
    size = (
        2 * MARGIN + LABEL + columns * (width + GAP),
        2 * MARGIN + sum(heights) + 2 * GAP * max(len(rows) - 1, 0),
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for k, (row, images, label) in enumerate(zip(rows, arrays, labels, strict=True)):
        for n, text in enumerate(label):
            draw.text((MARGIN, top + height / 2 + (n - (len(label) - 1) / 2) * line), text, INK, font, anchor="lm")
        for column in range(columns):
            left = MARGIN + LABEL + GAP + column * (width + GAP)
            image = images[column] if column < len(images) else None
            if image is None:
                sheet.paste(_absent(width, height, _legible(row.absent), font), (left, top))
            else:
                big = Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1))
                at = left + (width - big.width) // 2, top + (height - big.height) // 2
                sheet.paste(big, at)
                draw.rectangle((at[0] - 1, at[1] - 1, at[0] + big.width, at[1] + big.height), outline=RULE)
            if column < len(captions[k]):
                draw.text((left + width / 2, top + height + 6), captions[k][column], FAINT, font, anchor="ma")
        top += heights[k] + GAP
        if k == 0 and len(rows) > 1:
            draw.line((MARGIN, top, size[0] - MARGIN, top), RULE, 1)
        top += GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG", optimize=True)
    return path


def pixels(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An image [C, H, W] or [H, W] in [0, 1] as bytes [H, W, 3]."""
    values = image.detach().cpu().float().nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
    if values.dim() == 2:
        values = values[None]
    if values.dim() != 3:
        raise ValueError(f"an image has shape [C, H, W] or [H, W], got {list(image.shape)}")
    if values.shape[0] not in (1, 3):
        values = values.mean(0, keepdim=True)
    shown: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = (values * 255).round().byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))


def _absent(width: int, height: int, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> Image.Image:
    cell = Image.new("RGB", (width, height), BLANK)
    draw = ImageDraw.Draw(cell)
    for at in range(-height, width, 9):
        draw.line((at, height, at + height, 0), HATCH, 1)
    box = draw.textbbox((width / 2, height / 2), text, font, anchor="mm")
    draw.rectangle((box[0] - 5, box[1] - 4, box[2] + 5, box[3] + 4), BLANK)
    draw.text((width / 2, height / 2), text, FAINT, font, anchor="mm")
    draw.rectangle((0, 0, width - 1, height - 1), outline=RULE)
    return cell


def _legible(text: str) -> str:
    """``text`` in the characters of the bundled font, which has ASCII alone."""
    spelt = text.translate({ord(sign): word for sign, word in SPELT.items()})
    return unicodedata.normalize("NFKD", spelt).encode("ascii", "ignore").decode()


def _wrapped(label: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """``label`` broken to the width of the labels, between words where it can be."""
    lines = [""]
    for word in _legible(label).split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= LABEL:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > LABEL:
                lines.append("")
            lines[-1] += letter
    return lines
