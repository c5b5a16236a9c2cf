"""What a step is going to be, decided before anything is written.

A `StepPlan` holds the record that goes into step.json and what the loop needs beside it. Planning
reads masks (to know what the images show) and settings, and refuses whatever cannot work.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeinc import config, host, registry
from edgeinc.clock import written_now
from edgeinc.config import Layer, TrainSettings
from edgeinc.data import Dataset
from edgeinc.data._conventions import load_convention
from edgeinc.data._index import Counts
from edgeinc.data._labels import Remap, training_remap
from edgeinc.data._select import held_out, read_index, training_images
from edgeinc.errors import DataError, MissingError, UsageError
from edgeinc.methods import _losses, check_background
from edgeinc.models import create
from edgeinc.models._pretrained import read_weights
from edgeinc.progress import Progress
from edgeinc.runtimes.torch import pick_device
from edgeinc.schema import (
    IMPORT,
    ClassTable,
    RunInfo,
    Scenario,
    ScenarioStep,
    Setting,
    StepInfo,
)

NOT_INHERITED = ("limit", "index")
"""Settings that speak of one step's images and do not pass to the next step."""


@dataclass(frozen=True)
class StepPlan:
    """A step ready to be trained.

    Attributes:
        info: The record, with status `planned`.
        settings: Resolved settings.
        dataset: Where the images are.
        images: Ids of the step's images.
        held_out: Ids of its images that are kept out of training.
        remap: Dataset ids to ids of the network, hidden classes removed.
        counts: Pixels per dataset id in the images.
        device, precision: What `auto` came out as.
        parent: The previous step, None at step 0.
    """

    info: StepInfo
    settings: TrainSettings
    dataset: Dataset
    images: tuple[str, ...]
    held_out: tuple[str, ...]
    remap: Remap
    counts: Counts
    device: torch.device
    precision: str
    parent: StepInfo | None


def gather_layers(
    configs: Sequence[str | Path], sets: Sequence[str], flags: Mapping[str, Any]
) -> list[Layer]:
    """The user's sources of settings in rising strength: files, environment, --set, flags.

    Raises:
        UsageError: A file or an item cannot be read.
    """
    return [
        *(config.from_file(Path(path)) for path in configs),
        config.from_environment(),
        config.from_sets(sets),
        config.from_flags(flags),
    ]


def inherited(step: StepInfo, method: str) -> Layer:
    """What an extension takes over from the step before, as the weakest source.

    Options of the method are among it where the method is the same.
    """
    values: dict[str, Any] = {
        name: s.value
        for name, s in step.settings.items()
        if s.source != "default" and name not in NOT_INHERITED
    }
    if method == step.method:
        known = {f.name for f in fields(registry.load("methods", method).Config)}
        values["method"] = {k: v for k, v in step.method_options.items() if k in known}
    return Layer(f"step {step.index}", values)


