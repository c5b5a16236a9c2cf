"""How fast the masks of a data set of VOC's size are indexed, the first time and again.

    python benchmarks/index_speed.py                     # 10,582 masks of 500x375, one thread

Writes a data set in VOC's layout (drawn masks, no real image), counts the pixels of every mask in a
fresh process, and once more in another. Both times are those of `count_pixels` and of the whole
process, which also starts Python and lists the images.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from edgeinc import host
from edgeinc.cli._ui import Ui

HERE = Path(__file__).parent
CHILD = """
import json, os, sys
from time import perf_counter
start = perf_counter()
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: int(sys.argv[2])])
from edgeinc.data import open_dataset
from edgeinc.data._index import count_pixels
data = open_dataset(sys.argv[1])
ids = data.ids("train")
begin = perf_counter()
counts = count_pixels(data, ids)
end = perf_counter()
print(json.dumps({"count": end - begin, "all": end - start, "pixels": int(counts.sum())}))
"""


def main() -> None:
    """Draw, measure, write one line for each turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--masks", type=int, default=10582)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "index_speed.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "voc"
        draw(root, options.masks)
        turns = {turn: measure(root, folder, options.threads) for turn in ("first", "again")}
    facts = host.host()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["turn", "masks", "size", "threads", "count_s", "masks_per_s", "process_s", "hardware"]
        )
        for turn, seconds in turns.items():
            rate = f"{options.masks / seconds['count']:.0f}"
            count, process = f"{seconds['count']:.2f}", f"{seconds['all']:.2f}"
            hardware = f"{facts.cpu}, {facts.cores} cores"
            writer.writerow(
                [turn, options.masks, "500x375", options.threads, count, rate, process, hardware]
            )
            sys.stdout.write(f"{turn}: {rate} masks/s, {count} s, process {process} s\n")
    sys.stdout.write(f"wrote {options.out}\n")


def draw(root: Path, masks: int) -> None:
    """A few objects with void borders on each mask, as palette indices."""
    lists = root / "ImageSets" / "Segmentation"
    for folder in (root / "JPEGImages", root / "SegmentationClassAug", lists):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = [f"2007_{i:06}" for i in range(masks)]
    with Ui().progress.task("draw", masks, "img") as task:
        for image_id in ids:
            mask = np.zeros((375, 500), np.uint8)
            for label in rng.integers(1, 21, rng.integers(1, 5)).tolist():
                center = rng.integers((60, 60), (440, 315))
                angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
                radius = rng.uniform(0.7, 1, 40) * rng.uniform(20, 150)
                points = center + np.stack((np.cos(angles), np.sin(angles)), 1) * radius[:, None]
                outline = [points.astype(np.int32)]
                cv2.fillPoly(mask, outline, label)
                cv2.polylines(mask, outline, True, 255, 3)
            cv2.imwrite(str(root / "SegmentationClassAug" / f"{image_id}.png"), mask)
            (root / "JPEGImages" / f"{image_id}.jpg").touch()
            task.advance()
    (lists / "train_aug.txt").write_text("\n".join(ids), encoding="utf-8")


def measure(root: Path, cache: str, threads: int) -> dict[str, float]:
    """Seconds of one process."""
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(threads)],
        env={**os.environ, "EDGEINC_CACHE": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(found.stdout)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
