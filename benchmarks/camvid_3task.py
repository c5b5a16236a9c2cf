"""Three tasks on CamVid: every method side by side, from a shared base step.

    python benchmarks/camvid_3task.py --data-root DIR                  # plan coarse, on a CPU
    python benchmarks/camvid_3task.py --data-root DIR --model bisenet
    python benchmarks/camvid_3task.py --data-root DIR --rows "joint;cil;dkd" --seed 1
    python benchmarks/camvid_3task.py --data-root DIR --plan full --size 360x480  # on a GPU

Every sequence of `train` is cut into `--blocks` contiguous blocks, and each block into three
thirds: the images of the three steps, so that every step sees every part of the drive. With
`--blocks 1`, the scenario `camvid:coarse`, the steps see different streets: that measures how a
class carries over to places where it was never labelled before it measures forgetting. Scores are
on `val` at its own resolution.

`joint` has the labels of every class on every image so far. `own labels` has every image at once,
each labelled for the classes of its own step only: nothing can be forgotten, so what it lacks
against `joint` is labels, not memory. Interrupted or killed, the same command continues; finished
rows are kept. Two processes may share the work: give each its `--rows`, once the base steps exist.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _rows import (
    PLAIN,
    Conditions,
    Row,
    folder_of,
    in_its_own_process,
    lines_of,
    train_row,
    write_lines,
)

import edgeinc
from edgeinc import config
from edgeinc.cli._ui import Ui
from edgeinc.data import Dataset, Label, open_dataset
from edgeinc.data._scenario import load_scenario
from edgeinc.data.folder import write_folder
from edgeinc.schema import VOID, Scenario

HERE = Path(__file__).parent
OWN_LABELS = "own labels"
MADE = ("method.per_class=8", "method.iterations=300")
"""Fewer made images than the default: a processor has to make them."""

ROWS = {
    "joint": Row("joint"),
    "finetune": Row("finetune"),
    "finetune_decoder": Row("finetune_decoder"),
    "feature_extraction": Row("feature_extraction"),
    "linear": Row("linear"),
    "lwf": Row("lwf", background="virtual"),
    "lwof": Row("lwof"),
    "lwf_mc": Row("lwf_mc", background="virtual"),
    "ilt": Row("ilt", background="virtual"),
    "michieli": Row("michieli", ("labels=new-and-old",)),
    "ewc": Row("ewc"),
    "pi": Row("pi"),
    "rw": Row("rw"),
    "mib": Row("mib", background="virtual"),
    "plop": Row("plop", background="virtual"),
    "sdr": Row("sdr", background="virtual"),
    "rcil": Row("rcil", background="virtual"),
    "ssul": Row("ssul", background="virtual"),
    "cil": Row("cil"),
    "cil, no entropy weights": Row("cil", ("method.entropy_weights=false",)),
    "cil, fresh": Row("cil", ("method.init=fresh",)),
    "cil, fresh, no entropy weights": Row(
        "cil", ("method.init=fresh", "method.entropy_weights=false")
    ),
    "ewf": Row("ewf"),
    "hrhf": Row("hrhf", MADE),
    "hrhf, no fakes": Row("hrhf", ("method.fakes=0",)),
    "dkd": Row("dkd"),
    "star": Row("star"),
    "ejt": Row("ejt"),
    "ejt, virtual": Row("ejt", background="virtual"),
    "ejt, no unknown": Row("ejt", ("method.unknown=false",)),
    "ejt, weights of labels": Row("ejt", ("method.balance=false",)),
}
MAIN = ("joint", "finetune", "lwf", "mib", "cil", "hrhf", "dkd", "ejt")
"""The rows of a network other than ERFNet."""


def main() -> None:
    """Train what is missing; after every row, write the table of everything that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plan", choices=("coarse", "full"), default="coarse")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--rows", help="names separated by ';'; else all, of BiSeNet the main ones")
    parser.add_argument("--data-root", help="folder that holds camvid/")
    parser.add_argument("--size", default="96x128")
    parser.add_argument("--model", default="erfnet")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--class-weights", choices=("none", "log", "inverse"), default="log")
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / "camvid_3task")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "camvid_3task.csv")
    options = parser.parse_args()
    every = MAIN if options.model != "erfnet" else (*ROWS, OWN_LABELS)
    names = options.rows.split(";") if options.rows else every
    conditions = conditions_of(options)
    for name in names:
        if name == OWN_LABELS:
            in_its_own_process(train_own_labels, conditions, options)
        else:
            train_row(name, ROWS[name], conditions, options.runs)
        write_table(conditions, options)
    sys.stdout.write(f"wrote {options.out}\n")


