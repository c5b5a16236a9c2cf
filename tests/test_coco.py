"""COCO JSON: which pixels an annotation covers, where files are found, and what is refused."""

import hashlib
import json
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import Label, open_dataset
from edgeinc.data._files import read_pair
from edgeinc.data._split import split_of
from edgeinc.data.coco import Coco
from edgeinc.errors import DataError, MissingError, UsageError
from edgeinc.schema import VOID

HEIGHT, WIDTH = 8, 10
CATEGORIES = [{"id": 7, "name": "car"}, {"id": 2, "name": "bus"}]  # bus becomes 1, car 2
SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]  # columns 2 to 5, rows 1 to 3


def entry(name="a.jpg", number=1, width=WIDTH, height=HEIGHT) -> dict:
    return {"id": number, "file_name": name, "width": width, "height": height}


def drawn(shape, number=1, category=7, image=1, **more) -> dict:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": shape,
        "iscrowd": 0,
        **more,
    }


def content(annotations=(), images=None, categories=CATEGORIES) -> dict:
    return {
        "images": [entry()] if images is None else images,
        "annotations": list(annotations),
        "categories": list(categories),
    }


def write(path: Path, *annotations, **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content(annotations, **more)), encoding="utf-8")
    return path


def photo(path: Path, size=(HEIGHT, WIDTH), value=90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = cv2.imencode(".jpg", np.full((*size, 3), value, np.uint8))[1]
    path.write_bytes(pixels.tobytes())
    return path


def mask_of(tmp_path, *annotations, **more):
    return Coco(write(tmp_path / "x.json", *annotations, **more)).mask("a")


def box(x0, y0, x1, y1) -> list:
    """A rectangle from column x0 to x1 - 1 and row y0 to y1 - 1."""
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def expected(*boxes) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x0, y0, x1, y1, value in boxes:
        mask[y0:y1, x0:x1] = value
    return mask


# ------------------------------------------------------------------------------ classes


def test_categories_in_the_order_of_their_ids_are_the_classes(tmp_path):
    data = open_dataset(write(tmp_path / "x.json"))
    assert data.labels == (
        Label(0, "background", (0, 0, 0)),
        Label(1, "bus", (128, 0, 0)),
        Label(2, "car", (0, 128, 0)),
    )
    assert (data.background, data.ref.name) == ("real", "coco")


def test_a_category_called_background_is_the_background(tmp_path):
    categories = [{"id": 1, "name": "background"}, *CATEGORIES]
    shapes = drawn(box(0, 0, 10, 8), 1, 7), drawn(SQUARE, 2, 1)
    data = Coco(write(tmp_path / "x.json", *shapes, categories=categories))
    assert [label.name for label in data.labels] == ["background", "bus", "car"]
    assert (data.mask("a") == expected((0, 0, 10, 8, 2), (2, 1, 6, 4, 0))).all()


def test_254_categories_fit_and_255_do_not(tmp_path):
    many = [{"id": i, "name": f"c{i}"} for i in range(255)]
    assert Coco(write(tmp_path / "x.json", categories=many[:254])).labels[-1].id == 254
    with pytest.raises(DataError, match=r"y\.json has 255 classes"):
        _ = Coco(write(tmp_path / "y.json", categories=many)).labels


# ------------------------------------------------------------------------------ pixels


def test_a_polygon_covers_the_pixels_between_its_corners(tmp_path):
    assert (mask_of(tmp_path, drawn(SQUARE)) == expected((2, 1, 6, 4, 2))).all()


def test_the_polygons_of_an_object_are_joined(tmp_path):
    two = box(0, 0, 3, 2) + box(5, 5, 10, 8)
    mask = mask_of(tmp_path, drawn(two, category=2))
    assert (mask == expected((0, 0, 3, 2, 1), (5, 5, 10, 8, 1))).all()


def test_a_polygon_may_reach_over_the_border(tmp_path):
    assert (mask_of(tmp_path, drawn(box(-4, -3, 3, 2))) == expected((0, 0, 3, 2, 2))).all()


@pytest.mark.parametrize(
    ("counts", "columns"),
    [
        ([2, 1, 1, 2], [0, 0, 1, 0, 1, 1]),
        ("2111", [0, 0, 1, 0, 1, 1]),  # the fourth is the difference to the second: 2 - 1
        ([1, 3, 1, 1], [0, 1, 1, 1, 0, 1]),
        ("131N", [0, 1, 1, 1, 0, 1]),  # 1 - 3 is -2, 30 in five bits, and 48 + 30 is 'N'
        ([0, 6], [1, 1, 1, 1, 1, 1]),
        ("06", [1, 1, 1, 1, 1, 1]),
        ([6], [0, 0, 0, 0, 0, 0]),
        ([0, 1, 0, 2, 3], [1, 1, 1, 0, 0, 0]),
    ],
)
def test_an_rle_runs_down_the_columns(tmp_path, counts, columns):
    shape = {"size": [2, 3], "counts": counts}
    mask = mask_of(tmp_path, drawn(shape), images=[entry(width=3, height=2)])
    assert mask.tolist() == (2 * np.array(columns).reshape(3, 2).T).tolist()


def test_a_count_over_15_takes_two_letters(tmp_path):
    # 40 is 8 + 32: 48 + 8 + 32 (there is more) is 'X', and then 1.
    mask = mask_of(tmp_path, drawn({"size": [HEIGHT, WIDTH], "counts": "X1X1"}))
    assert (mask == expected((5, 0, 10, 8, 2))).all()


def test_compressed_rle_of_any_mask_reads_back(tmp_path):
    coder = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.9):
        truth = (rng.random((61, 83)) < share).astype(np.uint8)
        stored = coder.encode(np.asfortranarray(truth))
        shape = {"size": [61, 83], "counts": stored["counts"].decode()}
        images = [entry(width=83, height=61)]
        assert (mask_of(tmp_path, drawn(shape), images=images) == 2 * truth).all()


