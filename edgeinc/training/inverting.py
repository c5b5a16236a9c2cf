"""`invert`: make the images that a step's network holds of its classes, and keep them in its run.

An extension by a method that uses such images makes them itself; here they are made before, looked
at, or made with other options. With the same options the extension finds what lies here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from edgeinc import config as settings
from edgeinc import host
from edgeinc.config import TrainSettings
from edgeinc.errors import UsageError
from edgeinc.methods._inversion import Recipe
from edgeinc.methods._inversion import invert as make_images
from edgeinc.methods.hrhf import HRHF, computing, old_classes
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import open_run
from edgeinc.runtimes.torch import pick_device
from edgeinc.schema import InvertedClass, InvertResult, StepInfo
from edgeinc.training.execute import restore
from edgeinc.training.gallery import Gallery
from edgeinc.training.loop import DTYPES
from edgeinc.training.plan import gather_layers, inherited, pick_precision

__all__ = ["invert"]


def invert(
    run: str | os.PathLike[str],
    *,
    step: int | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    config: Sequence[str | os.PathLike[str]] = (),
    sets: Sequence[str] = (),
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    seed: int | None = None,
    progress: Progress = SILENT,
) -> InvertResult:
    """Make images of every class that a network knows, or finish what was begun.

    Args:
        run: Folder of the run.
        step: The network after this step; None takes the newest.
        out: Folder to copy the pictures to; None leaves them in the run only.
        overwrite: Make again what is there.
        config: TOML files with settings.
        sets: `method.KEY=VALUE` options, those of `hrhf`.
        device, precision, threads, seed: See `edgeinc.config.TrainSettings`; None takes what the
            step was trained with.
        progress: Told about every iteration.

    Raises:
        UsageError: A setting is not usable, or there is no class to show.
        RunError: The run has no such step, is locked or damaged, or the disk is full.
        MissingError: The device is not here.
        Interrupted: Ctrl-C; what was made is kept.
    """
    folder = open_run(run)
    info = folder.step(step)
    flags = {"device": device, "precision": precision, "threads": threads, "seed": seed}
    layers = [inherited(info, "hrhf"), *gather_layers([Path(c) for c in config], sets, flags)]
    chosen, _ = settings.resolve(TrainSettings, layers)
    options, _ = settings.resolve(HRHF.Config, layers, table="method")
    classes = old_classes(len(info.classes), info.background)
    if not classes:
        raise UsageError(
            f"step {info.index} of {folder.path} knows only a background", hint="train a class"
        )
    place = torch.device(pick_device(chosen.device))
    dtype = computing(DTYPES[pick_precision(chosen.precision, place)])
    recipe = Recipe.of(options)
    gallery = Gallery(folder, info)
    key = recipe.key(folder.info.size, chosen.seed, dtype)
    with folder.lock(), _threads(chosen.threads):
        if overwrite:
            shutil.rmtree(gallery.folder / key, ignore_errors=True)
        counts = [len(info.table.of_step(i)) for i in range(info.index + 1)]
        network = restore(folder, counts).eval().requires_grad_(False)
        network.drop_unknown()  # what an extension by another method would start from
        batches = make_images(
            network.to(place, memory_format=torch.channels_last),  # type: ignore[call-overload]
            classes,
            recipe,
            size=folder.info.size,
            seed=chosen.seed,
            dtype=dtype,
            store=gallery,
            progress=progress,
        )
    pictures = sorted((gallery.folder / key).glob("*.png"))
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        for file in pictures:
            shutil.copyfile(file, Path(out) / file.name)
    return _result(batches, info, folder.path, gallery.folder / key, out)


def _result(
    batches: Sequence[dict[str, Tensor]],
    info: StepInfo,
    run: Path,
    folder: Path,
    out: str | os.PathLike[str] | None,
) -> InvertResult:
    wished = torch.cat([b["wished"] for b in batches])
    share = torch.cat([b["share"] for b in batches])
    noise, made = torch.stack([b["bn"] for b in batches]).mean(0).tolist()
    rows = []
    for entry in info.classes:
        asked = share[wished == entry.id]
        if len(asked):
            found, area = (100 * float(t.float().mean()) for t in (asked > 0, asked))
            rows.append(InvertedClass(entry.name, len(asked), round(found, 1), round(area, 1)))
    return InvertResult(
        run=str(run),
        step=info.index,
        folder=str(folder),
        images=len(wished),
        found=round(100 * float((share > 0).float().mean()), 1),
        classes=tuple(rows),
        bn_noise=noise,
        bn_images=made,
        seconds=round(sum(float(b["seconds"]) for b in batches), 1),
        out="" if out is None else os.fspath(out),
    )


@contextmanager
def _threads(asked: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(asked or host.cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
