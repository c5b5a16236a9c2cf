"""How true a network's answers are where an extension has no label: what its teacher would teach.

    python benchmarks/what_teachers_say.py --data-root DIR

Takes the base steps of `camvid_3task.py` (which has to have run) and the images of its step 1. Of
all pixels without a label of step 1 for which a base answers a certain class, a CSV has the
percentage that is this class, and what the largest part of the rest is. For the base of
`ejt` it has the mean probability of unknown on right and on wrong answers too.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import edgeinc
from edgeinc.data import open_dataset
from edgeinc.data._augment import resize
from edgeinc.models import Model
from edgeinc.runs import Run
from edgeinc.training.execute import restore

HERE = Path(__file__).parent
CONDITIONS = "coarse-4-erfnet-96x128-30-log-0-1"
BASES = {"finetune": "base", "ejt": "base-ejt"}


def main() -> None:
    """Look at every base, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", help="folder that holds camvid/")
    runs = HERE / "runs" / "camvid_3task" / CONDITIONS
    parser.add_argument("--runs", type=Path, default=runs)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "what_teachers_say.csv")
    options = parser.parse_args()
    lines = []
    for method, folder in BASES.items():
        run = edgeinc.open_run(options.runs / folder)
        lines += [{"base": method, **line} for line in lines_of(run, options.data_root)]
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    sys.stdout.write(options.out.read_text(encoding="utf-8"))


def lines_of(run: Run, data_root: str | None) -> Iterator[dict[str, str]]:
    """One line for each class of a base."""
    scenario = run.info.scenario
    assert scenario is not None
    dataset = open_dataset("camvid", data_root=data_root)
    table, step = run.step(0).table, scenario.steps[1]
    names = {label.id: label.name for label in dataset.labels}
    labelled = [dataset.label(name).id for name in step.classes]
    model, row = restore(run, [len(table.classes)]).eval(), run.memory(0)
    beside = load_file(row) if row else None
    size = run.info.size
    samples = (resize(dataset.image(i), dataset.mask(i), size) for i in step.images or ())
    looked = [look(model, beside, image, mask) for image, mask in samples]
    said, unknown, truth = (np.concatenate(part) for part in zip(*looked, strict=True))
    left = ~np.isin(truth, labelled)
    for known in table.classes:
        here = left & (said == known.id)
        right = here & (truth == dataset.label(known.name).id)
        wrong = here & ~right
        ids, counts = np.unique(truth[wrong], return_counts=True)
        most = names.get(int(ids[counts.argmax()]), "void")
        yield {
            "answer": known.name,
            "pixels": str(int(here.sum())),
            "right_percent": f"{100 * right.sum() / here.sum():.1f}",
            "most_of_the_rest": f"{most} {100 * counts.max() / here.sum():.1f}",
            "unknown_where_right": "" if beside is None else f"{unknown[right].mean():.3f}",
            "unknown_where_wrong": "" if beside is None else f"{unknown[wrong].mean():.3f}",
        }


def look(
    model: Model, beside: dict[str, torch.Tensor] | None, image: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The answer among known classes, the probability of unknown, and the truth, pixel by pixel."""
    with torch.no_grad():
        output = model(model.normalise(torch.from_numpy(image[None])))
        scores = output.logits[0]
        unknown = torch.zeros(scores.shape[1:])
        if beside is not None:
            head = model.heads()[0]
            weight = beside["weight"].unsqueeze(head.class_axis)
            extra = head.scores_with(output.features, weight, beside["bias"])[0]
            unknown = torch.cat([scores, extra]).softmax(0)[-1]
    return scores.argmax(0).numpy().ravel(), unknown.numpy().ravel(), mask.ravel()


if __name__ == "__main__":
    main()
