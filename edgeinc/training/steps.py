"""`train` and `extend`: plan a step, run it through the loop, record and score it.

Rules: `extend` opens only the data given to it and the previous step's files; a step becomes done
in one write (its step.json), after its weights are on disk; interrupted or killed, `resume=True`
continues to the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from edgeinc import registry
from edgeinc.clock import written_now
from edgeinc.config import Layer, TrainSettings, resolve, split_names
from edgeinc.data import open_dataset
from edgeinc.data._labels import extend_table, first_table
from edgeinc.data._scenario import load_scenario
from edgeinc.errors import Interrupted, UsageError
from edgeinc.models import check_size, nearest_size
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import Run, check_free, create_run, open_run, write_atomic
from edgeinc.schema import (
    IMPORT,
    Background,
    EvalResult,
    LearnResult,
    RunInfo,
    Scenario,
    Size,
    StepInfo,
    to_json,
)
from edgeinc.training.execute import run_step, try_growth
from edgeinc.training.plan import (
    StepPlan,
    command_line,
    gather_layers,
    inherited,
    listed_data,
    plan_step,
)
from edgeinc.training.resuming import (
    beside_the_plan,
    check_same_run,
    first_step,
    is_done,
    recorded,
    score_of,
    scored,
)
from edgeinc.training.scenario import adopt_scenario, scenario_classes

DEFAULT_MODEL = "erfnet"
DEFAULT_METHOD = "ejt"
"""What `train` prepares for and `extend` uses where no method is named."""

WHY_DEFAULT: Mapping[Background, str] = {
    "none": "none was named, and without old data it ended highest on CamVid",
    "real": "none was named, and without old data it ended highest on synthetic streets",
    "virtual": "none was named, and it ended highest in the other modes",
}
UNPREPARED = ("finetune", IMPORT)
"""How a step 0 comes about that names no method for the steps after it."""


def train(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    classes: Sequence[str] | None = None,
    background: str | None = None,
    model: str | None = None,
    method: str | None = None,
    size: Size | None = None,
    scenario: str | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    data_root: str | os.PathLike[str] | None = None,
    config: Sequence[str | os.PathLike[str]] = (),
    sets: Sequence[str] = (),
    progress: Progress = SILENT,
    init: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    lr: float | None = None,
    optimizer: str | None = None,
    weight_decay: float | None = None,
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    seed: int | None = None,
    deterministic: bool | None = None,
    compile: bool | None = None,
    color_jitter: float | None = None,
    class_weights: str | None = None,
    freeze_bn_stats: bool | None = None,
    freeze_bn_affine: bool | None = None,
    selection: str | None = None,
    labels: str | None = None,
    index: str | None = None,
    hold_out: float | None = None,
    convention: str | None = None,
    limit: int | None = None,
) -> LearnResult:
    """Train the base network of a new run: its step 0.

    Args:
        data: Name or path of a dataset, or several whose images are joined; None only with
            `run` and `resume`, which take what is not given from the step that was begun.
        classes: Classes in the order of their ids, listed or as "a,b"; None for all, or for those
            of the scenario.
        background: What id 0 is: `none`, `real`, or `virtual`, a class added for everything else;
            None takes the scenario's, else what the data has.
        model: Name of the network; None is `DEFAULT_MODEL`.
        method: The method that later steps will use, where it must train something at step 0
            already (`edgeinc show NAME` says so); `finetune` is plain training; None is
            `DEFAULT_METHOD`.
        size: (height, width) of its input; None takes the dataset's default, or the nearest to
            it that the network can divide.
        scenario: Preset or TOML file: the plan that later `extend` calls follow.
        run: Folder of the run; None makes `runs/DATA-MODEL`.
        resume: Continue an interrupted step 0; a finished one is returned, scored if it was not.
        overwrite: Delete an existing run first.
        dry_run: Plan, check and return; write nothing.
        data_root: Where named datasets lie.
        config: TOML files with settings.
        sets: `KEY=VALUE` settings, also `model.KEY` for options of the network.
        progress: Told about every stretch of work.
        init, epochs, batch_size, accumulate, lr, optimizer, weight_decay, precision, device,
            threads, workers, seed, deterministic, compile, color_jitter, class_weights,
            freeze_bn_stats, freeze_bn_affine, selection, labels, index, hold_out, convention,
            limit: See `edgeinc.config.TrainSettings`; None means not given.

    Raises:
        UsageError: Something asked for does not exist or does not fit.
        DataError: Images or masks cannot be used.
        RunError: The run is locked, damaged, or the disk is full.
        TrainingError: The loss is not finite.
        Interrupted: Stopped by the user, state saved.
        MissingError: The device is not here.
    """
    flags = _settings_of(locals())
    given = gather_layers(_paths(config), sets, flags)
    classes = split_names(classes, "classes") if isinstance(classes, str) else classes
    known = None
    if resume and run is not None and (data is None or Path(run).exists()):
        known = open_run(run)
    begun = first_step(known, model)
    source = data if data is not None else begun.data
    if source is None:
        raise UsageError("no data was named", hint="add --data NAME or --data DIR")
    dataset = open_dataset(source, data_root=data_root, progress=progress)
    model = model or begun.model or DEFAULT_MODEL
    path = Path(run or Path("runs") / f"{dataset.ref.name}-{model}")
    if known is None and resume and path.exists():
        known = open_run(path)
        begun = first_step(known, model)
    plan_of_steps = begun.scenario
    if scenario:
        plan_of_steps = load_scenario(scenario, dataset=dataset.ref.name)
    background = background or begun.background
    if plan_of_steps is not None:
        background = background or plan_of_steps.background
    names = scenario_classes(plan_of_steps, 0, classes or begun.classes)
    height, width = size or begun.size or nearest_size(model, dataset.default_size)
    check_size(model, (height, width))
    layers = [*begun.layers, *given]
    options = _model_options(model, layers)
    info = RunInfo(model, options, (height, width), written_now(), plan_of_steps)
    if known is not None:
        check_same_run(known, info)
        if known.steps:
            return LearnResult(str(path), known.steps, score_of(known, progress))
    elif not dry_run:
        check_free(path, overwrite=overwrite)  # before the masks of a large dataset are read
    words = {
        "data": None if data is None else listed_data(data),
        "data_root": data_root,
        "classes": classes,
        "background": background,
        "model": model,
        "method": method,
        "size": info.size,
        "scenario": scenario,
        "run": path,
    }
    plan = plan_step(
        run=info,
        method=method or begun.method or DEFAULT_METHOD,
        table=first_table(dataset, names, background),
        dataset=dataset,
        layers=layers,
        parent=None,
        command=command_line("train", words, given),
        progress=progress,
    )
    if dry_run:
        return LearnResult(str(path), (plan.info,))
    folder = known or create_run(path, info, overwrite=overwrite)
    with folder.lock():
        step, score = run_step(folder, plan, resume=resume, overwrite=overwrite, progress=progress)
    return LearnResult(str(path), (step,), score)


def extend(
    run: str | os.PathLike[str],
    *,
    new_classes: Sequence[str] | None = None,
    method: str | None = None,
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    all_steps: bool = False,
    scenario: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    data_root: str | os.PathLike[str] | None = None,
    config: Sequence[str | os.PathLike[str]] = (),
    sets: Sequence[str] = (),
    progress: Progress = SILENT,
    init: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    lr: float | None = None,
    optimizer: str | None = None,
    weight_decay: float | None = None,
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    seed: int | None = None,
    deterministic: bool | None = None,
    compile: bool | None = None,
    color_jitter: float | None = None,
    class_weights: str | None = None,
    freeze_bn_stats: bool | None = None,
    freeze_bn_affine: bool | None = None,
    selection: str | None = None,
    labels: str | None = None,
    index: str | None = None,
    hold_out: float | None = None,
    convention: str | None = None,
    limit: int | None = None,
) -> LearnResult:
    """Teach a run's network new classes: its next step, or every step left of its scenario.

    Args:
        run: Folder of the run.
        new_classes: Classes to add, listed or as "a,b"; None takes those of the scenario's next.
        method: Name of the method; None takes that of the last extension, else
            `DEFAULT_METHOD`.
        data: New images, from one dataset or several; None takes the run's dataset, cut to the
            images that show the new classes and to their labels.
        all_steps: Run every step left of the scenario.
        scenario: Preset or TOML file, for a run that was trained without one.
        resume: Continue an interrupted step with what it was begun with; a finished one that was
            not scored is scored.
        overwrite: Start an interrupted step again.
        dry_run: Plan, check and return; write nothing.
        data_root: Where named datasets lie.
        config: TOML files with settings.
        sets: `KEY=VALUE` settings, also `method.KEY` for options of the method.
        progress: Told about every stretch of work.
        init, epochs, batch_size, accumulate, lr, optimizer, weight_decay, precision, device,
            threads, workers, seed, deterministic, compile, color_jitter, class_weights,
            freeze_bn_stats, freeze_bn_affine, selection, labels, index, hold_out, convention,
            limit: See `edgeinc.config.TrainSettings`; None takes what the previous step was
            trained with (but for `limit` and `index`).

    Raises:
        UsageError: Something asked for does not exist or does not fit.
        DataError: Images or masks cannot be used, or show no new class.
        RunError: The run has no base step, is locked or damaged, or the disk is full.
        TrainingError: The loss is not finite.
        Interrupted: Stopped by the user, state saved.
        MissingError: The device is not here.
    """
    layers = gather_layers(_paths(config), sets, _settings_of(locals()))
    if isinstance(new_classes, str):
        new_classes = split_names(new_classes, "new_classes")
    folder = open_run(run)
    plan_of_steps = adopt_scenario(folder, scenario)
    if all_steps and plan_of_steps is None:
        raise UsageError("--all needs a scenario", hint="add --scenario NAME or a TOML file")
    done: list[StepInfo] = []
    score: EvalResult | None = None
    with folder.lock():
        if resume and not dry_run and is_done(folder, new_classes):
            score = scored(folder, progress)
            if score is not None or new_classes is not None:
                done.append(folder.step())
        while not done or (
            all_steps and plan_of_steps and len(folder.steps) < len(plan_of_steps.steps)
        ):
            plan = _plan_extension(
                folder,
                plan_of_steps,
                names=new_classes,
                method=method,
                data=data,
                data_root=data_root,
                layers=layers,
                begun=folder.pending if resume else None,
                progress=progress,
            )
            if dry_run:
                return LearnResult(os.fspath(run), (plan.info,))
            if plan_of_steps is not None and scenario and folder.info.scenario is None:
                info = replace(folder.info, scenario=plan_of_steps)
                write_atomic(folder.path / "run.json", to_json(info).encode())
                folder.info = info
            try:
                step, score = run_step(
                    folder, plan, resume=resume, overwrite=overwrite, progress=progress
                )
            except Interrupted as stop:
                if not all_steps:
                    raise
                # The step's own command names its classes, which those after it do not have.
                words: dict[str, Any] = {"run": folder.path, "method": method}
                words |= {"data": data and listed_data(data), "data_root": data_root}
                command = command_line("extend", words, layers)
                raise Interrupted(stop.message, hint=f"{command} --all --resume") from stop
            done.append(step)
    return LearnResult(os.fspath(run), tuple(done), score)


def _plan_extension(
    folder: Run,
    scenario: Scenario | None,
    *,
    names: Sequence[str] | None,
    method: str | None,
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    data_root: str | os.PathLike[str] | None,
    layers: Sequence[Layer],
    begun: StepInfo | None = None,
    progress: Progress,
) -> StepPlan:
    parent = folder.step()
    given, planned = layers, data is not None and not names
    if (names and data) or (begun is not None and beside_the_plan(begun)):
        scenario = None  # a step of one's own, beside the plan
    if begun is not None:
        names, method = names or begun.new_classes, method or begun.method
        layers = [recorded(begun, method), *layers]
    names = scenario_classes(scenario, parent.index + 1, names)
    if not names:
        raise UsageError("no new class was named", hint="add --new-classes a,b or --scenario NAME")
    if any("model" in layer.values for layer in layers):
        raise UsageError("the network's options are fixed by step 0", hint="drop --set model.*")
    known = begun.data if begun is not None else folder.step(0).data
    dataset = open_dataset(data or known, data_root=data_root, progress=progress)
    if method is None:
        unsaid = parent.method in UNPREPARED and not parent.index
        method = DEFAULT_METHOD if unsaid else parent.method
        if method == DEFAULT_METHOD:
            progress.message(f"method '{method}': {WHY_DEFAULT[parent.background]}")
    # Beside --data, classes that are named are not the plan's: those of the plan stay unsaid.
    words = {
        "run": folder.path,
        "new_classes": None if planned else names,
        "method": method,
        "data": None if data is None else listed_data(data),
        "data_root": data_root,
    }
    plan = plan_step(
        run=replace(folder.info, scenario=scenario),
        method=method,
        table=extend_table(parent.table, dataset, names),
        dataset=dataset,
        layers=[inherited(parent, method), *layers],
        parent=parent,
        command=command_line("extend", words, given),
        progress=progress,
    )
    try_growth(folder, plan)
    return plan


def _model_options(model: str, layers: Sequence[Layer]) -> dict[str, Any]:
    plugin = registry.load("models", model)
    _, sources = resolve(plugin.Config, layers, table="model")
    return {name: setting.value for name, setting in sources.items()}


def _settings_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return {f.name: arguments[f.name] for f in fields(TrainSettings)}


def _paths(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    return [Path(p) for p in paths]