@pytest.mark.parametrize("turn", [1, -1])
def test_the_smaller_object_lies_on_top(tmp_path, turn):
    large, small = drawn(box(0, 0, 9, 7), 5, 2), drawn(box(3, 3, 12, 6), 1, 7)
    mask = mask_of(tmp_path, *(large, small)[::turn])
    assert (mask == expected((0, 0, 9, 7, 1), (3, 3, 10, 6, 2))).all()


@pytest.mark.parametrize("turn", [1, -1])
def test_of_equal_objects_the_higher_id_lies_on_top(tmp_path, turn):
    one, two = drawn(box(0, 0, 4, 4), 8, 2), drawn(box(2, 0, 6, 4), 9, 7)
    mask = mask_of(tmp_path, *(one, two)[::turn])
    assert (mask == expected((0, 0, 4, 4, 1), (2, 0, 6, 4, 2))).all()


def test_a_crowd_is_void_below_every_object(tmp_path):
    crowd = drawn({"size": [HEIGHT, WIDTH], "counts": [40, 40]}, 9, 7, iscrowd=1)  # columns 5 to 9
    mask = mask_of(tmp_path, crowd, drawn(box(0, 0, 7, 8), 1, 2))
    assert (mask == expected((5, 0, 10, 8, VOID), (0, 0, 7, 8, 1))).all()


def test_an_image_without_annotations_is_background(tmp_path):
    images = [entry(), entry("b.jpg", 2)]
    data = Coco(write(tmp_path / "x.json", drawn(SQUARE), images=images))
    assert not data.mask("b").any()
    assert data.mask("b").shape == (HEIGHT, WIDTH)
    assert data.mask_files("b") == (tmp_path / "x.json",)


def test_an_rle_needs_no_pycocotools_and_a_polygon_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert mask_of(tmp_path, drawn({"size": [HEIGHT, WIDTH], "counts": [0, 80]})).all()
    with pytest.raises(MissingError, match="pycocotools") as caught:
        mask_of(tmp_path, drawn(SQUARE))
    assert "pip install" in caught.value.hint


