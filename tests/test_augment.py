"""Augmentation: one geometry for image and mask, no new ids, decided by the generator alone."""

import numpy as np
import pytest

from edgeinc.data._augment import augment, resize, resize_image, resize_mask
from edgeinc.data.streets import render

SIZE = (48, 64)


def _ramp(height: int = 180, width: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red tells the column and green the row; the mask has four quadrants."""
    y, x = np.mgrid[:height, :width]
    image = np.stack((x * 255 / width, y * 255 / height, 0 * x), axis=-1).astype(np.uint8)
    return image, (2 * (y >= height // 2) + (x >= width // 2)).astype(np.uint8)


def test_same_generator_same_result():
    image, mask = render(0, (96, 128))
    first = augment(image, mask, rng=np.random.default_rng(5), size=SIZE)
    again = augment(image, mask, rng=np.random.default_rng(5), size=SIZE)
    other = augment(image, mask, rng=np.random.default_rng(6), size=SIZE)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).any()


def test_input_stays_as_it_is():
    image, mask = render(0, SIZE)
    before = image.copy(), mask.copy()
    for seed in range(10):
        out, ids = augment(image, mask, rng=np.random.default_rng(seed), size=SIZE)
        out[:] = 0
        ids[:] = 0
    assert (image == before[0]).all()
    assert (mask == before[1]).all()


@pytest.mark.parametrize("source", [(37, 53), (180, 240), (48, 64), (20, 500)])
def test_any_source_size(source):
    image, mask = render(1, source)
    for seed in range(20):
        out, ids = augment(image, mask, rng=np.random.default_rng(seed), size=SIZE)
        assert out.shape == (*SIZE, 3)
        assert ids.shape == SIZE
        assert out.dtype == ids.dtype == np.uint8
        assert set(np.unique(ids)) <= set(np.unique(mask))


def test_image_and_mask_move_together():
    """The last quadrant is blue in the image and 3 in the mask: whatever part is cut, flipped and
    recoloured, the blue pixels and the pixels of id 3 are the same ones."""
    image, mask = _ramp()
    image[..., 2] = np.where(mask == 3, 255, 0)
    compared = 0
    for seed in range(40):
        out, ids = augment(image, mask, rng=np.random.default_rng(seed), size=(96, 128))
        if 0.05 < (ids == 3).mean() < 0.95:
            # The colours are mixed with those of the ramp, by a fifth at most.
            assert ((out[..., 2] > 127) != (ids == 3)).sum() < 0.01 * ids.size
            compared += 1
    assert compared > 20


def test_flips_half_of_the_time():
    image, mask = _ramp()
    flipped = 0
    for seed in range(400):
        _, ids = augment(image, mask, rng=np.random.default_rng(seed), size=SIZE, zoom=(1.0, 1.0))
        flipped += bool(ids[0, 0] == 1)
    assert 160 < flipped < 240


def test_zoom_is_spread_over_its_range():
    rows = np.repeat(np.arange(240, dtype=np.uint8)[:, None], 300, axis=1)
    image = np.zeros((240, 300, 3), np.uint8)
    seen = [
        len(np.unique(augment(image, rows, rng=np.random.default_rng(s), size=(240, 300))[1]))
        for s in range(200)
    ]
    assert 159 <= min(seen) < 170
    assert 230 < max(seen) <= 240


@pytest.mark.parametrize(("zoom", "share"), [(1.0, 1.0), (1.25, 1 / 1.25), (1.5, 1 / 1.5)])
def test_zoom_cuts_that_part_of_each_side(zoom, share):
    """Every row and column of the source has its own id: count how many are left."""
    rows = np.repeat(np.arange(240, dtype=np.uint8)[:, None], 300, axis=1)
    image = np.zeros((240, 300, 3), np.uint8)
    starts = set()
    for seed in range(30):
        _, ids = augment(
            image, rows, rng=np.random.default_rng(seed), size=(240, 300), zoom=(zoom, zoom)
        )
        seen = np.unique(ids)
        assert abs(len(seen) - share * 240) <= 1
        assert seen[-1] - seen[0] == len(seen) - 1
        starts.add(int(seen[0]))
    assert len(starts) == 1 if zoom == 1.0 else len(starts) > 10


def test_colors_change_but_stay_near():
    image = np.full((8, 8, 3), 128, np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    means = [
        augment(image, mask, rng=np.random.default_rng(s), size=(8, 8))[0].mean()
        for s in range(200)
    ]
    # Grey 128 keeps its saturation; contrast turns around it, so brightness alone is left,
    # times the contrast of the step away from 128: 128 * (c * b + 1 - c).
    assert 128 * (1.2 * 0.8 - 0.2) - 1 <= min(means) < 110
    assert 146 < max(means) <= 128 * (1.2 * 1.2 - 0.2) + 1


def test_resize_keeps_pixel_centres():
    """Shrinking by 2 takes the mask at the same places as the image: an edge stays an edge."""
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 7
    image = np.repeat((mask * 30)[..., None], 3, axis=2)
    small, ids = resize(image, mask, (20, 20))
    assert ((ids == 7) == (small[..., 0] > 105)).all()
    large, ids = resize(image, mask, (100, 100))
    assert ((ids == 7) == (large[..., 0] > 105)).mean() > 0.98


def test_resize_to_the_same_size_copies():
    image, mask = render(2, SIZE)
    out, ids = resize_image(image, SIZE), resize_mask(mask, SIZE)
    assert (out == image).all()
    assert (ids == mask).all()
    assert not np.shares_memory(out, image)
    assert not np.shares_memory(ids, mask)


def test_sizes_must_agree():
    image, mask = np.zeros((8, 9, 3), np.uint8), np.zeros((9, 8), np.uint8)
    with pytest.raises(ValueError, match=r"\(8, 9\).*\(9, 8\)"):
        augment(image, mask, rng=np.random.default_rng(0), size=(8, 8))
    with pytest.raises(ValueError, match=r"\(8, 9\).*\(9, 8\)"):
        resize(image, mask, (8, 8))
