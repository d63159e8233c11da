"""Where real images lie, if they are there: tests that need the images skip without them."""

from pathlib import Path

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
TINY_COCO, BCCD = REAL_DATA / "tiny_coco", REAL_DATA / "bccd"
