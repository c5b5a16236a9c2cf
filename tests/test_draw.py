"""Pictures of masks: colours where they belong, sheets that fit together."""

import numpy as np
import pytest

from edgeinc.data import Label
from edgeinc.draw import colorize, contact_sheet, legend, overlay, palette, side_by_side

LABELS = (Label(0, "road", (10, 20, 30)), Label(7, "car", (200, 100, 0)))
IDS = np.array([[0, 7], [255, 9]], np.uint8)


def test_palette_has_a_colour_for_every_id():
    colors = colorize(IDS, palette(LABELS))
    assert colors[0, 0].tolist() == [10, 20, 30]
    assert colors[0, 1].tolist() == [200, 100, 0]
    assert colors[1, 0].tolist() == [0, 0, 0]
    assert colors[1, 1].tolist() not in [[0, 0, 0], [10, 20, 30], [200, 100, 0]]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_overlay_mixes_and_keeps_void(alpha):
    image = np.full((2, 2, 3), 100, np.uint8)
    mixed = overlay(image, IDS, palette(LABELS), alpha=alpha)
    expected = [100 * (1 - alpha) + c * alpha for c in (200, 100, 0)]
    assert np.abs(mixed[0, 1] - expected).max() <= 0.5
    assert mixed[1, 0].tolist() == [100, 100, 100]
    assert (image == 100).all()


def test_overlay_needs_one_size():
    with pytest.raises(ValueError, match="image is"):
        overlay(np.zeros((3, 2, 3), np.uint8), IDS, palette(LABELS))


def test_legend_wraps_and_shows_every_colour():
    names = [f"class number {i}" for i in range(20)]
    colors = [(i, 255 - i, 9) for i in range(20)]
    narrow, wide = legend(names, colors, width=300), legend(names, colors, width=4000)
    assert narrow.shape[1] == 300
    assert narrow.shape[0] > 5 * wide.shape[0]
    for picture in (narrow, wide):
        pixels = {tuple(p) for p in picture.reshape(-1, 3).tolist()}
        assert set(colors) <= pixels
    assert legend(["a name much wider than the strip"], [(1, 2, 3)], width=10).shape[1] > 200


def test_side_by_side_takes_the_first_height():
    first, second = np.zeros((40, 30, 3), np.uint8), np.full((80, 20, 3), 9, np.uint8)
    both = side_by_side([first, second], gap=5)
    assert both.shape == (40, 30 + 5 + 10, 3)
    assert (both[:, :30] == 0).all()
    assert (both[:, 30:35] == 255).all()
    assert (both[:, 35:] == 9).all()
    with pytest.raises(ValueError, match="no picture"):
        side_by_side([])


def test_sheet_repeats_the_pixels_of_small_pictures():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 250, (6, 8, 3), np.uint8)
    sheet = contact_sheet([[small]], cell_width=80)
    cell = small.repeat(10, axis=0).repeat(10, axis=1)
    places = [
        (y, x)
        for y in range(sheet.shape[0] - 59)
        for x in range(sheet.shape[1] - 79)
        if (sheet[y, x] == cell[0, 0]).all() and (sheet[y : y + 60, x : x + 80] == cell).all()
    ]
    assert places


def test_sheet_holds_rows_titles_captions_and_footer():
    cell = np.full((50, 100, 3), 77, np.uint8)
    plain = contact_sheet([[cell, cell], [cell]], cell_width=100)
    footer = legend(["a"], [(1, 2, 3)], width=900)
    full = contact_sheet(
        [[cell, cell], [cell]],
        titles=["one", "two"],
        captions=[["x", "y" * 200], ["z"]],
        footer=footer,
        cell_width=100,
    )
    assert (plain == 77).all(axis=-1).sum() == 3 * 50 * 100
    assert full.shape[0] > plain.shape[0] + 3 * 20
    assert full.shape[1] == 900
    with pytest.raises(ValueError, match="captions for 1 rows, but 2 rows"):
        contact_sheet([[cell], [cell]], captions=[["x"]])
    with pytest.raises(ValueError, match="no picture"):
        contact_sheet([])
