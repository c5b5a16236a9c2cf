"""Three tasks on CamVid: joint, finetune and CIL side by side, from one shared base step.

    python benchmarks/camvid_3task.py --data-root DIR            # plan coarse, on a CPU
    python benchmarks/camvid_3task.py --plan full --size 360x480 # small classes, on a GPU

The images of the three steps are the first, middle and last contiguous third of every sequence of
`train`; scores are on `val` at its own resolution. Every row trains with the same settings; all
extensions start from the same step 0. Interrupted or killed, the same command continues; finished
rows are kept. Two processes may share the work: give each its `--rows`.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import edgeinc
from edgeinc import config, metrics
from edgeinc.cli._ui import Ui
from edgeinc.data._scenario import load_scenario
from edgeinc.errors import RunError
from edgeinc.progress import Progress
from edgeinc.runs import Run
from edgeinc.schema import EvalResult, Scenario, StepInfo

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One line of the table: a method and its options."""

    method: str
    sets: tuple[str, ...] = ()
    overrides: dict[str, object] = field(default_factory=dict)


ROWS = {
    "joint": Row("joint"),
    "finetune": Row("finetune"),
    "cil": Row("cil"),
    "cil, no entropy weights": Row("cil", ("method.entropy_weights=false",)),
    "cil, fresh": Row("cil", ("method.init=fresh",)),
    "cil, fresh, no entropy weights": Row(
        "cil", ("method.init=fresh", "method.entropy_weights=false")
    ),
}


def main() -> None:
    """Train what is missing, then write the table of everything that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plan", choices=("coarse", "full"), default="coarse")
    parser.add_argument("--rows", default=";".join(ROWS), help="names separated by ';'")
    parser.add_argument("--data-root", help="folder that holds camvid/")
    parser.add_argument("--size", default="144x192")
    parser.add_argument("--model", default="erfnet")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--class-weights", choices=("none", "log", "inverse"), default="log")
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / "camvid_3task")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "camvid_3task.csv")
    options = parser.parse_args()
    progress = Ui().progress
    for name in options.rows.split(";"):
        train_row(name, options, progress)
    write_table(options)
    sys.stdout.write(f"wrote {options.out}\n")


def folder_of(name: str, options: argparse.Namespace) -> Path:
    """The run of a row, named by everything that makes it different from another."""
    conditions = f"{options.plan}-{options.model}-{options.size}-{options.epochs}"
    conditions += f"-{options.class_weights}-seed{options.seed}"
    return Path(options.runs / conditions / name.replace(", ", "_").replace(" ", "-"))


def train_row(name: str, options: argparse.Namespace, progress: Progress) -> None:
    """Train a row's steps, from the shared base step for an extension."""
    row, path = ROWS[name], folder_of(name, options)
    scenario = load_scenario(f"camvid:{options.plan}")
    common = {
        "data_root": options.data_root,
        "progress": progress,
        "resume": True,
    }
    settings = {
        "epochs": options.epochs,
        "threads": options.threads,
        "workers": 1,
        "seed": options.seed,
        "class_weights": options.class_weights,
    }
    size = config.parse_size(options.size)
    base = {"model": options.model, "size": size, **common, **settings}
    if name == "joint":
        classes = [c for step in scenario.steps for c in step.classes]
        edgeinc.train("camvid", classes=classes, run=path, **base)
        return
    shared = folder_of("base", options)
    edgeinc.train("camvid", scenario=f"camvid:{options.plan}", run=shared, **base)
    if not path.exists():
        unfinished = path.with_suffix(".copying")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(shared, unfinished)
        unfinished.rename(path)
    if len(Run(path).steps) < len(scenario.steps):
        edgeinc.extend(path, method=row.method, all_steps=True, sets=row.sets, **common)


def write_table(options: argparse.Namespace) -> None:
    """One line per row and step, from the run folders; other conditions in the file are kept."""
    scenario = load_scenario(f"camvid:{options.plan}")
    lines = []
    for name in ROWS:
        with suppress(edgeinc.errors.UsageError, RunError):
            run = edgeinc.open_run(folder_of(name, options))
            for step in run.steps:
                score = run.score(step.index)
                if score is not None:
                    lines.append(line_of(name, options, scenario, step, score))
    key = ("plan", "model", "size", "epochs", "class_weights", "seed")
    mine = tuple(str(getattr(options, k)) for k in key)
    if options.out.exists():
        with options.out.open(encoding="utf-8", newline="") as file:
            kept = [r for r in csv.DictReader(file) if tuple(r[k] for k in key) != mine]
        lines = kept + lines
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def line_of(
    name: str,
    options: argparse.Namespace,
    scenario: Scenario,
    step: StepInfo,
    score: EvalResult,
) -> dict[str, object]:
    """What one step of a row scored, and under which conditions."""
    iou = {c.name: c.iou for c in score.classes}
    tasks = {}
    for index, planned in enumerate(scenario.steps):
        known = [iou.get(c) for c in planned.classes]
        mean = metrics.mean(known, range(len(known)))
        tasks[f"task{index}"] = "" if mean is None else f"{mean:.2f}"
    return {
        "plan": options.plan,
        "row": name,
        "step": len(scenario.steps) - 1 if name == "joint" else step.index,
        "miou": f"{score.miou.all:.2f}",
        **tasks,
        "seconds": f"{step.seconds:.0f}",
        "images": step.images,
        "iterations": step.iterations,
        "scored_images": score.images,
        "model": options.model,
        "size": options.size,
        "epochs": options.epochs,
        "class_weights": options.class_weights,
        "seed": options.seed,
        "precision": step.settings["precision"].value,
        "threads": options.threads,
        "hardware": step.host.gpu or f"{step.host.cpu}, {step.host.cores} cores",
        "versions": " ".join(f"{k}={v}" for k, v in step.host.versions.items()),
        "iou": json.dumps({k: None if v is None else round(v, 2) for k, v in iou.items()}),
    }


if __name__ == "__main__":
    main()