def conditions_of(options: argparse.Namespace) -> Conditions:
    """What every row has in common."""
    columns = {
        "plan": options.plan,
        "blocks": options.blocks,
        "model": options.model,
        "size": options.size,
        "epochs": options.epochs,
        "lr": options.lr,
        "class_weights": options.class_weights,
        "seed": options.seed,
        "threads": options.threads,
    }
    dataset = open_dataset("camvid", data_root=options.data_root)
    scenario = scenario_file(options, dataset)
    base = {
        "data": "camvid",
        "data_root": options.data_root,
        "scenario": scenario,
        "model": options.model,
        "size": config.parse_size(options.size),
        "epochs": options.epochs,
        "lr": options.lr,
        "threads": options.threads,
        "workers": 1,
        "seed": options.seed,
        "class_weights": options.class_weights,
    }
    return Conditions(
        name="-".join(map(str, columns.values())),
        base=base,
        extend={"data_root": options.data_root},
        columns=columns,
        tasks=tuple(step.classes for step in load_scenario(scenario).steps),
    )


def scenario_file(options: argparse.Namespace, dataset: Dataset) -> str:
    """The preset, or a plan like it whose thirds are those of every block."""
    preset = load_scenario(f"camvid:{options.plan}")
    if options.blocks == 1:
        return preset.name
    lines = [f'name = "camvid:{options.plan}-{options.blocks}"']
    for step, images in enumerate(images_of_steps(dataset, options.blocks, len(preset.steps))):
        lines.append(f"[[step]]\nclasses = {json.dumps(preset.steps[step].classes)}")
        lines.append(f"images = {json.dumps(images)}")
    path = options.runs / f"{options.plan}-{options.blocks}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def images_of_steps(dataset: Dataset, blocks: int, steps: int) -> list[list[str]]:
    """Cut every sequence into blocks and every block into one contiguous part for each step."""
    sequences = defaultdict(list)
    for image in dataset.ids("train"):
        sequences[dataset.sequence(image)].append(image)
    images: list[list[str]] = [[] for _ in range(steps)]
    for frames in sequences.values():
        for i, part in enumerate(np.array_split(np.array(frames), blocks * steps)):
            images[i % steps].extend(part.tolist())
    return images


def train_own_labels(conditions: Conditions, options: argparse.Namespace) -> None:
    """Train all steps at once, each image labelled for its step's classes alone."""
    dataset = open_dataset("camvid", data_root=options.data_root)
    scenario = load_scenario(conditions.base["scenario"])
    path = folder_of(OWN_LABELS, conditions, options.runs)
    folders = list(own_labels(dataset, scenario, options.blocks, path.with_suffix(".data")))
    classes = [c for step in scenario.steps for c in step.classes]
    settings = {k: v for k, v in conditions.base.items() if k not in ("data", "scenario")}
    edgeinc.train(
        folders,
        classes=classes,
        method=PLAIN,
        run=path,
        resume=True,
        progress=Ui().progress,
        **settings,
    )


def own_labels(dataset: Dataset, scenario: Scenario, blocks: int, root: Path) -> Iterator[Path]:
    """One folder of images for each step, labelled for its classes, void elsewhere."""
    parts = images_of_steps(dataset, blocks, len(scenario.steps))
    for number, (step, images) in enumerate(zip(scenario.steps, parts, strict=True)):
        given = [dataset.label(name) for name in step.classes]
        labels = [Label(i, label.name, label.color) for i, label in enumerate(given)]
        look_up = np.full(256, VOID, np.uint8)
        look_up[[label.id for label in given]] = range(len(given))
        samples = (
            ("train", image.replace("/", "_"), dataset.image(image), look_up[dataset.mask(image)])
            for image in images
        )
        write_folder(root / f"step-{number}", samples, labels=labels)
        yield root / f"step-{number}"


def write_table(conditions: Conditions, options: argparse.Namespace) -> None:
    """One line per row and step, from the run folders; other conditions in the file are kept."""
    evaluation = {"data": "camvid", "data_root": options.data_root, "threads": options.threads}
    lines: list[dict[str, object]] = []
    for name in (OWN_LABELS, *ROWS):
        run = folder_of(name, conditions, options.runs)
        lines += lines_of(name, run, conditions.tasks, **evaluation)
    write_lines(lines, conditions, options.out)


if __name__ == "__main__":
    main()
