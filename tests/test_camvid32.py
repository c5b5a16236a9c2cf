"""CamVid in its first form: 32 colours, 701 frames, splits by rule."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.data import Label, open_dataset
from edgeinc.data.camvid32 import published_split
from edgeinc.errors import DataError

ROAD, CAR, VOID_COLOR = (128, 64, 128), (64, 0, 128), (0, 0, 0)
FRAMES = ("0001TP_008520", "0001TP_008550", "0016E5_07959", "Seq05VD_f00000")


def make(root: Path, *, images="701_StillsRaw_full", masks="LabeledApproved_full", table=None):
    """Frames of every split, masks with road, car and void from left to right."""
    (root / images).mkdir(parents=True)
    (root / masks).mkdir()
    if table is not None:
        (root / "label_colors.txt").write_text(table)
    mask = np.array([[ROAD, CAR, VOID_COLOR]] * 2, np.uint8)
    for stem in FRAMES:
        cv2.imwrite(str(root / images / f"{stem}.png"), np.full((2, 3, 3), 77, np.uint8))
        cv2.imwrite(str(root / masks / f"{stem}_L.png"), mask[..., ::-1])
    return root


def test_reads_frames_masks_and_splits(tmp_path):
    data = open_dataset(make(tmp_path / "x"))
    assert data.ref.name == "camvid32"
    assert data.splits() == ("train", "val", "test")
    assert data.ids("train") == ("0001TP_008520",)
    assert data.ids("val") == ("0016E5_07959",)
    assert data.ids("test") == ("0001TP_008550", "Seq05VD_f00000")
    assert data.image("Seq05VD_f00000").shape == (2, 3, 3)
    assert data.sequence("Seq05VD_f00000") == "Seq05VD"
    # In the published table, Road is the 18th and Car the 6th class.
    assert data.mask("0016E5_07959").tolist() == [[17, 5, 255]] * 2
    assert data.mask_files("0016E5_07959") == (
        tmp_path / "x" / "LabeledApproved_full" / "0016E5_07959_L.png",
    )


def test_the_published_classes():
    labels = open_dataset("camvid32", data_root="nowhere").labels
    names = (
        "Animal Archway Bicyclist Bridge Building Car CartLuggagePram Child Column_Pole Fence "
        "LaneMkgsDriv LaneMkgsNonDriv Misc_Text MotorcycleScooter OtherMoving ParkingBlock "
        "Pedestrian Road RoadShoulder Sidewalk SignSymbol Sky SUVPickupTruck TrafficCone "
        "TrafficLight Train Tree Truck_Bus Tunnel VegetationMisc Wall"
    )
    assert " ".join(label.name for label in labels) == names
    assert [label.id for label in labels] == list(range(31))
    assert labels[16] == Label(16, "Pedestrian", (64, 64, 0))
    assert labels[30] == Label(30, "Wall", (64, 192, 0))


def test_a_table_of_colors_decides_the_classes(tmp_path):
    table = "0 0 0\tVoid\n64 0 128\t\tMy Car\n128 64 128\tRoad\n\n1 2 3 void\n"
    data = open_dataset(make(tmp_path / "x", images="images", masks="labels", table=table))
    assert data.labels == (Label(0, "My Car", CAR), Label(1, "Road", ROAD))
    assert data.mask("0001TP_008520").tolist() == [[1, 0, 255]] * 2


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("1 2 3\n", "'1 2 3' is not a class"),
        ("1 2 256 Road\n", "'1 2 256 Road' is not a class"),
        ("1 2 -3 Road\n", "is not a class"),
        ("1 2 3 Road,Car\n", "is not a class"),
        ("Road 1 2 3\n", "is not a class"),
        ("1 2 3 Road\n1 2 3 Car\n", "color 1 2 3 is given to 'Road' and 'Car'"),
        ("1 2 3 Road\n1 2 4 Road\n", "'Road' is given twice"),
        ("0 0 0 Void\n", "lists 0 classes"),
        ("".join(f"1 {i} 3 n{i}\n" for i in range(256)), "lists 256 classes"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, table, says):
    data = open_dataset(make(tmp_path / "x", table=table))
    with pytest.raises(DataError, match=says) as caught:
        _ = data.labels
    assert str(tmp_path / "x" / "label_colors.txt") in caught.value.message


def test_a_stray_color_is_refused_until_the_table_names_it(tmp_path):
    table = "128 64 128 Road\n64 0 128 Car\n"
    root = make(tmp_path / "x", table=table)
    with pytest.raises(DataError, match=r"0001TP_008520_L\.png.*0, 0, 0"):
        open_dataset(root).mask("0001TP_008520")
    (root / "label_colors.txt").write_text(table + "0 0 0 Void\n")
    assert open_dataset(root).mask("0001TP_008520").tolist() == [[0, 1, 255]] * 2


def test_missing_files_name_their_path_and_the_download(tmp_path):
    root = make(tmp_path / "x")
    data = open_dataset(root)
    path = root / "LabeledApproved_full" / "0016E5_07959_L.png"
    path.unlink()
    with pytest.raises(DataError) as caught:
        data.mask("0016E5_07959")
    assert f"{path} is missing" in caught.value.message
    assert data.homepage in caught.value.hint


def test_frames_of_one_name_share_one_mask_and_are_refused(tmp_path):
    root = make(tmp_path / "x")
    cv2.imwrite(
        str(root / "701_StillsRaw_full" / "0016E5_07959.jpg"), np.zeros((2, 3, 3), np.uint8)
    )
    with pytest.raises(DataError, match=r"0016E5_07959\.jpg and 0016E5_07959\.png"):
        open_dataset(root).ids("train")


def test_a_split_without_frames_is_none(tmp_path):
    root = make(tmp_path / "x")
    (root / "701_StillsRaw_full" / "0016E5_07959.png").unlink()
    data = open_dataset(root)
    assert data.splits() == ("train", "test")
    with pytest.raises(DataError, match="701_StillsRaw_full has no image of 'val'"):
        data.ids("val")


def test_the_rule_gives_the_numbers_of_frames_that_were_published():
    """Video 0001TP has every 30th frame from 6690 to 10380, Seq05VD from 0 to 5100."""
    first = [f"0001TP_{n:06}" for n in range(6690, 10381, 30)]
    last = [f"Seq05VD_f{n:05}" for n in range(0, 5101, 30)]
    assert (len(first), len(last)) == (124, 171)
    test = [i for i in first + last if published_split(i) == "test"]
    assert len(test) == 62 + 171 == 233
    assert published_split("0006R0_f00930") == "train"


def test_the_rule_gives_the_published_lists(camvid_root):
    for split, count in (("train", 367), ("val", 101)):
        lines = (camvid_root / "camvid" / f"{split}.txt").read_text().splitlines()
        ids = [Path(line.split()[0]).stem for line in lines if line.strip()]
        assert len(ids) == count
        assert [i for i in ids if published_split(i) != split] == []
