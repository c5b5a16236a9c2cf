"""Labelme's JSON: which pixels a shape covers, where classes come from, and what is refused."""

import base64
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data.labelme import Labelme
from edgeinc.errors import DataError, UsageError
from edgeinc.schema import VOID

HEIGHT, WIDTH = 12, 14


def shape(points, label="car", kind="polygon", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **more}


def write(root: Path, name: str, *shapes, photo=True, **more) -> Path:
    """NAME.json and, unless told otherwise, the image it names."""
    root.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }
    (root / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    if photo:
        (root / f"{name}.png").write_bytes(png(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)))
    return root


def png(pixels) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def mask_of(tmp_path, *shapes, **more):
    return Labelme(write(tmp_path, "a", *shapes, **more)).mask("a")


def expected(*boxes) -> np.ndarray:
    """Boxes from the first to the last column and row, both included."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x0, y0, x1, y1, value in boxes:
        mask[y0 : y1 + 1, x0 : x1 + 1] = value
    return mask


# ------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize("kind", ["polygon", "oriented_rectangle", None])
def test_the_border_of_a_polygon_belongs_to_it(tmp_path, kind):
    points = [[2.0, 1.9], [6.99, 1.0], [6.5, 4.2], [2.3, 4.0]]
    assert (mask_of(tmp_path, shape(points, kind=kind)) == expected((2, 1, 6, 4, 1))).all()


def test_a_triangle(tmp_path):
    mask = mask_of(tmp_path, shape([[1, 1], [5, 5], [1, 5]]))
    truth = [[1 <= y <= 5 and 1 <= x <= y for x in range(WIDTH)] for y in range(HEIGHT)]
    assert mask.tolist() == np.array(truth).astype(int).tolist()


def test_a_rectangle_from_any_two_corners(tmp_path):
    for points in ([[2.5, 1], [6, 4.9]], [[6.9, 1.2], [2, 4]], [[6, 4], [2, 1]]):
        mask = mask_of(tmp_path, shape(points, kind="rectangle"))
        assert (mask == expected((2, 1, 6, 4, 1))).all()


def test_shapes_may_reach_over_the_border(tmp_path):
    mask = mask_of(tmp_path, shape([[-3, -2], [4, 5]], kind="rectangle"))
    assert (mask == expected((0, 0, 4, 5, 1))).all()
    mask = mask_of(tmp_path, shape([[9, 8], [20, 8], [20, 20], [9, 20]]))
    assert (mask == expected((9, 8, 13, 11, 1))).all()
    assert not mask_of(tmp_path, shape([[-9, -9], [-3, -2]], kind="rectangle")).any()


def test_a_circle_fills_the_pixels_it_reaches(tmp_path):
    mask = mask_of(tmp_path, shape([[6, 5], [6, 8]], kind="circle"))
    # Columns 3 to 9 and rows 2 to 8: a disc of diameter 7 around the pixel (6, 5).
    truth = [[(x - 6) ** 2 + (y - 5) ** 2 <= 3.5**2 for x in range(WIDTH)] for y in range(HEIGHT)]
    assert mask.tolist() == np.array(truth).astype(int).tolist()
    assert mask.sum() == 37
    assert mask_of(tmp_path, shape([[6.5, 5], [6.5, 5]], kind="circle")).sum() == 1


STAMP = np.array([[1, 0, 1], [0, 1, 1]], np.uint8)


@pytest.mark.parametrize("factor", [1, 255])
def test_a_mask_is_stamped_where_its_box_says(tmp_path, factor):
    text = base64.b64encode(png(STAMP * factor)).decode()
    mask = mask_of(tmp_path, shape([[4, 7], [6, 8]], kind="mask", mask=text))
    truth = expected()
    truth[7:9, 4:7] = STAMP
    assert (mask == truth).all()


def test_a_mask_over_the_border_is_cut(tmp_path):
    text = base64.b64encode(png(STAMP)).decode()
    mask = mask_of(tmp_path, shape([[-1, -1], [1, 0]], kind="mask", mask=text))
    assert (mask == expected((0, 0, 1, 0, 1))).all()
    mask = mask_of(tmp_path, shape([[-1, 0], [1, 1]], kind="mask", mask=text))
    assert (mask == expected((1, 0, 1, 1, 1), (0, 1, 0, 1, 1))).all()
    mask = mask_of(tmp_path, shape([[13, 11], [15, 12]], kind="mask", mask=text))
    assert (mask == expected((13, 11, 13, 11, 1))).all()
    assert not mask_of(tmp_path, shape([[13, 20], [15, 21]], kind="mask", mask=text)).any()


def test_a_later_shape_lies_on_top(tmp_path):
    below, above = shape([[0, 0], [9, 9]], "b", "rectangle"), shape([[3, 3], [5, 5]], "a")
    above["shape_type"] = "rectangle"
    assert (mask_of(tmp_path, below, above) == expected((0, 0, 9, 9, 2), (3, 3, 5, 5, 1))).all()
    assert (mask_of(tmp_path, above, below) == expected((0, 0, 9, 9, 2))).all()


def test_ignored_shapes_are_void_and_background_can_be_drawn(tmp_path):
    parts = [
        shape([[0, 0], [9, 9]], kind="rectangle"),
        shape([[1, 1], [3, 3]], "__ignore__", "rectangle"),
        shape([[5, 5], [6, 6]], "_background_", "rectangle"),
    ]
    for labels in ("", "__ignore__\n_background_\ncar\n"):
        if labels:
            (tmp_path / "labels.txt").write_text(labels)
        mask = mask_of(tmp_path, *parts)
        assert (mask == expected((0, 0, 9, 9, 1), (1, 1, 3, 3, VOID), (5, 5, 6, 6, 0))).all()
        assert [label.name for label in Labelme(tmp_path).labels] == ["background", "car"]


# ------------------------------------------------------------------------------ classes, files


def test_without_a_list_all_labels_are_the_classes_sorted(tmp_path):
    write(tmp_path, "a", shape([[1, 1], [3, 3]], "car", "rectangle"))
    write(tmp_path, "b", shape([[1, 1], [3, 3]], "bus", "rectangle"))
    data = open_dataset(tmp_path)
    assert (data.ref.name, data.background) == ("labelme", "real")
    assert [(c.id, c.name) for c in data.labels] == [(0, "background"), (1, "bus"), (2, "car")]
    assert len({label.color for label in data.labels}) == 3
    assert data.mask("a").max() == 2
    assert data.mask_files("a") == (tmp_path / "a.json",)


def test_a_list_gives_the_classes_in_its_order(tmp_path):
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncar\n\nbus \nnever drawn\n")
    data = Labelme(write(tmp_path, "a", shape([[1, 1], [3, 3]], "bus", "rectangle")))
    assert [c.name for c in data.labels] == ["background", "car", "bus", "never drawn"]
    assert data.mask("a").max() == 2


def test_a_label_that_the_list_lacks_is_refused(tmp_path):
    (tmp_path / "labels.txt").write_text("car\n")
    box = [[1, 1], [3, 3]]
    with pytest.raises(DataError, match=r"a\.json: shape 2, 'cra', .*not in .*labels\.txt"):
        mask_of(tmp_path, shape(box, kind="rectangle"), shape(box, "cra", "rectangle"))


@pytest.mark.parametrize(
    ("lines", "says"),
    [("car\nbus\ncar\n", "class 'car' twice"), ("car, bus\n", "'car, bus'")],
)
def test_a_wrong_list_is_refused(tmp_path, lines, says):
    (tmp_path / "labels.txt").write_text(lines)
    with pytest.raises(DataError, match=says) as caught:
        _ = Labelme(write(tmp_path, "a")).labels
    assert str(tmp_path / "labels.txt") in caught.value.message


def test_the_image_may_lie_inside_the_json(tmp_path):
    pixels = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
    text = base64.b64encode(png(pixels)).decode()
    data = Labelme(write(tmp_path, "a", photo=False, imageData=text))
    assert (data.image("a") == pixels[..., ::-1]).all()
    assert data.image_file("a") is None
    write(tmp_path, "a", photo=True, imageData=text)
    assert (Labelme(tmp_path).image("a") == 90).all()
    assert Labelme(tmp_path).image_file("a") == tmp_path / "a.png"


@pytest.mark.parametrize("path", ["..\\photos\\b c.png", "/etc/b c.png", "../b c.png", "b c.png"])
def test_only_the_name_of_an_image_path_counts(tmp_path, path):
    write(tmp_path, "b c")
    write(tmp_path, "a", photo=False, imagePath=path)
    assert Labelme(tmp_path).image_file("a") == tmp_path / "b c.png"


def test_names_match_however_their_letters_are_stored(tmp_path):
    write(tmp_path, "a", photo=False, imagePath="a\u0308.png")
    (tmp_path / "\u00e4.png").write_bytes(png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    assert Labelme(tmp_path).image("a").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("path", ["nosuch.png", "../../etc/passwd", "", None, "a\0.png", ".."])
def test_a_missing_image_is_named(tmp_path, path):
    data = Labelme(write(tmp_path, "a", photo=False, imagePath=path))
    with pytest.raises(DataError, match=r"a\.json: its image .* is missing"):
        data.image("a")


def test_lists_decide_the_splits(tmp_path):
    for name in ("a b", "ä", "c"):
        write(tmp_path, name)
    (tmp_path / "train.txt").write_text("c\na b\n", encoding="utf-8")
    (tmp_path / "val.txt").write_text("ä\n", encoding="utf-8")
    data = Labelme(tmp_path)
    assert [data.ids(s) for s in data.splits()] == [("c", "a b"), ("ä",)]
    with pytest.raises(UsageError, match="no split 'test'"):
        data.ids("test")


@pytest.mark.parametrize(
    ("train", "val", "says"),
    [
        ("a\nx\n", "b", r"train\.txt lists 'x', but there is no .*x\.json"),
        ("a\n", "a\nb", r"'a' is in .*train\.txt and in .*val\.txt"),
        (None, "b", r"train\.txt is missing"),
        ("a", "\n", r"val\.txt lists no image"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, train, val, says):
    for name, text in (("train", train), ("val", val)):
        write(tmp_path, "ab"[name == "val"])
        if text is not None:
            (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        Labelme(tmp_path).splits()


def test_without_lists_a_fifth_is_held_out(tmp_path):
    for i in range(40):
        write(tmp_path, str(i), photo=False)
    held_out = {str(i) for i in range(40) if hashlib.sha256(str(i).encode()).digest()[0] < 51}
    assert set(Labelme(tmp_path).ids("val")) == held_out


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (shape([[1, 1], [2, 2]]), "is a polygon with 2 points"),
        (shape([]), "is a polygon with 0 points"),
        (shape([[1, 1], [2, 2], [3, 3]], kind="rectangle"), "is a rectangle with 3 points"),
        (shape([[1, 1]], kind="circle"), "is a circle with 1 points"),
        (shape([[1, 1]], kind="point"), "is of type 'point', which is not an area"),
        (shape([[1, 1], [2, 2]], kind="line"), "type 'line', which"),
        (shape([[1, 1], [2, 2]], kind="linestrip"), "type 'linestrip', which"),
        (shape([[1, 1], [2, 2]], kind=["x"]), "which is not an area"),
        (shape(None), "not pairs of numbers"),
        (shape([[1, 1], [2, "x"], [3, 3]]), "not pairs of numbers"),
        (shape([[1, 1, 1], [2, 2, 2]]), "not pairs of numbers"),
        (shape([[1, 1], [2, 2], [1e9, 3]]), "a point at (1e+09, 3), far outside"),
        (shape([[1, 1], [2, 2]], kind="mask"), "its mask is not base64"),
        (shape([[1, 1], [2, 2]], kind="mask", mask="§"), "its mask is not base64"),
        (shape([[1, 1], [2, 2]], kind="mask", mask="!!!!"), "its mask is not base64"),
        (shape([[1, 1], [2, 2]], kind="mask", mask="AAAA"), "truncated"),
    ],
)
def test_a_wrong_shape_names_its_file(tmp_path, part, says):
    with pytest.raises(DataError) as caught:
        mask_of(tmp_path, part)
    message = caught.value.message
    assert says in message
    assert f"{tmp_path / 'a.json'}: shape 1, 'car'," in message
    assert "\n" not in message
    assert caught.value.hint


def test_a_stamp_of_another_size_is_refused(tmp_path):
    text = base64.b64encode(png(STAMP)).decode()
    with pytest.raises(DataError, match="a mask of 3 x 2 pixels in a box of 3 x 3"):
        mask_of(tmp_path, shape([[4, 7], [6, 9]], kind="mask", mask=text))


@pytest.mark.parametrize("label", ["car,bus", "", " ", "a\nb", "\ud800", None, 3])
def test_a_wrong_label_is_refused(tmp_path, label):
    with pytest.raises(DataError, match=r"a\.json: shape 1: class name .* is not text without a c"):
        mask_of(tmp_path, shape([[1, 1], [3, 3]], label, "rectangle"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"imageWidth": None}, "the size None x 12"),
        ({"imageHeight": 0}, "the size 14 x 0"),
        ({"imageHeight": 40000}, "14 x 40000"),
        ({"shapes": {}}, "no list 'shapes'"),
        ({"shapes": [1]}, "no list 'shapes'"),
    ],
)
def test_wrong_files_are_refused(tmp_path, more, says):
    with pytest.raises(DataError, match=says) as caught:
        mask_of(tmp_path, **more)
    assert str(tmp_path / "a.json") in caught.value.message


def test_a_truncated_file_is_refused(tmp_path):
    write(tmp_path, "a")
    path = tmp_path / "a.json"
    path.write_text(path.read_text()[:-20])
    data = open_dataset(tmp_path)
    for act in (data.image, data.mask):
        with pytest.raises(DataError, match=r"a\.json is not JSON, or it was cut short"):
            act("a")


@pytest.mark.parametrize("text", [3, "§", "AAAA"])
def test_a_wrong_embedded_image_is_refused(tmp_path, text):
    data = Labelme(write(tmp_path, "a", photo=False, imageData=text))
    with pytest.raises(DataError, match=r"a\.json"):
        data.image("a")


def test_unknown_ids_and_empty_folders(tmp_path):
    data = Labelme(write(tmp_path, "a"))
    for image_id in ("b", "../a", ""):
        with pytest.raises(DataError, match="no image"):
            data.mask(image_id)
    (tmp_path / "empty").mkdir()
    assert not Labelme.recognises(tmp_path / "empty")
    with pytest.raises(DataError, match="no JSON file of Labelme"):
        Labelme(tmp_path / "empty").splits()
