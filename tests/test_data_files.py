"""Images and masks as files: what is read exactly, what is refused."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from edgeinc.data._files import encode_png, read_image, read_mask
from edgeinc.errors import DataError

IDS = (np.arange(20 * 16) % 5).astype(np.uint8).reshape(16, 20)


def _picture(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack((x * 4, y * 5, 255 - x * 4), axis=-1).astype(np.uint8)


def _png(ids: np.ndarray, depth: int, kind: int, extra: bytes = b"") -> bytes:
    """A PNG written bit by bit from the format's definition."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = ids.shape
    rows = b""
    for row in ids.tolist():
        bits = "".join(format(value, f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        extra,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _palette() -> bytes:
    colors = bytes([200, 1, 2, 3, 4, 5, 128, 0, 0, 0, 128, 0, 9, 9, 9])
    body = b"PLTE" + colors
    return struct.pack(">I", len(colors)) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [(".png", 0), (".bmp", 0), (".jpg", 12), (".webp", 20)]
)
def test_image_is_rgb(tmp_path, suffix, tolerance):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), _picture()[..., ::-1])
    image = read_image(path)
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - _picture()).mean() <= tolerance


def test_grey_image_gets_three_equal_channels(tmp_path):
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), IDS * 40)
    assert (read_image(path) == (IDS * 40)[..., None]).all()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".webp"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_image_is_refused(tmp_path, suffix, part):
    path = tmp_path / f"cut{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(DataError, match=r"cut\.\w+ is truncated"):
        read_image(path)


def test_thumbnail_does_not_hide_a_truncated_jpeg(tmp_path):
    content = cv2.imencode(".jpg", _picture(64, 64))[1].tobytes()
    # An APP1 segment that holds a whole small JPEG, end marker included, as cameras write it.
    thumbnail = cv2.imencode(".jpg", _picture(8, 8))[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole, path = content[:2] + segment + content[2:], tmp_path / "photo.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(whole[:-200])
    with pytest.raises(DataError, match=r"photo\.jpg is truncated"):
        read_image(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am text", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.png"):
        read_image(path)
    with pytest.raises(DataError, match=r"odd\.png"):
        read_mask(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"image .*nowhere\.png is missing"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"mask .*nowhere\.png is missing"):
        read_mask(tmp_path / "nowhere.png")


@pytest.mark.parametrize(
    ("depth", "palette"), [(8, False), (4, False), (8, True), (4, True)], ids=str
)
def test_mask_holds_the_stored_numbers(tmp_path, depth, palette):
    path = tmp_path / "mask.png"
    path.write_bytes(_png(IDS, depth, 3 if palette else 0, _palette() if palette else b""))
    assert (read_mask(path) == IDS).all()


@pytest.mark.parametrize("depth", [1, 2])
def test_mask_of_few_bits_is_not_stretched(tmp_path, depth):
    path = tmp_path / "mask.png"
    ids = IDS % 2**depth
    path.write_bytes(_png(ids, depth, 0))
    assert (read_mask(path) == ids).all()


def test_mask_round_trip_keeps_every_id(tmp_path):
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = tmp_path / "all.png"
    path.write_bytes(encode_png(ids))
    assert (read_mask(path) == ids).all()


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (_picture(), r"color\.png has 3 channels; save it as a single-channel PNG of class ids"),
        (np.dstack([_picture(), _picture()[..., :1]]), r"color\.png has 4 channels"),
        (IDS.astype(np.uint16), r"color\.png has 16 bits"),
    ],
    ids=["rgb", "rgba", "16 bit"],
)
def test_mask_that_is_not_one_byte_per_pixel_is_refused(tmp_path, pixels, says):
    path = tmp_path / "color.png"
    cv2.imwrite(str(path), pixels)
    with pytest.raises(DataError, match=says):
        read_mask(path)


def test_mask_must_be_lossless(tmp_path):
    path = tmp_path / "mask.jpg"
    cv2.imwrite(str(path), IDS)
    with pytest.raises(DataError, match=r"mask\.jpg is not a PNG"):
        read_mask(path)


def test_damaged_mask_is_refused(tmp_path):
    path = tmp_path / "bad.png"
    content = bytearray(_png(IDS, 8, 0))
    content[60] ^= 0x10
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"bad\.png is damaged"):
        read_mask(path)


def test_claimed_size_is_limited(tmp_path):
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)
    body = b"IHDR" + header
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body
    tail = _png(IDS, 8, 0)[33:]
    path.write_bytes(start + struct.pack(">I", zlib.crc32(body)) + tail)
    with pytest.raises(DataError, match=r"bomb\.png claims"):
        read_mask(path)
    with pytest.raises(DataError, match=r"bomb\.png claims"):
        read_image(path)


def test_names_may_have_spaces_and_any_letters(tmp_path):
    path = tmp_path / "Straße im März 街.png"
    path.write_bytes(encode_png(_picture()))
    assert (read_image(path) == _picture()).all()
