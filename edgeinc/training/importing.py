"""`import_weights`: step 0 of a run from published weights, for a network edgeinc never trained.

Rules: every tensor of the file and of the network is accounted for, or nothing is written; the
classes are named by the user, in the order of the outputs; the run normalises images as the
weights were trained, so that its logits are those of the source.

    result = import_weights("erfnet_pretrained.pth", model="erfnet", classes="cityscapes")
    result.dropped          # {"encoder.output_conv.weight": "classifies in ...", ...}
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from edgeinc import host, registry
from edgeinc.clock import written_now
from edgeinc.config import Layer, from_sets, resolve
from edgeinc.data import Dataset, open_dataset
from edgeinc.errors import UsageError
from edgeinc.models import Model, check_size, create, nearest_size
from edgeinc.models._pretrained import read_weights
from edgeinc.models._published import Published, published
from edgeinc.runs import check_free, create_run, sha256, write_atomic
from edgeinc.schema import (
    IMPORT,
    DataRef,
    ImportResult,
    Normalisation,
    RunInfo,
    Size,
    StepInfo,
)
from edgeinc.training.outputs import Classes, fitted, read_classes

__all__ = ["import_weights"]

FALLBACK_SIZE = (512, 1024)
"""Where neither the classes nor the data say one: what the networks of these releases were
measured with on Cityscapes."""


def import_weights(
    file: str | os.PathLike[str],
    *,
    model: str,
    classes: str | Sequence[str],
    background: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: Size | None = None,
    data: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    sets: Sequence[str] = (),
    run: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> ImportResult:
    """Make step 0 of a new run from a file of published weights.

    Args:
        file: `.pth`, `.pth.tar` or `.safetensors`: our own names, the ERFNet PyTorch release's or
            those of CoinCheung's BiSeNet v1.
        model: Name of the network.
        classes: What the outputs mean, in their order: names, or a comma list of them; or a data
            set that fixes its classes; or a file with one name per line; or a classes.toml.
        background: `real` where the first output is a background, else `none`; None takes what
            the data set of `classes` has. `none` with such a data set leaves its background out.
        mean, std: Normalisation the weights were trained with, red, green and blue, for values of
            0 to 1; None takes the release's.
        size: (height, width) of the input; None takes the default of the data set of `classes`,
            else that of `data`, else 512x1024, or the nearest that the network can divide.
        data: Data set the run belongs to; None leaves it unknown.
        data_root: Where named data sets lie.
        sets: `model.KEY=VALUE` options of the network.
        run: Folder of the run; None makes `runs/FILE-MODEL`.
        overwrite: Delete an existing run first.

    Raises:
        UsageError: Something asked for does not exist or does not fit.
        EdgeincError: The file needs code to be run, is damaged, or has another number of
            tensors, names or shapes than the network.
        DataError: The data set or the list of classes cannot be read.
    """
    source = Path(file)
    path = Path(run or Path("runs") / f"{source.name.partition('.')[0] or 'weights'}-{model}")
    registry.load("models", model)
    meant = read_classes(classes, background)
    dataset = open_dataset(data, data_root=data_root) if data is not None else None
    chosen = _size(model, size, meant, dataset)
    given = _normalisation(mean, std)
    options = _given_options(model, sets)
    _check_place(path, source, overwrite)

    weights = fitted(published(read_weights(source), model, source), meant)
    norm = given or weights.normalisation
    built = _options(model, weights.options, options)
    info = RunInfo(model, built, chosen, written_now(), mean=norm.mean, std=norm.std)
    network = _network(info, weights, len(meant.names))
    command = _command(
        source,
        model=model,
        classes=classes if isinstance(classes, str) else ",".join(classes),
        background=background,
        mean=mean,
        std=std,
        size=f"{chosen[0]}x{chosen[1]}",
        data=data,
        data_root=data_root,
        set=sets,
        run=path,
    )
    origin = {"file": source.name, "sha256": sha256(source), "format": weights.title}
    step = _step(meant, dataset.ref if dataset else DataRef("", ""), origin, command)
    step = _write(path, info, step, network, overwrite=overwrite)
    return ImportResult(
        run=str(path),
        step=step,
        file=str(source),
        sha256=origin["sha256"],
        format=weights.title,
        size=chosen,
        mean=_unit(info.mean),
        std=_unit(info.std),
        normalisation="given" if given else weights.source,
        matched=weights.matched,
        dropped=weights.dropped,
        filled=weights.filled,
        notes=(*weights.notes, *_counters(weights, network)),
    )


# ---------------------------------------------------------------------------------- the network


def _given_options(model: str, sets: Sequence[str]) -> Layer:
    layer = from_sets(sets)
    for key in layer.values:
        if key != "model":
            raise UsageError(
                f"--set {key} is a setting of training, which import does not do",
                hint="import takes only --set model.KEY=VALUE",
            )
    resolve(registry.load("models", model).Config, [layer], table="model")
    return layer


def _options(model: str, found: Mapping[str, Any], given: Layer) -> dict[str, Any]:
    """Every option of the network: what the file asks for, unless the user says otherwise."""
    layers = [Layer("the file", {"model": dict(found)}), given]
    _, sources = resolve(registry.load("models", model).Config, layers, table="model")
    return {name: setting.value for name, setting in sources.items()}


def _network(info: RunInfo, weights: Published, classes: int) -> Model:
    with torch.random.fork_rng([]):  # what is drawn is overwritten; the caller's numbers stay
        model = create(info.model, [classes], info.model_options, normalisation=info.normalisation)
    return weights.fit(model)


def _counters(weights: Published, network: Model) -> tuple[str, ...]:
    """BatchNorm's counts of batches, which old files do not have and nothing reads."""
    absent = [name for name in network.state_dict() if name not in weights.tensors]
    return (f"{len(absent)} counters of training batches start at 0",) if absent else ()


