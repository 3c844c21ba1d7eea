"""The pictures of the documentation: small, shown by a page, and with their rare colours."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="no docs beside the tests")
PICTURES = [p for name in ("gallery", "images") for p in sorted((DOCS / name).glob("*.png"))]


def test_every_picture_is_shown_by_a_page_and_small():
    shown = {
        (page.parent / target).resolve()
        for page in DOCS.rglob("*.md")
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", page.read_text())
    }
    assert PICTURES
    assert {p.resolve() for p in PICTURES} <= shown
    assert all(picture.is_file() for picture in shown)
    sizes = [picture.stat().st_size for picture in PICTURES]
    assert max(sizes) <= 150_000
    assert sum(sizes) <= 1_200_000


def test_rare_colours_survive_and_others_go_to_the_nearest():
    gallery = importlib.import_module("experiments.gallery")
    greys = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    pixels = np.concatenate([greys] * 3 + [greys.copy()])
    pixels[-1, -1] = (0, 100, 60)  # one green pixel
    palette, index = gallery.quantised(pixels)
    assert palette.shape == (256, 3)
    seen = palette[index]
    assert tuple(seen[-1, -1]) == (0, 100, 60)
    assert np.abs(seen.astype(int) - pixels).max() <= 1
