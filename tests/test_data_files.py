"""Images and masks as files: what is read exactly, what is refused."""

import struct
import unicodedata
import zlib

import cv2
import numpy as np
import pytest

from edgeinc.data._files import (
    encode_png,
    header_of,
    read_color_mask,
    read_image,
    read_mask,
    read_pair,
)
from edgeinc.data._headers import turned
from edgeinc.data.folder import Folder
from edgeinc.errors import DataError, UsageError
from edgeinc.schema import VOID

IDS = (np.arange(20 * 16) % 5).astype(np.uint8).reshape(16, 20)


def _picture(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack((x * 4, y * 5, 255 - x * 4), axis=-1).astype(np.uint8)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(ids: np.ndarray, depth: int, kind: int, extra: bytes = b"") -> bytes:
    """A PNG written bit by bit from the format's definition."""
    height, width = ids.shape
    rows = b""
    for row in ids.tolist():
        bits = "".join(format(value, f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    return _assembled((height, width), depth, kind, zlib.compress(rows), extra)


def _assembled(size, depth: int, kind: int, stream: bytes, extra: bytes = b"") -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", stream) + _chunk(b"IEND", b"")


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


# ------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_wrong_checksum_is_refused(tmp_path, read):
    path = tmp_path / "bad.png"
    content = bytearray(_png(IDS, 8, 0))
    content[-20] ^= 1  # in the pixels
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"bad\.png is damaged: checksum of a b'IDAT' chunk"):
        read(path)


_STREAM = zlib.compress(b"".join(b"\0" + row.tobytes() for row in IDS))


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (b"\xff" * len(_STREAM), "cannot be unpacked"),
        (_STREAM[: len(_STREAM) // 2], "end early"),
        (_STREAM[:-4] + bytes(4), "cannot be unpacked"),
    ],
    ids=["noise", "cut", "sum"],
)
def test_pixels_that_cannot_be_unpacked_are_one_line(tmp_path, capfd, stream, says):
    path = tmp_path / "a.png"
    path.write_bytes(_assembled(IDS.shape, 8, 0, stream))
    with pytest.raises(DataError, match=rf"a\.png is damaged: its pixels {says}"):
        read_mask(path)
    assert capfd.readouterr().err == ""  # the decoder would write a line of its own
    with pytest.raises(DataError, match=r"a\.png is not an image, or it is damaged"):
        read_image(path)


def test_alpha_of_an_image_is_dropped_and_16_bits_become_8(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.dstack([_picture()[..., ::-1], np.full((40, 60), 7, np.uint8)]))
    assert (read_image(path) == _picture()).all()
    cv2.imwrite(str(path), _picture()[..., ::-1].astype(np.uint16) * 257)
    assert (read_image(path) == _picture()).all()


def test_another_format_is_refused_whatever_its_name(tmp_path):
    path = tmp_path / "scan.png"
    path.write_bytes(cv2.imencode(".tiff", _picture())[1].tobytes())
    with pytest.raises(DataError, match=r"scan\.png is not an image"):
        read_image(path)


# ------------------------------------------------------------------------------ size


def _claiming(suffix: str, width: int, height: int) -> bytes:
    """A small file whose header claims another size."""
    if suffix == ".png":
        return _assembled((height, width), 8, 2, zlib.compress(b"\0" * 100))
    content = bytearray(cv2.imencode(suffix, _picture())[1].tobytes())
    if suffix == ".jpg":
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", height, width)
    elif suffix == ".bmp":
        content[18:26] = struct.pack("<ii", width, height)
    else:
        extended = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        content[12:12] = b"VP8X" + struct.pack("<I", 10) + extended
        content[4:8] = struct.pack("<I", len(content) - 8)
    return bytes(content)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"wide{suffix}"
    path.write_bytes(_claiming(suffix, 40_000, 40))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"wide\.\w+ claims 40000 x 40 pixels.*16384") as caught:
        read_image(path)
    assert "EDGEINC_MAX_IMAGE_SIDE=40000" in caught.value.hint


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_headers_tell_the_size(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), _picture())
    assert header_of(path) == ((40, 60), 1)
    cv2.imwrite(str(tmp_path / "l.webp"), _picture(), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert header_of(tmp_path / "l.webp").size == (40, 60)


def test_the_limit_can_be_raised_and_lowered(tmp_path, monkeypatch):
    path = tmp_path / "wide.png"
    path.write_bytes(encode_png(np.zeros((1, 17_000), np.uint8)))
    with pytest.raises(DataError, match="17000 x 1"):
        read_mask(path)
    monkeypatch.setenv("EDGEINC_MAX_IMAGE_SIDE", "17000")
    assert read_mask(path).shape == (1, 17_000)
    monkeypatch.setenv("EDGEINC_MAX_IMAGE_SIDE", "16999")
    with pytest.raises(DataError, match="the limit is 16999 per side"):
        read_image(path)
    monkeypatch.setenv("EDGEINC_MAX_IMAGE_SIDE", "large")
    with pytest.raises(UsageError, match="EDGEINC_MAX_IMAGE_SIDE=large"):
        read_image(path)


def test_all_pixels_together_are_limited(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINC_MAX_IMAGE_SIDE", "50000")
    path = tmp_path / "big.png"
    path.write_bytes(_claiming(".png", 40_000, 40_000))
    with pytest.raises(DataError, match=r"40000 x 40000 pixels, the limit is 268435456 in all"):
        read_image(path)


# ------------------------------------------------------------------------------ orientation


def _exif(orientation: int, order: str = "<") -> bytes:
    """A TIFF block with that one tag."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return start + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


def _tagged(suffix: str, pixels: np.ndarray, orientation: int, order: str = "<") -> bytes:
    content = cv2.imencode(suffix, pixels, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    block = _exif(orientation, order)
    if suffix == ".png":
        return content[:33] + _chunk(b"eXIf", block) + content[33:]
    if suffix == ".jpg":
        segment = b"Exif\0\0" + block
        length = struct.pack(">H", len(segment) + 2)
        return content[:2] + b"\xff\xe1" + length + segment + content[2:]
    width, height = pixels.shape[1] - 1, pixels.shape[0] - 1
    extended = b"\x08\0\0\0" + width.to_bytes(3, "little") + height.to_bytes(3, "little")
    chunks = b"WEBPVP8X" + struct.pack("<I", 10) + extended + content[12:]
    chunks += b"EXIF" + struct.pack("<I", len(block)) + block
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


# Where the first row and the first column of the stored pixels are shown (EXIF 2.3, table 6).
_SHOWN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def _edge(pixels: np.ndarray, side: str) -> np.ndarray:
    return {"top": pixels[0], "bottom": pixels[-1], "left": pixels[:, 0], "right": pixels[:, -1]}[
        side
    ]


@pytest.mark.parametrize("orientation", _SHOWN)
def test_pixels_are_turned_as_the_standard_says(orientation):
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    row, column = _SHOWN[orientation]
    shown = turned(stored, orientation)
    assert set(_edge(shown, row).tolist()) == {1, 2, 3}
    assert set(_edge(shown, column).tolist()) == {1, 4}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_every_format_is_turned_by_its_tag(tmp_path, suffix, order):
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 255  # the first rows and columns
    path = tmp_path / f"turned{suffix}"
    path.write_bytes(_tagged(suffix, stored, 6, order))
    shown = read_image(path)
    assert shown.shape == (32, 16, 3)
    assert shown[:8, 8:].min() > 200  # rows went to the right, columns to the top
    assert shown[10:].max() < 60
    assert shown.flags.c_contiguous
    assert header_of(path) == ((16, 32), 6)


@pytest.mark.parametrize("block", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"nonsense" * 3])
def test_an_unreadable_tag_turns_nothing(tmp_path, block):
    path = tmp_path / "a.png"
    content = encode_png(IDS)
    path.write_bytes(content[:33] + _chunk(b"eXIf", block) + content[33:])
    assert (read_mask(path) == IDS).all()
    path.write_bytes(_tagged(".png", IDS, 9))
    assert (read_mask(path) == IDS).all()


def test_a_mask_is_turned_by_its_own_tag(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(_tagged(".png", IDS, 6))
    assert (read_mask(path) == np.rot90(IDS, -1)).all()


def _pair(root, image: bytes, mask: np.ndarray) -> Folder:
    for name in ("images", "masks"):
        (root / name).mkdir()
    (root / "images" / "a.jpg").write_bytes(image)
    (root / "masks" / "a.png").write_bytes(encode_png(mask))
    classes = "".join(f'[[class]]\nid={i}\nname="c{i}"\ncolor=[{i},0,0]\n' for i in range(5))
    (root / "classes.toml").write_text(classes)
    return Folder(root)


def test_a_mask_drawn_on_the_stored_pixels_is_turned_with_the_image(tmp_path):
    data = _pair(tmp_path, _tagged(".jpg", np.zeros((16, 20, 3), np.uint8), 8), IDS)
    image, mask = read_pair(data, "a")
    assert image.shape == (20, 16, 3)
    assert (mask == np.rot90(IDS)).all()
    assert mask.flags.c_contiguous


def test_a_mask_drawn_on_the_shown_pixels_stays(tmp_path):
    data = _pair(tmp_path, _tagged(".jpg", np.zeros((20, 16, 3), np.uint8), 8), IDS)
    assert (read_pair(data, "a")[1] == IDS).all()


def test_a_turned_mask_needs_a_turned_image(tmp_path):
    data = _pair(tmp_path, cv2.imencode(".jpg", np.zeros((20, 16, 3), np.uint8))[1].tobytes(), IDS)
    with pytest.raises(DataError, match="image 'a' is 16 x 20, its mask 20 x 16"):
        read_pair(data, "a")


# ------------------------------------------------------------------------------ colours

COLORS = {(200, 1, 2): 4, (3, 4, 5): 0, (128, 0, 0): 254, (0, 128, 0): VOID, (9, 9, 9): 1}
BY_INDEX = np.array([4, 0, 254, VOID, 1], np.uint8)


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_become_ids(tmp_path, alpha):
    pixels = np.array(list(COLORS), np.uint8)[IDS]
    stored = pixels[..., ::-1]
    if alpha:
        stored = np.dstack([stored, np.full(IDS.shape, 255, np.uint8)])
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), stored)
    assert (read_color_mask(path, COLORS) == BY_INDEX[IDS]).all()


@pytest.mark.parametrize("depth", [8, 4])
def test_palette_colours_become_ids(tmp_path, depth):
    path = tmp_path / "mask.png"
    path.write_bytes(_png(IDS, depth, 3, _palette()))
    assert (read_color_mask(path, COLORS) == BY_INDEX[IDS]).all()


def test_grey_is_a_colour(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(encode_png(np.full((2, 3), 9, np.uint8)))
    assert (read_color_mask(path, COLORS) == 1).all()
    path.write_bytes(encode_png(np.zeros((2, 3), np.uint8)))
    with pytest.raises(DataError, match=r"\(0, 0, 0\) in 6 pixels") as caught:
        read_color_mask(path, COLORS)
    assert "grey" in caught.value.hint


def test_an_unknown_colour_is_named_with_its_place(tmp_path):
    pixels = np.full((5, 7, 3), (3, 4, 5), np.uint8)
    pixels[3, 2:6] = (1, 2, 3)
    pixels[4, 0] = (0, 0, 7)
    path = tmp_path / "mask.png"
    path.write_bytes(encode_png(pixels))
    says = r"mask\.png has a colour without a class: \(1, 2, 3\) in 4 pixels, first at x 2, y 3, "
    with pytest.raises(DataError, match=says + "and 1 more"):
        read_color_mask(path, COLORS)


def test_colour_masks_that_are_not_exact_are_refused(tmp_path):
    path = tmp_path / "mask.png"
    half = np.dstack([np.full((2, 3, 3), 9, np.uint8), np.full((2, 3), 128, np.uint8)])
    cv2.imwrite(str(path), half)
    with pytest.raises(DataError, match=r"mask\.png has 6 transparent pixels"):
        read_color_mask(path, COLORS)
    cv2.imwrite(str(path), np.full((2, 3, 3), 9, np.uint16))
    with pytest.raises(DataError, match="16 bits"):
        read_color_mask(path, COLORS)
    path.write_bytes(_png(IDS, 8, 3, _palette() + _chunk(b"tRNS", b"\xff\0")))
    with pytest.raises(DataError, match=rf"{int((IDS == 1).sum())} transparent pixels"):
        read_color_mask(path, COLORS)
    path.write_bytes(_png(IDS + 3, 8, 3, _palette()))
    with pytest.raises(DataError, match="palette index 7, its palette 5 colours"):
        read_color_mask(path, COLORS)
    path.write_bytes(cv2.imencode(".jpg", _picture())[1].tobytes())
    with pytest.raises(DataError, match="is not a PNG"):
        read_color_mask(path, COLORS)


# ------------------------------------------------------------------------------ names


def test_a_name_is_found_however_its_letters_are_stored(tmp_path):
    composed, split = (unicodedata.normalize(form, "Höhe é.png") for form in ("NFC", "NFD"))
    assert composed != split
    (tmp_path / split).write_bytes(encode_png(IDS))
    assert (read_mask(tmp_path / composed) == IDS).all()
    assert read_image(tmp_path / composed).shape == (16, 20, 3)


def test_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"image .*a\.png cannot be read") as caught:
        read_image(tmp_path / "a.png")
    assert "symbolic link" in caught.value.hint