def _turned_by(orientation: int, path: Path) -> None:
    """Put an EXIF block with the orientation into a JPEG."""
    ifd = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    block = b"Exif\0\0" + b"MM\0*" + struct.pack(">I", 8) + ifd
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:])


def test_shapes_of_the_displayed_and_of_the_stored_image_both_fit(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        _turned_by(6, photo(tmp_path / name))  # stored 10 x 8, shown 8 x 10: turned clockwise
    images = [entry(), entry("b.jpg", 2, width=HEIGHT, height=WIDTH)]
    shapes = drawn(box(0, 0, 10, 1), 1, image=1), drawn(box(7, 0, 8, 10), 2, image=2)
    data = Coco(write(tmp_path / "x.json", *shapes, images=images))
    right = np.zeros((WIDTH, HEIGHT), np.uint8)
    right[:, -1] = 2  # the stored first row becomes the last column
    for image_id in ("a", "b"):
        image, mask = read_pair(data, image_id)
        assert image.shape[:2] == mask.shape == (WIDTH, HEIGHT)
        assert (mask == right).all()


# ------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("json_path", "image_path"),
    [
        ("labels.json", "a.jpg"),
        ("labels.json", "images/a.jpg"),
        ("annotations/instances_train2017.json", "train2017/a.jpg"),
        ("annotations/instances_default.json", "images/default/a.jpg"),
        ("annotations/instances_default.json", "images/a.jpg"),
        ("train/_annotations.coco.json", "train/a.jpg"),
    ],
)
def test_images_are_found_where_the_tools_put_them(tmp_path, json_path, image_path):
    write(tmp_path / "x" / json_path)
    photo(tmp_path / "x" / image_path)
    for data in (open_dataset(tmp_path / "x"), open_dataset(tmp_path / "x" / json_path)):
        assert data.ref.name == "coco"
        assert data.ids("train") == ("a",)
        assert data.image("a").shape == (HEIGHT, WIDTH, 3)
        assert open_dataset(data.ref).ids("train") == ("a",)


def test_names_keep_folders_spaces_and_letters(tmp_path):
    name = "straße 1/b.c.jpg"
    photo(tmp_path / "x" / name)
    data = Coco(write(tmp_path / "x" / "labels.json", images=[entry(name)]).parent)
    assert data.ids("train") == ("straße 1/b.c",)
    assert data.image("straße 1/b.c").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("instances_val2017", "val"),
        ("valid", "val"),
        ("Validation", "val"),
        ("instances_minival2014", "val"),
        ("image_info_test-dev2017", "test"),
        ("Test", "test"),
        ("latest", "train"),
        ("interval", "train"),
        ("default", "train"),
    ],
)
def test_the_name_says_the_split(name, split):
    assert split_of(name) == split


def test_roboflow_folders_are_the_splits(tmp_path):
    for folder, name in (("train", "a"), ("valid", "b"), ("test", "c")):
        write(tmp_path / folder / "_annotations.coco.json", images=[entry(f"{name}.jpg")])
    data = open_dataset(tmp_path)
    assert data.splits() == ("train", "val", "test")
    assert [data.ids(s) for s in data.splits()] == [("a",), ("b",), ("c",)]
    with pytest.raises(UsageError, match="no split 'valid'"):
        data.ids("valid")


def test_only_instances_are_read_of_what_coco_publishes(tmp_path):
    folder = tmp_path / "annotations"
    for split, name in (("train", "a"), ("val", "b")):
        for kind in ("captions", "instances", "person_keypoints"):
            write(folder / f"{kind}_{split}2017.json", images=[entry(f"{kind}-{name}.jpg")])
    data = open_dataset(tmp_path)
    assert (data.ids("train"), data.ids("val")) == (("instances-a",), ("instances-b",))


def test_two_files_of_one_split_are_named(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / f"{name}.json", images=[entry(f"{name}.jpg")])
    with pytest.raises(DataError, match=r"one\.json and .*two\.json both describe 'train'"):
        open_dataset(tmp_path).splits()
    assert open_dataset(tmp_path / "two.json").ids("train") == ("two",)