def plan_step(
    *,
    run: RunInfo,
    method: str,
    table: ClassTable,
    dataset: Dataset,
    layers: Sequence[Layer],
    parent: StepInfo | None,
    command: str,
    progress: Progress,
) -> StepPlan:
    """Decide everything about a step.

    Raises:
        UsageError: Settings, method or classes do not fit.
        DataError: The images show no pixel of a class, or cannot be read.
        MissingError: The device asked for is not here.
    """
    settings, sources = config.resolve(TrainSettings, layers)
    plugin = registry.load("methods", method)
    check_background(method, table.background)
    if parent is not None and parent.method != method and plugin.prepares:
        how = "imported" if parent.method == IMPORT else f"trained by {parent.method}"
        progress.message(
            f"method '{method}' could not prepare: step {parent.index} was {how}; {plugin.prepares}"
        )
    options, _ = config.resolve(plugin.Config, layers, table="method")
    if settings.init and (parent is None or plugin.init(options) == "fresh"):
        # Tried here, where nothing is written yet; the network of the step is built later.
        create(run.model, [1], run.model_options).load_backbone(read_weights(Path(settings.init)))
    device = torch.device(pick_device(settings.device))
    precision = pick_precision(settings.precision, device)
    rules = load_convention(settings.convention, dataset=dataset.ref.name)
    scenario = scenario_of(run.scenario, table, dataset, settings)
    every = plugin.labels == "all"
    if plugin.labels == "new-and-old" and parent is not None and scenario.labels == "new-only":
        raise UsageError(
            f"method '{method}' needs the labels of the older classes in the new images",
            hint="add --labels new-and-old where they are labelled, or use another method",
        )
    images, counts, kept_out = select_images(
        dataset, scenario, table, settings, every=every, progress=progress
    )
    step = table.last_step
    visible = table.names
    if not every and scenario.labels == "new-only":
        visible = tuple(c.name for c in table.of_step(step))
    info = StepInfo(
        index=step,
        status="planned",
        method=method,
        method_options=asdict(options),
        new_classes=tuple(c.name for c in table.of_step(step)),
        classes=table.classes,
        background=table.background,
        data=dataset.ref,
        images=len(images),
        images_sha256=hashlib.sha256("\n".join(images).encode()).hexdigest(),
        settings={**sources, "precision": Setting(precision, sources["precision"].source)},
        host=host.host(torch.cuda.get_device_name(device) if device.type == "cuda" else ""),
        command=command,
        started=written_now(),
        iterations=iterations(len(images), settings),
        parent_sha256=parent.weights_sha256 if parent else "",
    )
    return StepPlan(
        info=info,
        settings=settings,
        dataset=dataset,
        images=images,
        held_out=kept_out,
        remap=training_remap(dataset, table, visible, train_void=rules.train_void),
        counts=counts,
        device=device,
        precision=precision,
        parent=parent,
    )


