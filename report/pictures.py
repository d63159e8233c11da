"""Small pictures as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

#: Pixels of a thumbnail, at most, along its longer side.
SIDE = 320
#: From near to far: blue, grey, yellow. It grows lighter evenly, so that colour-blind eyes and a
#: print in black tell places apart.
_SCALE = ((0, 34, 78), (124, 123, 120), (254, 232, 56))


def thumbnail(file: Path) -> str | None:
    """An image as a small JPEG, turned as detectors see it; None if it can't be read."""
    from PIL import Image, ImageOps  # not above: a page without pictures needs none

    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    image.thumbnail((SIDE, SIDE))
    return _uri(image, "JPEG", quality=75)


def heat_picture(rows: Sequence[Sequence[float]], hottest: float) -> str:
    """Numbers (h, w) from 0 to ``hottest`` as a PNG of as many pixels."""
    from PIL import Image

    share = np.clip(np.array(rows, float) / (hottest or 1.0), 0, 1)
    places = np.linspace(0, 1, len(_SCALE))
    channels = [np.interp(share, places, values) for values in zip(*_SCALE, strict=True)]
    return _uri(Image.fromarray(np.stack(channels, axis=2).round().astype(np.uint8)), "PNG")


def _uri(image: object, kind: str, **options: int) -> str:
    kept = io.BytesIO()
    image.save(kept, kind, **options)  # type: ignore[attr-defined]
    return f"data:image/{kind.lower()};base64,{base64.b64encode(kept.getvalue()).decode()}"