def test_a_single_file_is_divided_by_a_hash_of_the_names(tmp_path):
    images = [entry(f"{i}.jpg", i) for i in range(100)]
    data = Coco(write(tmp_path / "instances_val.json", images=images))
    held_out = [str(i) for i in range(100) if hashlib.sha256(str(i).encode()).digest()[0] < 51]
    assert data.ids("val") == tuple(held_out)
    assert len(data.ids("train")) == 100 - len(held_out)


def test_categories_of_all_splits_count(tmp_path):
    write(tmp_path / "train.json", drawn(SQUARE), categories=CATEGORIES[:1])
    write(
        tmp_path / "val.json",
        drawn(SQUARE, category=2),
        images=[entry("b.jpg")],
        categories=CATEGORIES[1:],
    )
    data = Coco(tmp_path)
    assert [label.name for label in data.labels] == ["background", "bus", "car"]
    assert (data.mask("a").max(), data.mask("b").max()) == (2, 1)
    write(tmp_path / "val.json", images=[entry("b.jpg")], categories=[{"id": 7, "name": "bus"}])
    with pytest.raises(DataError, match=r"val\.json calls category 7 'bus', another file 'car'"):
        _ = Coco(tmp_path).labels


def test_one_name_in_two_splits_is_refused(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"{split}.json")
    with pytest.raises(DataError, match=r"'a\.jpg' of .*train\.json and 'a\.jpg' of .*val\.json"):
        Coco(tmp_path).ids("train")


# ------------------------------------------------------------------------------ bad input


def refusal(path: Path, act=lambda data: data.labels) -> str:
    """The message Coco refuses this file with: one line that names it, with a way out."""
    with pytest.raises(DataError) as caught:
        act(Coco(path))
    assert str(path.parent) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"categories": [*CATEGORIES, {"id": 7, "name": "van"}]}, "id 7 twice: 'car' and 'van'"),
        ({"categories": [*CATEGORIES, {"id": 8, "name": "car"}]}, "class 'car' twice"),
        ({"categories": [{"id": 1, "name": "a, b"}]}, "'a, b'"),
        ({"categories": [{"id": 1, "name": ""}]}, "''"),
        ({"categories": [{"id": "1", "name": "car"}]}, "the id of category 'car' is '1'"),
        ({"categories": [{"name": "car"}]}, "is None, not a whole number"),
        ({"images": [entry(), entry("b.jpg")]}, "image id 1 twice"),
        ({"images": [entry(), entry("a.png", 2)]}, "share one name"),
        ({"images": [entry(width=0)]}, "the size 0 x 8"),
        ({"images": [entry(width="10")]}, "the size '10' x 8"),
        ({"images": [entry(height=40000)]}, "10 x 40000"),
        ({"images": []}, "lists no image"),
        ({"images": [entry("../a.jpg")]}, "image 1, names the file '../a.jpg'"),
        ({"images": [entry("x\\..\\..\\a.jpg")]}, "outside the data"),
        ({"images": [entry("/etc/a.jpg")]}, "'/etc/a.jpg'"),
        ({"images": [entry("C:\\a.jpg")]}, "outside the data"),
        ({"images": [entry("")]}, "the file ''"),
        ({"images": [entry(None)]}, "None"),
        ({"images": [entry("a\0.jpg")]}, "outside the data"),
        ({"images": [entry("\ud800.jpg")]}, "outside the data"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, more, says):
    assert says in refusal(write(tmp_path / "x.json", **more))


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (drawn(SQUARE, 5, image=3), "annotation 5 belongs to image 3, which is not listed"),
        (drawn(SQUARE, 5, category=3), "annotation 5 belongs to category 3, which is not listed"),
        (drawn(SQUARE, "5"), "the id of an annotation is '5'"),
        (drawn(SQUARE, 5, image=[1]), r"the image_id of annotation 5 is [1]"),
    ],
)
def test_annotations_of_nothing_are_refused(tmp_path, annotation, says):
    assert says in refusal(write(tmp_path / "x.json", annotation))


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ([[2, 1, 6, 1]], "a polygon with 2 points"),
        ([[]], "a polygon with 0 points"),
        ([[2, 1, 6, 1, 6]], "not pairs of numbers"),
        ([[2, 1, 6, 1, 6, "x"]], "not pairs of numbers"),
        ([[2, 1, 6, 1, 6, None]], "not pairs of numbers"),
        ([2, 1, 6, 1, 6, 4], "not pairs of numbers"),
        ([[2, 1, 6, 1, 6, 1e300]], "a point at (6, 1e+300), far outside its image of 10 x 8"),
        ([[2, 1, 6, 1, 6, 17]], "a point at (6, 17)"),
        ([], "no polygon and no RLE"),
        (None, "no polygon and no RLE"),
        ({"size": [10, 8], "counts": [80]}, "an RLE for 8 x 10 pixels, its image is 10 x 8"),
        ({"counts": [80]}, "an RLE for None"),
        ({"size": [8, 10], "counts": [79]}, "does not add up to its 10 x 8 pixels"),
        ({"size": [8, 10], "counts": [90, -10]}, "does not add up"),
        ({"size": [8, 10], "counts": []}, "does not add up"),
        ({"size": [8, 10], "counts": None}, "does not add up"),
        ({"size": [8, 10], "counts": [[80]]}, "does not add up"),
        ({"size": [8, 10], "counts": "5"}, "does not add up"),
        ({"size": [8, 10], "counts": ""}, "does not add up"),
        ({"size": [8, 10], "counts": "X"}, "does not add up"),
        ({"size": [8, 10], "counts": "ä"}, "does not add up"),
        ({"size": [8, 10], "counts": "o" * 40 + "0"}, "does not add up"),
    ],
)
def test_wrong_shapes_are_refused(tmp_path, shape, says):
    message = refusal(write(tmp_path / "x.json", drawn(shape, 5)), lambda data: data.mask("a"))
    assert says in message
    assert f"{tmp_path / 'x.json'}: annotation 5 of image 'a.jpg'" in message