def _normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalisation | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UsageError("mean and std go together", hint="give both --mean R,G,B and --std R,G,B")
    for flag, values in (("--mean", mean), ("--std", std)):
        shown = ",".join(f"{v:g}" for v in values)
        if len(values) != 3:
            raise UsageError(f"{flag} {shown} is not three values", hint=f"write {flag} R,G,B")
        low = 0 if flag == "--mean" else 1e-6
        if not all(math.isfinite(v) and low <= v <= 1 for v in values):
            raise UsageError(
                f"{flag} {shown} is not for pixel values of 0 to 1",
                hint="divide what is for 0 to 255 by 255: 123.675 is 0.485",
            )
    return Normalisation(_times_255(mean), _times_255(std))


def _times_255(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (round(255 * value, 6) for value in values)
    return red, green, blue


def _unit(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (round(value / 255, 6) for value in values)
    return red, green, blue


def _size(model: str, size: Size | None, classes: Classes, dataset: Dataset | None) -> Size:
    if size is None:
        fallback = dataset.default_size if dataset and not classes.size else FALLBACK_SIZE
        return nearest_size(model, classes.size or fallback)
    check_size(model, size)
    return size


# ---------------------------------------------------------------------------------- the run


def _check_place(path: Path, source: Path, overwrite: bool) -> None:
    """Refuse a run folder before any work, and one whose deletion takes the weights along."""
    if (path / "run.json").is_file() and not overwrite:
        raise UsageError(
            f"{path} already exists", hint="add --overwrite to start again, or another --run"
        )
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not the folder of a run", hint="choose another --run")
    if path.resolve() in source.resolve().parents and path.exists():
        raise UsageError(f"{source} lies in the run it would become", hint="choose another --run")
    check_free(path, overwrite=overwrite)


def _step(classes: Classes, data: DataRef, origin: dict[str, Any], command: str) -> StepInfo:
    return StepInfo(
        index=0,
        status="done",
        method=IMPORT,
        method_options=origin,
        new_classes=classes.names,
        classes=classes.table,
        background=classes.background,
        data=data,
        images=0,
        images_sha256="",
        settings={},
        host=host.host(),
        command=command,
        started=written_now(),
        iterations=0,
    )


def _write(
    path: Path, info: RunInfo, step: StepInfo, network: Model, *, overwrite: bool
) -> StepInfo:
    folder = create_run(path, info, overwrite=overwrite)
    tensors = {name: t.detach().contiguous() for name, t in network.state_dict().items()}
    with folder.lock():
        weights = folder.folder(0) / "weights.safetensors"
        weights.parent.mkdir(exist_ok=True)
        write_atomic(weights, save(tensors))
        step = replace(step, weights_sha256=sha256(weights))
        folder.write_step(step)
    return step


def _command(file: Path, **arguments: Any) -> str:
    """The command that repeats the import."""
    words = ["edgeinc", "import", str(file)]
    for key, value in arguments.items():
        if key == "set":
            words += [word for each in value for word in ("--set", each)]
        elif value is not None:
            text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
            words += [f"--{key.replace('_', '-')}", text]
    return shlex.join(words)
