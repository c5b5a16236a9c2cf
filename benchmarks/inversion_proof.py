"""What images made from a trained network show: the wished class, its size by r, the statistics.

    python benchmarks/inversion_proof.py

Trains a small ERFNet on synthetic street scenes and makes images of its classes with r fixed to
each value of the paper and drawn at random, all from the same noise. For each, a CSV has the
percentage of images in which the network finds the wished class, the mean area of that class, and
the BatchNorm terms of noise and of the images; a plot shows area over r. Interrupted, the same
command continues: the network and finished lines are kept.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import matplotlib

import edgeinc
from edgeinc import host
from edgeinc.data._synth import synth
from edgeinc.methods._inversion import SCALES
from edgeinc.schema import InvertResult
from edgeinc.training.inverting import invert

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "images" / "areas-of-made-images.png"
CLASSES = ("road", "sky", "building", "car")
LEAST_FOUND = 90.0
LEAST_FALL = 10.0


def main() -> None:
    """Train, make images, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--per-class", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--work", type=Path, default=HERE / "runs" / "inversion_proof")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "inversion_proof.csv")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    run = trained(options)
    rows = finished(options)
    for r in (*SCALES, 0.0):
        if any(row["r"] == str(r or "drawn") for row in rows):
            continue
        sets = [f"method.r={r}", f"method.per_class={options.per_class}"]
        sets += [f"method.iterations={options.iterations}", *options.sets]
        rows.append(line(r, invert(run, sets=sets, threads=options.threads), options))
        sys.stdout.write(f"{rows[-1]}\n")
        with options.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    plot(rows, options.picture)


def trained(options: argparse.Namespace) -> Path:
    """The run of the network, trained unless it was."""
    data, run = options.work / "scenes", options.work / f"{options.scenes}-{options.epochs}"
    synth(data, n=options.scenes, size=(64, 96), seed=0, overwrite=True)
    edgeinc.train(
        data,
        classes=CLASSES,
        size=(64, 96),
        run=run,
        sets=["model.width=0.375", "model.dropout=0.1"],
        epochs=options.epochs,
        batch_size=8,
        lr=2e-3,
        threads=options.threads,
        resume=True,
    )
    return run


def finished(options: argparse.Namespace) -> list[dict[str, object]]:
    """The lines that are there, of as many iterations."""
    if not options.out.exists():
        return []
    with options.out.open(encoding="utf-8", newline="") as file:
        return [r for r in csv.DictReader(file) if r["iterations"] == str(options.iterations)]


def line(r: float, result: InvertResult, options: argparse.Namespace) -> dict[str, object]:
    """What one value of r gave; r = 0 is drawn."""
    facts = host.host()
    areas = {f"{c.name}_area": c.area for c in result.classes}
    return {
        "r": str(r or "drawn"),
        "images": result.images,
        "iterations": options.iterations,
        "found_percent": result.found,
        "least_found": LEAST_FOUND,
        "area_percent": f"{sum(c.area for c in result.classes) / len(result.classes):.1f}",
        **areas,
        "bn_noise": f"{result.bn_noise:.2f}",
        "bn_images": f"{result.bn_images:.2f}",
        "bn_fall": f"{result.bn_noise / result.bn_images:.1f}",
        "least_fall": LEAST_FALL,
        "seconds": result.seconds,
        "hardware": f"{facts.cpu}, {facts.cores} cores",
    }


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """Area of the wished class over r, for each class and in the mean."""
    fixed = [row for row in rows if row["r"] != "drawn"]
    scales = [float(str(row["r"])) for row in fixed]
    figure, axes = plt.subplots(figsize=(6, 4))
    for name in CLASSES:
        areas = [float(str(row[f"{name}_area"])) for row in fixed]
        axes.plot(scales, areas, marker="o", linewidth=1, label=name)
    mean = [float(str(row["area_percent"])) for row in fixed]
    axes.plot(scales, mean, color="black", linewidth=2.5, marker="o", label="mean")
    axes.set_xscale("log")
    axes.set_xticks(scales, [f"{s:g}" for s in scales])
    axes.set_xlabel("r")
    axes.set_ylabel("area of the wished class, % of the image")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
