"""Synthetic street scenes with a real background: classes come in one step of two, or one by one.

    python benchmarks/streets_voc_style.py                       # four plans, every method
    python benchmarks/streets_voc_style.py --table ablations     # of HRHF and DKD, plan 6-2
    python benchmarks/streets_voc_style.py --plans 6-2 --selections disjoint --rows "mib;plop"
    python benchmarks/streets_voc_style.py --table ablations --selections close-ups

Six classes at step 0 (road, sidewalk, building, sky, tree, person), then car and bus: together
(6-2) or one after the other (6-1-1). Poles, signs and bicycles are background. In an image of a
step only the step's classes are labelled, all else is background, as in the protocol on Pascal VOC:
`disjoint` images show no class of a later step, `overlapped` ones may. Either way a street is full
of the old classes; in `close-ups` the images of later steps show a car or a bus and little else.
Every step has as many images (`--images`); `joint` has those of all steps so far, and as many
iterations as they together.
The ablations repeat tables 2 to 6 of the HRHF paper and table 3 of DKD's.

Interrupted or killed, the same command continues; finished rows are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from _rows import Conditions, Row, folder_of, lines_of, train_row, write_lines

from edgeinc import config
from edgeinc.cli._ui import Ui
from edgeinc.data import Label
from edgeinc.data._street_scene import render
from edgeinc.data.folder import TABLE, write_folder
from edgeinc.data.streets import LABELS
from edgeinc.schema import VOID

HERE = Path(__file__).parent
BASE = ("road", "sidewalk", "building", "sky", "tree", "person")
NEW = ("car", "bus")
PLANS = {"6-2": ((*BASE,), NEW), "6-1-1": ((*BASE,), *((name,) for name in NEW))}
SELECTIONS = ("overlapped", "disjoint")
CLOSE_UPS = "close-ups"
SCENES = {"train": (0, 1400), "val": (500_000, 100)}
"""Split -> first scene and number of scenes; one in six shows neither car nor bus."""

SMALL = ("model.width=0.375", "model.dropout=0.1")
LR = 3e-3
"""A narrow ERFNet learns these scenes in a minute with this learning rate."""

MADE = ("method.per_class=8", "method.iterations=300")
"""Fewer made images than the default: a processor has to make them."""

METHODS = {
    "joint": Row("joint"),
    "finetune": Row("finetune"),
    "lwf": Row("lwf"),
    "lwf_mc": Row("lwf_mc"),
    "ilt": Row("ilt"),
    "ewc": Row("ewc"),
    "pi": Row("pi"),
    "rw": Row("rw"),
    "mib": Row("mib"),
    "plop": Row("plop"),
    "ssul": Row("ssul"),
    "dkd": Row("dkd"),
    "hrhf": Row("hrhf", MADE),
    "ejt": Row("ejt"),
}
ABLATIONS = {
    "hrhf": Row("hrhf", MADE),
    "hrhf, no fakes": Row("hrhf", (*MADE, "method.fakes=0")),
    "hrhf, noise": Row("hrhf", ("method.per_class=8", "method.iterations=0")),
    "hrhf, average": Row("hrhf", (*MADE, "method.aggregation=average")),
    "hrhf, maximum": Row("hrhf", (*MADE, "method.aggregation=maximum")),
    **{f"hrhf, r {r}": Row("hrhf", (*MADE, f"method.r={r}")) for r in (0.5, 1, 5, 10, 20)},
    "hrhf, no kd": Row("hrhf", (*MADE, "method.lambda_kd=0")),
    "hrhf, 2 real to 1 fake": Row("hrhf", (*MADE, "method.fakes=0.5")),
    "hrhf, 1 real to 2 fake": Row("hrhf", (*MADE, "method.fakes=2")),
    "dkd": Row("dkd"),
    "dkd, no dkd term": Row("dkd", ("method.dkd=false",)),
    "dkd, random rows": Row("dkd", ("method.init=random",)),
    "dkd, neither": Row("dkd", ("method.dkd=false", "method.init=random")),
}
TABLES = {"methods": METHODS, "ablations": ABLATIONS}


def main() -> None:
    """Train what is missing; after every row, write the table of everything that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", choices=tuple(TABLES), default="methods")
    parser.add_argument("--plans", help="names separated by ';'; else all, 6-2 for ablations")
    parser.add_argument(
        "--selections", help="separated by ';'; else both, overlapped for ablations"
    )
    parser.add_argument("--rows", help="names separated by ';'; else all")
    parser.add_argument("--model", default="erfnet")
    parser.add_argument("--size", default="64x96")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / "streets_voc_style")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ablations = options.table == "ablations"
    plans = (options.plans or ("6-2" if ablations else ";".join(PLANS))).split(";")
    selections = (
        options.selections or ("overlapped" if ablations else ";".join(SELECTIONS))
    ).split(";")
    rows = TABLES[options.table]
    chosen = {n: rows[n] for n in (options.rows.split(";") if options.rows else rows)}
    out = options.out or HERE / "results" / f"streets_voc_style_{options.table}.csv"
    scenes(options.runs / "scenes", cut_out)
    if CLOSE_UPS in selections:
        scenes(options.runs / CLOSE_UPS, lambda number: close_up(number, options.images))
    for plan in plans:
        for selection in selections:
            conditions = conditions_of(plan, selection, options)
            for name, row in chosen.items():
                train_row(name, row, conditions, options.runs)
                lines: list[dict[str, object]] = []
                for done in rows:
                    run = folder_of(done, conditions, options.runs)
                    lines += lines_of(done, run, conditions.tasks, threads=options.threads)
                write_lines(lines, conditions, out)
    sys.stdout.write(f"wrote {out}\n")


