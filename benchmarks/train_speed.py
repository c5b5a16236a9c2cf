"""An extension iteration against the plain loop it replaces, interleaved in one process.

    python benchmarks/train_speed.py --data-root DIR

Both do the same work: CIL's second step on CamVid, ERFNet, batch 6, data read, augmented and
learned from. The plain loop is what one writes first: fp32, contiguous tensors, the teacher as it
was trained (under no_grad), torch's default Adam, images read when they are needed. edgeinc is
measured as all epochs but the first are: images decoded once and kept. Each turn runs one iteration
of either; medians and their ratio are printed and written to a CSV.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F

from edgeinc import config, host
from edgeinc.config import TrainSettings
from edgeinc.data import open_dataset
from edgeinc.data._augment import augment
from edgeinc.data._batches import Batches
from edgeinc.data._labels import extend_table, first_table, training_remap
from edgeinc.methods import StepContext
from edgeinc.methods.cil import CIL
from edgeinc.models import Model, create
from edgeinc.models._fold import folded
from edgeinc.schema import VOID
from edgeinc.training import loop

BASE, NEW = ("sky", "road", "pavement"), ("building", "tree")
BATCH = 6


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", help="folder that holds camvid/")
    parser.add_argument("--size", default="360x480", help="CamVid's own by default")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    default = Path(__file__).parent / "results" / "train_speed.csv"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    size, threads = config.parse_size(options.size), options.threads or host.cores()
    torch.set_num_threads(threads)
    with TemporaryDirectory() as folder:
        ours, waits = make_ours(options, size, options.turns + 3, Path(folder))
        plain = make_plain(options, size)
        times: dict[str, list[float]] = {"plain": [], "edgeinc": []}
        for turn in range(options.turns + 3):
            for name, iterate in (("plain", plain), ("edgeinc", ours)):
                start = perf_counter()
                iterate()
                if turn >= 3:  # the first turns fill caches and choose kernels
                    times[name].append(perf_counter() - start)
    write(options, threads, times, waits[3:])


def networks() -> tuple[Model, Model]:
    """A student of five classes and its teacher of three."""
    torch.manual_seed(0)
    return create("erfnet", [len(BASE), len(NEW)]), create("erfnet", [len(BASE)])


def make_batches(options: argparse.Namespace, size: tuple[int, int], workers: int) -> Batches:
    """The new images with the new labels only."""
    data = open_dataset("camvid", data_root=options.data_root)
    table = extend_table(first_table(data, BASE), data, NEW)
    remap = training_remap(data, table, NEW)
    return Batches(
        data,
        data.ids("train"),
        remap=remap,
        size=size,
        batch_size=BATCH,
        seed=0,
        step=1,
        workers=workers,
    )


def context() -> StepContext:
    """CIL's second step, without class weights."""
    return StepContext(len(BASE), len(BASE) + len(NEW), "none", None)


def make_ours(
    options: argparse.Namespace, size: tuple[int, int], iterations: int, folder: Path
) -> tuple[Callable[[], None], list[float]]:
    """One iteration of the training loop as `extend` runs it, and what it waited for data."""
    student, teacher = networks()
    settings = TrainSettings(batch_size=BATCH)
    device = torch.device("cpu")
    precision = "bf16" if host.computes_bf16() else "fp32"
    teacher = folded(teacher).to(loop.DTYPES[precision])
    job = loop.Fit(
        model=student.to(memory_format=torch.channels_last).train(),
        teacher=teacher.to(memory_format=torch.channels_last),
        old=None,
        method=CIL(CIL.Config(), context()),
        batches=make_batches(options, size, settings.workers),
        settings=settings,
        precision=precision,
        device=device,
        iterations=iterations,
        folder=folder,
    )
    optimizer = loop.make_optimizer(job.method.groups(student), settings)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for _ in job.batches.stream(0, job.batches.per_epoch):
        pass  # the first epoch decodes; all others find the images decoded, as these turns do
    first = job.batches.per_epoch
    stream, waits = job.batches.stream(first, first + iterations), []

    def iterate() -> None:
        waits.append(loop._iteration(job, student, stream, optimizer, scaler)["wait_s"])

    return iterate, waits


def make_plain(options: argparse.Namespace, size: tuple[int, int]) -> Callable[[], None]:
    """One iteration as one writes it first."""
    student, teacher = networks()
    student.train()
    teacher.eval()
    batches = make_batches(options, size, 0)
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-4, weight_decay=3e-4)
    rng, ids = np.random.default_rng(0), list(batches.ids)

    def iterate() -> None:
        images, labels = [], []
        for name in rng.choice(ids, BATCH, replace=False):
            image, mask = batches.dataset.image(str(name)), batches.dataset.mask(str(name))
            image, mask = augment(image, mask, rng=rng, size=size)
            images.append(image)
            labels.append(batches.remap(str(name))[mask])
        x = student.normalise(torch.from_numpy(np.stack(images))).contiguous()
        with torch.no_grad():
            answer = teacher(x).logits
        loss = plain_loss(student(x).logits, answer, torch.from_numpy(np.stack(labels)).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        float(loss.detach())

    return iterate


def plain_loss(logits: torch.Tensor, answer: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """CIL's loss, term by term as the paper has it."""
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=VOID)
    q = answer.softmax(1)
    weight = 1 - (q * q.clamp(min=1e-12).log2()).sum(1)
    distilled = -(q * logits.log_softmax(1)[:, : q.shape[1]]).sum(1) * weight
    return cross_entropy + distilled[labels == VOID].mean()


def write(
    options: argparse.Namespace, threads: int, times: dict[str, list[float]], waits: list[float]
) -> None:
    """One line per measurement; earlier lines are kept."""
    plain, ours = median(times["plain"]), median(times["edgeinc"])
    pairs = sorted(p / o for p, o in zip(times["plain"], times["edgeinc"], strict=True))
    facts = host.host()
    line = {
        "size": options.size,
        "batch": BATCH,
        "threads": threads,
        "turns": options.turns,
        "plain_ms": f"{1000 * plain:.0f}",
        "edgeinc_ms": f"{1000 * ours:.0f}",
        "ratio": f"{plain / ours:.2f}",
        "ratio_low": f"{pairs[len(pairs) // 10]:.2f}",
        "ratio_high": f"{pairs[-1 - len(pairs) // 10]:.2f}",
        "wait_for_data_percent": f"{100 * sum(waits) / sum(times['edgeinc']):.1f}",
        "hardware": f"{facts.cpu}, {facts.cores} cores",
        "versions": " ".join(f"{k}={v}" for k, v in facts.versions.items()),
    }
    rows = []
    if options.out.exists():
        with options.out.open(encoding="utf-8", newline="") as file:
            same = ("size", "threads", "hardware")
            rows = [r for r in csv.DictReader(file) if any(r[k] != str(line[k]) for k in same)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, line])
    for key, value in line.items():
        sys.stdout.write(f"{key:>22}  {value}\n")


if __name__ == "__main__":
    main()