def test_other_images_of_a_file_with_a_wrong_shape_stay_readable(tmp_path):
    images = [entry(), entry("b.jpg", 2)]
    shapes = drawn([[1, 2]], 1), drawn(SQUARE, 2, image=2)
    data = Coco(write(tmp_path / "x.json", *shapes, images=images))
    assert (data.mask("b") == expected((2, 1, 6, 4, 2))).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"hello", "is not JSON"),
        (json.dumps(content()).encode()[:-30], "is not JSON, or it was cut short"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "no JSON object"),
        (b'{"shapes": []}', "no list 'categories'"),
        (b'{"categories": [1]}', "no list 'categories'"),
        (b'{"categories": [], "images": {}}', "no list 'images'"),
        (b'{"categories": [], "images": [], "annotations": NaN}', "NaN is no JSON number"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path, text, says):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    assert says in refusal(path)
    assert open_dataset(path).ref.name == "coco"


def test_missing_images_and_unknown_ids(tmp_path):
    data = Coco(write(tmp_path / "x.json"))
    with pytest.raises(DataError, match=r"image 'a\.jpg' of .*x\.json is missing") as caught:
        data.image("a")
    assert str(tmp_path / "images") in caught.value.hint
    for image_id in ("b", "../a", ""):
        with pytest.raises(DataError, match="no image"):
            data.mask(image_id)


def test_an_image_of_another_size_is_refused(tmp_path):
    photo(tmp_path / "a.jpg", (6, 5))
    with pytest.raises(DataError, match="image 'a' is 5 x 6, its mask 10 x 8"):
        read_pair(Coco(write(tmp_path / "x.json")), "a")


def test_a_folder_without_a_coco_file_is_no_coco(tmp_path):
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "other.json").write_text('{"name": "images"}')
    (tmp_path / "annotations").symlink_to(tmp_path / "annotations")
    assert not Coco.recognises(tmp_path)
    with pytest.raises(DataError, match="holds no COCO file"):
        Coco(tmp_path).splits()