def scenes(root: Path, drawn: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw the scenes once, as a folder with a real background."""
    if (root / TABLE).exists():
        return
    by_name = {label.name: label for label in LABELS}
    labels = [Label(0, "background", (0, 0, 0))]
    labels += [Label(i, n, by_name[n].color) for i, n in enumerate((*BASE, *NEW), start=1)]
    look_up = np.zeros(256, np.uint8)
    look_up[VOID] = VOID
    look_up[[by_name[label.name].id for label in labels[1:]]] = range(1, len(labels))
    samples = (
        (split, f"{split}-{number:06d}", image, look_up[mask])
        for split, (first, count) in SCENES.items()
        for number in range(first, first + count)
        for image, mask in (drawn(number),)
    )
    total = sum(count for _, count in SCENES.values())
    write_folder(
        root, samples, labels=labels, background="real", total=total, progress=Ui().progress
    )


def cut_out(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A quarter of a scene, half of its height around the horizon: people are 10 pixels tall."""
    image, mask = render(number, (128, 192))
    left = number * 37 % 97
    part = np.s_[32:96, left : left + 96]
    return np.ascontiguousarray(image[part]), np.ascontiguousarray(mask[part])


def close_up(number: int, base: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle of the largest car or bus; of the scenes of step 0 and of `val`, the cut-out."""
    first, _ = SCENES["val"]
    if number < base or first <= number < 2 * first:
        return cut_out(number)
    image, mask = render(number, (192, 288))
    vehicle = np.isin(mask, [label.id for label in LABELS if label.name in NEW])
    count, _, boxes, _ = cv2.connectedComponentsWithStats(vehicle.astype(np.uint8))
    if count == 1 or boxes[1:, 4].max() < 400:
        return close_up(number + 2 * first, base)  # another scene
    left, top, width, height = boxes[1 + boxes[1:, 4].argmax()][:4]
    across, down = width // 10, height // 10
    part = np.s_[top + down : top + height - down, left + across : left + width - across]
    size = (96, 64)
    return (
        cv2.resize(image[part], size, interpolation=cv2.INTER_LINEAR),
        cv2.resize(mask[part], size, interpolation=cv2.INTER_NEAREST),
    )


def conditions_of(plan: str, selection: str, options: argparse.Namespace) -> Conditions:
    """What every row of a plan has in common."""
    columns = {
        "plan": plan,
        "selection": selection,
        "model": options.model,
        "size": options.size,
        "images_per_step": options.images,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "threads": options.threads,
    }
    lines = [f'name = "streets:{plan}"', 'background = "real"']
    if selection != CLOSE_UPS:
        lines += [f'selection = "{selection}"']
    for step, classes in enumerate(PLANS[plan]):
        lines += [f"[[step]]\nclasses = {json.dumps(classes)}"]
        if selection == CLOSE_UPS:
            numbers = range(step * options.images, (step + 1) * options.images)
            lines += [f"images = {json.dumps([f'train-{n:06d}' for n in numbers])}"]
    file = options.runs / f"{plan}-{selection}.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    base = {
        "data": str(options.runs / (CLOSE_UPS if selection == CLOSE_UPS else "scenes")),
        "scenario": str(file),
        "model": options.model,
        "size": config.parse_size(options.size),
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "threads": options.threads,
        "workers": 1,
        "seed": options.seed,
        "limit": options.images,
        "lr": LR,
        "class_weights": "log",
        "sets": SMALL,
    }
    return Conditions(
        name="-".join(map(str, columns.values())),
        base=base,
        extend={"limit": options.images},
        columns=columns,
        tasks=PLANS[plan],
    )


if __name__ == "__main__":
    main()
