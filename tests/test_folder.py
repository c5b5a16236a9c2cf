"""A folder of one's own images: what belongs in it and what is refused."""

import hashlib
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import Label, open_dataset
from edgeinc.data.folder import Folder, write_folder
from edgeinc.errors import DataError, UsageError

TABLE = """
background = "none"
[[class]]
id = 0
name = "road"
color = [128, 64, 128]
[[class]]
id = 3
name = "car"
color = [0, 0, 142]
"""


def make(root: Path, stems=("a", "b"), table: str = TABLE, ids=(0, 3, 255)) -> Path:
    """A folder whose masks hold `ids` in vertical stripes."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    (root / "classes.toml").write_text(table, encoding="utf-8")
    mask = np.repeat(np.array([ids], np.uint8), 8, axis=0).repeat(4, axis=1)
    for value, stem in enumerate(stems):
        image = np.full((*mask.shape, 3), 10 * value % 256, np.uint8)
        cv2.imwrite(str(root / "images" / f"{stem}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{stem}.png"), mask)
    return root


def test_reads_classes_images_and_masks(tmp_path):
    data = open_dataset(make(tmp_path / "own"))
    assert data.labels == (Label(0, "road", (128, 64, 128)), Label(3, "car", (0, 0, 142)))
    assert data.background == "none"
    assert data.ref.name == "folder"
    assert data.image("b")[0, 0].tolist() == [10, 10, 10]
    assert np.unique(data.mask("b")).tolist() == [0, 3, 255]


def test_classes_come_in_id_order(tmp_path):
    one, two = TABLE.split("[[class]]")[1:]
    table = f"[[class]]{two}[[class]]{one}"
    assert [c.id for c in Folder(make(tmp_path / "own", table=table)).labels] == [0, 3]


def test_void_may_have_another_value(tmp_path):
    table = 'void = 9\nbackground = "real"\n' + TABLE.replace('background = "none"', "")
    data = Folder(make(tmp_path / "own", table=table, ids=(0, 3, 9)))
    assert np.unique(data.mask("a")).tolist() == [0, 3, 255]
    assert data.background == "real"


def _with(old: str, new: str) -> str:
    assert old in TABLE
    return TABLE.replace(old, new)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (_with("id = 3", "id = 0"), "id 0 has two names, 'road' and 'car'"),
        (_with('"car"', '"road"'), "name 'road' is given twice"),
        (_with("id = 3", "id = 255"), "class 2: id is 255, allowed are 0 to 254"),
        (_with("id = 3", "id = -1"), "id is -1"),
        (_with("id = 3", "id = true"), "id is True"),
        (_with("id = 3", 'id = "3"'), "id is '3'"),
        (_with("id = 3\n", ""), "class 2: key 'id' is missing"),
        (_with('name = "car"\n', ""), "class 2: key 'name' is missing"),
        (_with('"car"', '""'), "name is ''"),
        (_with('"car"', '"car,bus"'), "without a comma"),
        (_with("color = [0, 0, 142]", "color = [0, 0]"), r"color is \[0, 0\]"),
        (_with("color = [0, 0, 142]", "color = [0, 0, 256]"), "color is"),
        (_with("color = [0, 0, 142]", 'color = "#00008e"'), "color is '#00008e'"),
        (_with("color = [0, 0, 142]", "colour = [0, 0, 142]"), "'colour', did you mean 'color'"),
        (_with('background = "none"', "voide = 3"), "unknown key 'voide', did you mean 'void'"),
        (_with('"none"', '"virtual"'), "background is 'virtual'"),
        (_with('background = "none"', "void = 256"), "void is 256"),
        (_with('background = "none"', "void = 3"), "id 3 of 'car' is the void value"),
        (_with('"none"', '"real"').replace("id = 0", "id = 1"), "first id is 1 instead of 0"),
        ("background = 'none'", r"there is no \[\[class\]\]"),
        ("class = 3", r"there is no \[\[class\]\]"),
        ("class = [1]", r"class 1: it is not a \[\[class\]\] table"),
        ("[[class]", "not valid TOML"),
    ],
)
def test_wrong_class_table_is_refused(tmp_path, table, says):
    root = make(tmp_path / "own", table=table)
    with pytest.raises(DataError, match=says) as caught:
        Folder(root)
    assert str(root / "classes.toml") in caught.value.message


def test_every_fault_of_the_class_table_is_listed_at_once(tmp_path):
    table = _with("id = 3", "id = 300").replace('"road"', '""') + "\nsize = 3\n"
    with pytest.raises(DataError) as caught:
        Folder(make(tmp_path / "own", table=table))
    assert all(word in caught.value.message for word in ("300", "''", "'size'"))


def test_lists_decide_the_splits(tmp_path):
    root = make(tmp_path / "own", stems=("a", "b c", "ä"))
    (root / "train.txt").write_text("ä\n\nb c\n", encoding="utf-8")
    (root / "val.txt").write_text("a", encoding="utf-8")
    data = Folder(root)
    assert data.splits() == ("train", "val")
    assert data.ids("train") == ("ä", "b c")
    assert data.ids("val") == ("a",)
    assert data.image("b c").shape == data.image("ä").shape == (8, 12, 3)
    assert data.mask("ä").shape == (8, 12)
    with pytest.raises(UsageError, match="no split 'test'"):
        data.ids("test")


@pytest.mark.parametrize(
    ("train", "val", "says"),
    [
        ("a\nc\n", "b", r"train\.txt lists 'c', which is not in"),
        ("a.png\n", "b", r"lists 'a\.png'"),
        ("../images/a\n", "b", "lists '../images/a'"),
        ("a\na\n", "b", r"train\.txt lists 'a' twice"),
        ("a\n", "a\nb", r"'a' is in .*train\.txt and in .*val\.txt"),
        ("\n\n", "b", r"train\.txt lists no image"),
        (None, "b", r"train\.txt is missing"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, train, val, says):
    root = make(tmp_path / "own")
    for name, text in (("train", train), ("val", val)):
        if text is not None:
            (root / f"{name}.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says):
        Folder(root).ids("train")


def test_a_list_with_endings_says_how_to_write_it(tmp_path):
    root = make(tmp_path / "own")
    (root / "train.txt").write_text("a.png\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Folder(root).ids("train")
    assert "write 'a'" in caught.value.hint


def test_without_lists_a_fifth_is_held_out_whatever_else_lies_there(tmp_path):
    stems = [f"frame {i}" for i in range(200)]
    data = Folder(make(tmp_path / "own", stems=stems))
    assert set(data.ids("train")) | set(data.ids("val")) == set(stems)
    assert 25 <= len(data.ids("val")) <= 55
    expected = {s for s in stems if hashlib.sha256(s.encode()).digest()[0] < 51}
    assert set(data.ids("val")) == expected
    fewer = Folder(make(tmp_path / "fewer", stems=stems[:100]))
    assert set(fewer.ids("val")) == set(data.ids("val")) & set(stems[:100])


def test_one_image_is_a_training_image(tmp_path):
    for i in range(12):
        data = Folder(make(tmp_path / str(i), stems=[f"only {i}"]))
        assert data.splits() == ("train",)
        assert data.ids("train") == (f"only {i}",)


def test_image_without_mask_names_both(tmp_path):
    root = make(tmp_path / "own")
    (root / "masks" / "b.png").unlink()
    data = Folder(root)
    assert data.image("b").shape == (8, 12, 3)
    with pytest.raises(DataError) as caught:
        data.mask("b")
    for path in ("images/b.png", "masks/b.png"):
        assert str(root / path) in caught.value.message


def test_unknown_ids_are_listed_with_their_file(tmp_path):
    root = make(tmp_path / "own", ids=(0, 3, 7, 200, 255))
    with pytest.raises(DataError, match=r"masks/a\.png has ids without a class: 7, 200$"):
        Folder(root).mask("a")


def test_folder_without_images_is_refused(tmp_path):
    root = make(tmp_path / "own", stems=())
    (root / "images" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match="images has no image"):
        Folder(root).splits()
    (root / "images" / "notes.txt").unlink()
    (root / "images").rmdir()
    with pytest.raises(DataError, match="images is missing"):
        Folder(root).splits()


def test_two_images_of_one_stem_are_refused(tmp_path):
    root = make(tmp_path / "own")
    cv2.imwrite(str(root / "images" / "a.jpg"), np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.jpg and a\.png .* share one mask"):
        Folder(root).splits()


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".bmp", ".webp"])
def test_images_of_other_formats(tmp_path, suffix):
    root = make(tmp_path / "own", stems=("a",))
    (root / "images" / "a.png").unlink()
    content = cv2.imencode(suffix.lower(), np.full((8, 12, 3), 90, np.uint8))[1].tobytes()
    (root / "images" / f"a{suffix}").write_bytes(content)
    (root / "images" / "._a.jpg").write_bytes(b"what some systems leave beside every file")
    data = Folder(root)
    assert data.ids("train") == ("a",)
    assert abs(int(data.image("a").mean()) - 90) < 4


def test_unknown_image_id(tmp_path):
    data = Folder(make(tmp_path / "own"))
    for image_id in ("c", "../classes", ""):
        with pytest.raises(DataError, match="has no image"):
            data.image(image_id)


def test_what_is_written_reads_back(tmp_path):
    rng = np.random.default_rng(0)
    labels = (Label(0, 'a "quoted" name', (1, 2, 3)), Label(254, "straße", (255, 0, 9)))
    samples = [
        (split, stem, rng.integers(0, 256, (6, 9, 3), np.uint8), rng.choice([0, 254, 255], (6, 9)))
        for split, stem in (("train", "x 1"), ("val", "y"), ("train", "ü"))
    ]
    samples = [(s, n, i, m.astype(np.uint8)) for s, n, i, m in samples]
    out = tmp_path / "new" / "set"
    assert write_folder(out, samples, labels=labels, background="real") == 3
    data = open_dataset(out)
    assert data.labels == labels
    assert data.background == "real"
    assert data.ids("train") == ("x 1", "ü")
    assert data.ids("val") == ("y",)
    for _, stem, image, mask in samples:
        assert (data.image(stem) == image).all()
        assert (data.mask(stem) == mask).all()


# ------------------------------------------------------------------------------ colour masks

COLORED = 'masks = "color"\n' + TABLE


def paint(root: Path, colors) -> Path:
    """Masks whose vertical stripes have these colours."""
    stripes = np.repeat(np.array([colors], np.uint8), 8, axis=0).repeat(4, axis=1)
    for path in (root / "masks").iterdir():
        cv2.imwrite(str(path), stripes[..., ::-1])
    return root


ROAD, CAR, BLACK = (128, 64, 128), (0, 0, 142), (0, 0, 0)


def test_masks_of_colours(tmp_path):
    table = "void = [0, 0, 0]\n" + COLORED
    data = Folder(paint(make(tmp_path / "own", table=table), (ROAD, CAR, BLACK)))
    assert data.mask("a")[0, ::4].tolist() == [0, 3, 255]


def test_every_colour_needs_a_class_unless_it_is_void(tmp_path):
    data = Folder(paint(make(tmp_path / "own", table=COLORED), (ROAD, CAR, BLACK)))
    with pytest.raises(DataError, match=r"a\.png has a colour without a class: \(0, 0, 0\) in 32"):
        data.mask("a")


def test_colours_in_a_folder_of_ids_name_the_setting(tmp_path):
    data = Folder(paint(make(tmp_path / "own"), (ROAD, CAR, CAR)))
    with pytest.raises(DataError, match=r"3 channels; set masks = \"color\" in .*classes\.toml"):
        data.mask("a")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('masks = "colour"\n' + TABLE, "masks is 'colour', allowed are 'index' and 'color'"),
        ("void = [0, 0, 0]\n" + TABLE, r"void is \[0, 0, 0\], allowed are 0 to 255"),
        ("void = 255\n" + COLORED, r"void is 255, in masks of colours it is \[red, green, blue\]"),
        ("void = [0, 0, 256]\n" + COLORED, r"void is \[0, 0, 256\]"),
        ("void = [0, 0, 142]\n" + COLORED, "the colour of 'car' is the void colour"),
        (COLORED.replace("[0, 0, 142]", "[128, 64, 128]"), "'road' and 'car' have one colour"),
    ],
)
def test_wrong_tables_of_colours_are_refused(tmp_path, table, says):
    with pytest.raises(DataError, match=says):
        Folder(make(tmp_path / "own", table=table))


# ------------------------------------------------------------------------------ files


def test_a_mask_is_made_from_itself_and_the_table(tmp_path):
    root = make(tmp_path / "own")
    assert Folder(root).mask_files("a") == (root / "masks" / "a.png", root / "classes.toml")
    assert Folder(root).image_file("b") == root / "images" / "b.png"
    with pytest.raises(DataError, match="no image"):
        Folder(root).mask_files("nosuch")


def test_masks_without_an_image_are_found(tmp_path):
    root = make(tmp_path / "own")
    (root / "images" / "a.png").unlink()
    assert Folder(root).strays() == (root / "masks" / "a.png",)


def test_names_match_however_their_letters_are_stored(tmp_path):
    root = make(tmp_path / "own", stems=())
    whole, parts = (unicodedata.normalize(form, "Köln é") for form in ("NFC", "NFD"))
    (root / "images" / f"{parts}.png").write_bytes(_png(np.zeros((2, 3, 3), np.uint8)))
    (root / "masks" / f"{whole}.png").write_bytes(_png(np.full((2, 3), 3, np.uint8)))
    (root / "train.txt").write_text(f"{parts}\n", encoding="utf-8")
    data = Folder(root)
    assert data.ids("train") == (whole,)
    assert (data.mask(parts) == 3).all()
    assert data.image(whole).shape == (2, 3, 3)
    assert data.strays() == ()
    (root / "images" / f"{whole}.png").write_bytes(b"")
    with pytest.raises(DataError, match="share one mask"):
        Folder(root).splits()


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_the_split_of_a_name_does_not_depend_on_how_it_is_stored(tmp_path):
    names = [f"é {i}" for i in range(40)]
    stored = [[unicodedata.normalize(form, n) for n in names] for form in ("NFC", "NFD")]
    one, two = (Folder(make(tmp_path / str(i), stems=s)) for i, s in enumerate(stored))
    assert one.ids("val")
    assert one.ids("val") == two.ids("val")


def test_a_test_list_is_a_split(tmp_path):
    root = make(tmp_path / "own", stems=("a", "b", "c"))
    for split, stem in (("train", "a"), ("val", "b"), ("test", "c")):
        (root / f"{split}.txt").write_text(f"{stem}\n")
    assert {s: Folder(root).ids(s) for s in Folder(root).splits()} == {
        "train": ("a",),
        "val": ("b",),
        "test": ("c",),
    }
    (root / "test.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"'b' is in .*val\.txt and in .*test\.txt"):
        Folder(root).ids("train")


def test_a_list_says_how_many_images_are_missing(tmp_path):
    root = make(tmp_path / "own")
    (root / "train.txt").write_text("a\nx\ny\nz\n")
    with pytest.raises(DataError, match="lists 'x' and 2 more, which are not in"):
        Folder(root).ids("train")


@pytest.mark.parametrize("name", ["images", "classes.toml", "train.txt", "images/a.png"])
def test_a_link_to_itself_is_one_line(tmp_path, name):
    root = make(tmp_path / "own")
    path = root / name
    if path.exists():
        path.rename(tmp_path / "aside")
    path.symlink_to(path)
    with pytest.raises(DataError) as caught:
        _read(Folder(root), "a")
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    path.unlink()
    if name != "train.txt":
        (tmp_path / "aside").rename(path)
    _read(Folder(root), "a")


def _read(data: Folder, stem: str) -> None:
    assert data.splits()
    data.image(stem)


def test_a_folder_that_is_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "own").symlink_to(tmp_path / "own")
    with pytest.raises(UsageError, match="own is a symbolic link that leads nowhere"):
        open_dataset(tmp_path / "own")
    with pytest.raises(DataError, match=r"camvid/train\.txt"):
        open_dataset("camvid", data_root=tmp_path / "own").ids("train")


def test_a_folder_inside_itself_is_no_image(tmp_path):
    root = make(tmp_path / "own", stems=("a",))
    (root / "images" / "more").symlink_to(root / "images", target_is_directory=True)
    assert Folder(root).ids("train") == ("a",)