def iterations(images: int, settings: TrainSettings) -> int:
    """Optimiser iterations of a step; what does not fill a batch is left out of an epoch."""
    batches = images // min(settings.batch_size, images)
    return max(1, batches // settings.accumulate) * settings.epochs


def scenario_of(
    planned: Scenario | None, table: ClassTable, dataset: Dataset, settings: TrainSettings
) -> Scenario:
    """The plan with the settings' own choices; a plan of the classes so far where there is none.

    What the data labels beside them comes after: that is what `disjoint` keeps out.

    Raises:
        UsageError, DataError: The index file cannot be used.
    """
    scenario = planned
    if scenario is None:
        names = [tuple(c.name for c in table.of_step(i)) for i in range(table.last_step + 1)]
        if table.background != "none":
            names[0] = names[0][1:]
        known = {name for step in names for name in step}
        things = dataset.labels[dataset.background == "real" :]
        later = tuple(label.name for label in things if label.name not in known)
        steps = [*names, later] if later else names
        scenario = Scenario("", tuple(ScenarioStep(each) for each in steps))
    if settings.index:
        ids = read_index(Path(settings.index), dataset)
        plans = list(scenario.steps)
        plans[table.last_step] = ScenarioStep(plans[table.last_step].classes, images=ids)
        scenario = replace(scenario, steps=tuple(plans))
        if settings.selection == "auto":
            scenario = replace(scenario, selection="listed")
    if settings.selection != "auto":
        scenario = replace(scenario, selection=settings.selection)
    if settings.labels != "auto":
        scenario = replace(scenario, labels=settings.labels)
    return scenario


def select_images(
    dataset: Dataset,
    scenario: Scenario,
    table: ClassTable,
    settings: TrainSettings,
    *,
    every: bool,
    progress: Progress,
) -> tuple[tuple[str, ...], Counts, tuple[str, ...]]:
    """The images of the newest step in `table`, what they show, and images kept out.

    With `every`, those that all steps so far have: a limit cuts each of them, or it would leave
    those of the first alone.

    Raises:
        UsageError: The scenario does not fit the dataset.
        DataError: No pixel of a class of the step, or nothing is left to train on.
    """
    last = table.last_step
    used: dict[str, Any] = {}
    kept: dict[str, None] = {}
    for step in range(last + 1) if every else (last,):
        ids, counts = training_images(dataset, scenario, step, progress=progress)
        own, shown, out = _hold_out(dataset, ids, counts, settings)
        used.update(zip(own, shown, strict=True))
        kept.update(dict.fromkeys(out))
    return tuple(used), np.stack(list(used.values())), tuple(kept)


def _hold_out(
    dataset: Dataset, ids: tuple[str, ...], counts: Counts, settings: TrainSettings
) -> tuple[tuple[str, ...], Counts, tuple[str, ...]]:
    """Images to train on with their counts, and images kept out; the limit cuts both."""
    out = np.array([held_out(dataset, i, settings.hold_out) for i in ids])
    if out.all():
        raise DataError(
            f"hold-out {settings.hold_out:g} leaves none of {len(ids)} images to train on",
            hint="use a smaller --hold-out, or more images",
        )
    kept = tuple(i for i, o in zip(ids, out, strict=True) if o)
    used = tuple(i for i, o in zip(ids, out, strict=True) if not o)
    return used[: settings.limit], counts[~out][: settings.limit], kept[: settings.limit]


def class_weights(plan: StepPlan) -> torch.Tensor | None:
    """Cross-entropy weights from the labelled pixels of the step, (classes,), on its device."""
    pixels = np.zeros(256, np.int64)
    for image_id, counts in zip(plan.images, plan.counts, strict=True):
        np.add.at(pixels, plan.remap(image_id), counts)
    counted = torch.from_numpy(pixels[: len(plan.info.classes)])
    weights = _losses.class_weights(plan.settings.class_weights, counted)
    return None if weights is None else weights.to(plan.device)


def pick_precision(asked: str, device: torch.device) -> str:
    """What `auto` means on this device; anything else is taken at its word.

    Raises:
        MissingError: fp16 on a CPU, which torch does not train in.
    """
    if asked == "fp16" and device.type == "cpu":
        raise MissingError("precision fp16 needs a GPU", hint="use --precision bf16 or fp32")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if host.computes_bf16() else "fp32"


def check_unchanged(pending: StepInfo, plan: StepPlan) -> None:
    """Refuse to resume a step as something else than it was begun.

    Raises:
        UsageError: Settings, method or classes differ; the message lists each difference.
        DataError: The images are not the same any more.
    """
    pairs: dict[str, tuple[Any, Any]] = {"method": (pending.method, plan.info.method)}
    pairs["new classes"] = (pending.new_classes, plan.info.new_classes)
    pairs["method options"] = (pending.method_options, plan.info.method_options)
    for field in fields(TrainSettings):
        if field.name != "workers":  # how many threads read ahead changes no byte
            old, new = pending.settings[field.name].value, plan.info.settings[field.name].value
            pairs[field.name] = (old, new)
    changed = [f"{k} {_text(a)} -> {_text(b)}" for k, (a, b) in pairs.items() if a != b]
    if changed:
        raise UsageError(
            f"cannot resume with {len(changed)} changed setting(s): {', '.join(changed)}",
            hint="drop the flags, or start the step again with --overwrite",
        )
    if pending.images_sha256 != plan.info.images_sha256:
        raise DataError(
            f"the images of step {pending.index} in {plan.dataset.root} have changed",
            hint="restore them, or start the step again with --overwrite",
        )


def command_line(verb: str, values: Mapping[str, Any], layers: Sequence[Layer]) -> str:
    """The command that repeats a step, from its arguments and the settings that were given."""
    words = ["edgeinc", verb]
    for key, value in values.items():
        if value is None or value == () or value == []:
            continue
        flag = [] if key == "run" and verb == "extend" else [f"--{key.replace('_', '-')}"]
        for each in value if key == "data" else [value]:
            words += [*flag, _text(each)]
    given = {k: v for layer in layers for k, v in layer.values.items()}
    for key, value in given.items():
        if isinstance(value, Mapping):
            words += [w for k, v in value.items() for w in ("--set", f"{key}.{k}={_text(v)}")]
        elif isinstance(value, bool):
            words += ["--set", f"{key}={_text(value)}"]
        else:
            words += [f"--{key.replace('_', '-')}", _text(value)]
    return shlex.join(words)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ("x" if all(isinstance(v, int) for v in value) else ",").join(map(str, value))
    return str(value)


def listed_data(data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """The names or paths of data as they were given, one for each --data."""
    if isinstance(data, (str, os.PathLike)):
        return [os.fspath(data)]
    return [os.fspath(each) for each in data]
