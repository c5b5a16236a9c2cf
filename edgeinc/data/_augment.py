"""What training changes in an image and its mask, and how both are brought to the network's size.

Rules: image and mask always share one geometry, pixel centres on pixel centres; the mask is never
interpolated, so no id appears that was not there; everything random comes from the caller's
generator, and every call draws the same number of values from it.

    image, mask = augment(image, mask, rng=np.random.default_rng(0), size=(144, 192))
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edgeinc.data import Image, Mask
from edgeinc.schema import Size

__all__ = ["augment", "resize", "resize_image", "resize_mask"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def augment(
    image: Image,
    mask: Mask,
    *,
    rng: np.random.Generator,
    size: Size,
    zoom: tuple[float, float] = (1.0, 1.5),
    color_jitter: float = 0.2,
) -> tuple[Image, Mask]:
    """Cut a random part, bring it to `size`, flip it half of the time and vary its colours.

    Args:
        image: (H, W, 3) RGB.
        mask: (H, W) ids.
        rng: Source of every random choice.
        size: (height, width) of the result.
        zoom: Range of the factor by which things grow; the part cut out is 1 / factor of each
            side of the image (Klingner et al. 2020 rescale by 1 to 1.5).
        color_jitter: Half width of the gains of brightness, contrast and saturation around 1
            (Klingner et al. 2020: 0.2); 0 leaves colours as they are.

    Returns:
        New arrays (h, w, 3) and (h, w); the input stays as it is.

    Raises:
        ValueError: Image and mask differ in size.
    """
    _same_size(image, mask)
    height, width = mask.shape
    factor = rng.uniform(*zoom)
    part_h, part_w = max(1, round(height / factor)), max(1, round(width / factor))
    top, left = rng.integers(height - part_h + 1), rng.integers(width - part_w + 1)
    part = np.s_[top : top + part_h, left : left + part_w]
    flipped = rng.random() < 0.5
    colors = _color_matrix(rng, color_jitter)
    image, mask = resize(image[part], mask[part], size)
    if flipped:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)  # type: ignore[assignment]
    if not color_jitter:
        return image, mask
    return cv2.transform(image, colors), mask  # type: ignore[return-value]


def resize(image: Image, mask: Mask, size: Size) -> tuple[Image, Mask]:
    """Image and mask at `size` (height, width), as evaluation and training both see them.

    Raises:
        ValueError: Image and mask differ in size.
    """
    _same_size(image, mask)
    return resize_image(image, size), resize_mask(mask, size)


def resize_image(image: Image, size: Size) -> Image:
    """The image (H, W, 3) at `size`, bilinear; a new array also where nothing changes."""
    if image.shape[:2] == size:
        return image.copy()
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


def resize_mask(mask: Mask, size: Size) -> Mask:
    """The mask (H, W) at `size`: each pixel takes the id under its centre."""
    if mask.shape == size:
        return mask.copy()
    # INTER_NEAREST takes the upper left instead of the centre: half a pixel beside the image.
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[return-value]


def _color_matrix(rng: np.random.Generator, jitter: float) -> npt.NDArray[np.float32]:
    """One affine colour map (3, 4) for brightness, contrast around mid-grey, and saturation."""
    brightness, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, 3)
    mix = saturation * np.eye(3) + (1 - saturation) * _LUMA
    offset = np.full((3, 1), 128 * (1 - contrast))
    return np.concatenate((brightness * contrast * mix, offset), axis=1).astype(np.float32)


def _same_size(image: Image, mask: Mask) -> None:
    if image.shape[:2] != mask.shape:
        raise ValueError(f"the image is {image.shape[:2]}, its mask {mask.shape}")
