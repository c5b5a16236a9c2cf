"""Scoring a split against bare inference on the same images, interleaved in one process.

    python benchmarks/eval_overhead.py --data-root DIR

Bare is `session.run`, image by image, over images that are in memory at the network's size: nothing
is resized, compared or counted. `score_session` scores the same images, once with image and mask in
memory at their own size and once read from their files. Both run a full ERFNet of eleven classes
with untrained weights, which cost what trained ones do, as a step of a run and as the file that is
exported from it. Each turn runs all three over every image; medians and their ratios are printed
and written to a CSV.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from safetensors.torch import save_file

from edgeinc import config, host
from edgeinc.data import Dataset, Image, Label, Mask, open_dataset
from edgeinc.data._augment import resize_image
from edgeinc.data._labels import first_table
from edgeinc.deploy.export import export
from edgeinc.evaluation import score_session
from edgeinc.models import create
from edgeinc.runs import Run, create_run, sha256
from edgeinc.runtimes import Session, open_artifact
from edgeinc.schema import DataRef, RunInfo, Size, StepInfo

SPLIT = "val"
LIMIT = 1.2
"""How much of bare inference scoring from memory may take."""
WARM_TURNS = 2


class InMemory(Dataset):
    """The first images of a split, decoded once."""

    def __init__(self, source: Dataset, count: int) -> None:
        super().__init__(source.root)
        self.background = source.background
        self._labels, self._ref = source.labels, source.ref
        self.names = source.ids(SPLIT)[:count]
        self.images = {name: source.image(name) for name in self.names}
        self.masks = {name: source.mask(name) for name in self.names}

    @property
    def labels(self) -> tuple[Label, ...]:
        """Those of the source."""
        return self._labels

    @property
    def ref(self) -> DataRef:
        """That of the source."""
        return self._ref

    def splits(self) -> tuple[str, ...]:
        """The one."""
        return (SPLIT,)

    def ids(self, split: str) -> tuple[str, ...]:
        """Those that were decoded."""
        return self.names

    def image(self, image_id: str) -> Image:
        """From memory."""
        return self.images[image_id]

    def mask(self, image_id: str) -> Mask:
        """From memory."""
        return self.masks[image_id]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", help="folder that holds camvid/")
    parser.add_argument("--sizes", nargs="+", default=["144x192", "360x480"])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0)
    default = Path(__file__).parent / "results" / "eval_overhead.csv"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    files = open_dataset("camvid", data_root=options.data_root)
    memory = InMemory(files, options.images)
    with TemporaryDirectory() as folder:
        for text in options.sizes:
            run = untrained(Path(folder) / text, config.parse_size(text), files)
            for artifact in (run.folder(0), Path(export(run.path).path)):
                with open_artifact(artifact, device="cpu", threads=options.threads) as session:
                    times = measure(session, memory, files, options)
                write(options, session, memory, times)


def untrained(path: Path, size: Size, data: Dataset) -> Run:
    """A run whose only step was never trained."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    table = first_table(data, None)
    run = create_run(path, RunInfo("erfnet", {}, size, now))
    run.folder(0).mkdir()
    torch.manual_seed(0)
    weights = run.folder(0) / "weights.safetensors"
    save_file(create("erfnet", [len(table.classes)]).state_dict(), weights)
    run.write_step(
        StepInfo(
            index=0,
            status="done",
            method="base",
            method_options={},
            new_classes=table.names,
            classes=table.classes,
            background=table.background,
            data=data.ref,
            images=0,
            images_sha256="",
            settings={},
            host=host.host(),
            command="",
            started=now,
            iterations=0,
            weights_sha256=sha256(weights),
        )
    )
    return run


def measure(
    session: Session, memory: InMemory, files: Dataset, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Milliseconds per image of every turn: bare, from memory and from files."""
    count = len(memory.names)
    ready = [resize_image(image, session.size)[None] for image in memory.images.values()]

    def bare() -> None:
        for image in ready:
            session.run(image)

    ways: dict[str, Callable[[], object]] = {
        "bare": bare,
        "memory": lambda: score_session(session, memory, split=SPLIT),
        "files": lambda: score_session(session, files, split=SPLIT, limit=count),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.turns + WARM_TURNS):
        for name, work in ways.items():
            start = perf_counter()
            work()
            if turn >= WARM_TURNS:  # the first turns fill caches and choose kernels
                times[name].append(1000 * (perf_counter() - start) / count)
    return times


def write(
    options: argparse.Namespace,
    session: Session,
    memory: InMemory,
    times: dict[str, list[float]],
) -> None:
    """One line per session and size; earlier lines of other settings are kept."""
    facts = host.host()
    ratios = {
        name: sorted(t / b for t, b in zip(times[name], times["bare"], strict=True))
        for name in ("memory", "files")
    }
    height, width = next(iter(memory.masks.values())).shape
    line = {
        "runtime": session.runtime,
        "size": f"{session.size[0]}x{session.size[1]}",
        "mask": f"{height}x{width}",
        "images": len(memory.names),
        "threads": session.threads,
        "turns": options.turns,
        "bare_ms": f"{median(times['bare']):.1f}",
        "score_ms": f"{median(times['memory']):.1f}",
        "ratio": f"{median(ratios['memory']):.2f}",
        "ratio_low": f"{ratios['memory'][options.turns // 10]:.2f}",
        "ratio_high": f"{ratios['memory'][-1 - options.turns // 10]:.2f}",
        "limit": LIMIT,
        "from_files_ms": f"{median(times['files']):.1f}",
        "from_files_ratio": f"{median(ratios['files']):.2f}",
        "hardware": f"{facts.cpu}, {facts.cores} cores",
        "versions": " ".join(f"{k}={v}" for k, v in facts.versions.items()),
    }
    rows = []
    if options.out.exists():
        with options.out.open(encoding="utf-8", newline="") as file:
            same = ("runtime", "size", "mask", "threads", "hardware")
            rows = [r for r in csv.DictReader(file) if any(r[k] != str(line[k]) for k in same)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, line])
    for key, value in line.items():
        sys.stdout.write(f"{key:>18}  {value}\n")


if __name__ == "__main__":
    main()
