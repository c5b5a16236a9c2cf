"""One planned step, carried out: networks built, trained, recorded, scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from edgeinc import registry
from edgeinc.data import Dataset
from edgeinc.data._batches import Batches
from edgeinc.errors import Interrupted, RunError
from edgeinc.evaluation import evaluate
from edgeinc.methods import NOTHING_KEPT, Method, StepContext
from edgeinc.models import Model, create, own_decoders, restored
from edgeinc.models._fold import folded
from edgeinc.models._pretrained import read_weights
from edgeinc.progress import Progress
from edgeinc.runs import Run, sha256, write_atomic
from edgeinc.schema import EvalResult, StepInfo, to_json
from edgeinc.training.gallery import Gallery
from edgeinc.training.loop import DTYPES, PREPARED, Fit, fit, survey
from edgeinc.training.plan import StepPlan, check_unchanged, class_weights
from edgeinc.training.state import FILE as STATE

_OF_SCORES = ("limit", "convention", "device", "threads")
"""Settings of a step that hold for its score too."""


def run_step(
    run: Run, plan: StepPlan, *, resume: bool, overwrite: bool, progress: Progress
) -> tuple[StepInfo, EvalResult | None]:
    """Train, record and score one step.

    Raises:
        RunError: The step was interrupted before and neither `resume` nor `overwrite` is set; or
            the parent's weights were changed; or the disk is full.
        UsageError: `resume` with other settings than the step was begun with.
        TrainingError, Interrupted: From the loop.
    """
    folder, pending = run.folder(plan.info.index), run.pending
    if pending is not None and not resume and not overwrite:
        raise RunError(
            f"step {pending.index} of {run.path} was interrupted",
            hint="add --resume to continue it, or --overwrite to start it again",
        )
    begun = pending if resume else None
    if begun is not None:
        check_unchanged(begun, plan)
    # Before anything is written: a method may refuse what it finds.
    method = make_method(run, plan)
    model, old, teacher = build(run, plan, method)
    if begun is not None:
        info = begun
    else:
        run.discard(plan.info.index)
        info = replace(plan.info, status="running")
        run.write_step(info)
    if plan.held_out:
        run.write_held_out(info.index, plan.held_out)
    announce(plan, progress)
    batches = Batches(
        plan.dataset,
        plan.images,
        remap=plan.remap,
        size=run.info.size,
        batch_size=plan.settings.batch_size,
        seed=plan.settings.seed,
        step=info.index,
        workers=plan.settings.workers,
        color_jitter=plan.settings.color_jitter,
    )
    job = Fit(
        model=model,
        teacher=teacher,
        old=old,
        method=method,
        batches=batches,
        settings=plan.settings,
        precision=plan.precision,
        device=plan.device,
        iterations=info.iterations,
        folder=folder,
        store=Gallery(run, plan.parent) if plan.parent is not None else NOTHING_KEPT,
    )
    go_on = f"{plan.info.command} --resume"  # as it was typed now: the run may have been moved
    try:
        seconds = fit(job, progress=progress)
        memory = method.finish(model, old, survey(job, progress))
    except Interrupted as stop:
        raise Interrupted(stop.message, hint=go_on) from stop
    except KeyboardInterrupt as stop:  # outside of the loop: before it, or after its last save
        raise Interrupted(
            f"interrupted while step {info.index} was prepared or closed; what was saved is kept",
            hint=go_on,
        ) from stop
    if memory:
        run.write_memory(info.index, save({k: v.cpu().contiguous() for k, v in memory.items()}))
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    weights = folder / "weights.safetensors"
    write_atomic(weights, save(tensors))
    done = replace(info, status="done", seconds=round(seconds, 1), weights_sha256=sha256(weights))
    run.write_step(done)
    for passing in (STATE, PREPARED):
        (folder / passing).unlink(missing_ok=True)
    try:
        return done, score(run, done, plan.dataset, progress)
    except Interrupted as stop:
        raise Interrupted(
            f"interrupted while step {done.index} was scored; the step is finished and saved",
            hint=go_on,
        ) from stop


def make_method(run: Run, plan: StepPlan) -> Method:
    """The method of a step, with what it kept at the step before."""
    info = plan.info
    parent = plan.parent
    same = parent is not None and parent.method == info.method
    memory = run.memory(parent.index) if parent is not None and same else None
    context = StepContext(
        first_new=len(info.classes) - len(info.new_classes),
        classes=len(info.classes),
        background=info.background,
        class_weights=class_weights(plan),
        weighting=plan.settings.class_weights,
        sigmoids=parent is not None and _has_sigmoids(parent.method),
        memory=load_file(memory, device=str(plan.device)) if memory else {},
        seed=plan.settings.seed,
    )
    plugin = registry.load("methods", info.method)
    return plugin(plugin.Config(**info.method_options), context)


def _has_sigmoids(method: str) -> bool:
    known = method in registry.names("methods")  # it may be `import`, or a plug-in that has gone
    return known and bool(registry.load("methods", method).sigmoids)


def try_growth(run: Run, plan: StepPlan) -> None:
    """Let the method grow the network without its weights, before anything is written.

    Raises:
        UsageError: The network cannot grow as the method wants it to.
        RunError: The previous step's weights were changed.
    """
    info, parent = plan.info, plan.parent
    plugin = registry.load("methods", info.method)
    config = plugin.Config(**info.method_options)
    if parent is None or plugin.init(config) == "fresh":
        return
    with safe_open(run.weights(parent.index), framework="pt") as file:
        own = own_decoders(file.keys())
    counts = [len(info.table.of_step(i)) for i in range(info.index + 1)]
    options = run.info.model_options
    first_new = len(info.classes) - len(info.new_classes)
    context = StepContext(first_new, len(info.classes), info.background, None)
    with torch.random.fork_rng([]), torch.device("meta"):
        model = create(run.info.model, counts[:-1], options, decoders=own)
        plugin(config, context).grow(model, counts[-1])


def build(run: Run, plan: StepPlan, method: Method) -> tuple[Model, Model | None, Model | None]:
    """The network as the step starts with it, the one before it, and a teacher if asked for.

    Raises:
        RunError: The previous step's weights were changed.
        UsageError: The ImageNet weights do not fit.
    """
    info, parent = plan.info, plan.parent
    counts = [len(info.table.of_step(i)) for i in range(info.index + 1)]
    fresh = parent is None or method.init(method.config) == "fresh"
    old = _before(run, plan).eval().requires_grad_(False) if parent is not None else None
    with torch.random.fork_rng([]):
        torch.manual_seed(plan.settings.seed + 7919 * info.index)  # not the dropout's numbers
        model = _network(run, counts) if fresh else _before(run, plan)
        if fresh and plan.settings.init:
            model.load_backbone(read_weights(Path(plan.settings.init)))
        if not fresh:
            # Before it grows: a decoder that is added has no statistics yet that could be kept.
            stats, affine = plan.settings.freeze_bn_stats, plan.settings.freeze_bn_affine
            model.freeze_bn(stats=stats, affine=affine)
            method.grow(model, counts[-1])
        method.begin(model, old)
    place = partial(_placed, device=plan.device)
    if old is None:
        return place(model), None, None
    teacher = folded(old).to(DTYPES[plan.precision]) if method.teacher else None
    return place(model), place(old), place(teacher) if teacher else None


def _placed(model: Model, device: torch.device) -> Model:
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _before(run: Run, plan: StepPlan) -> Model:
    """The network of the step before; a row that only its own method knows is taken away."""
    info = plan.info
    model = restore(run, [len(info.table.of_step(i)) for i in range(info.index)])
    if plan.parent is not None and plan.parent.method != info.method:
        model.drop_unknown()
    return model


def restore(run: Run, counts: Sequence[int]) -> Model:
    """The network after step `len(counts) - 1`, whose steps added `counts` classes.

    Raises:
        RunError: Its weights were changed.
    """
    info, state = run.info, load_file(run.weights(len(counts) - 1))
    return restored(info.model, counts, state, info.model_options, normalisation=info.normalisation)


def _network(run: Run, counts: Sequence[int]) -> Model:
    info = run.info
    return create(info.model, counts, info.model_options, normalisation=info.normalisation)


def score(run: Run, step: StepInfo, dataset: Dataset, progress: Progress) -> EvalResult | None:
    """Score a finished step on the `val` split of its own data, if it has one."""
    if "val" not in dataset.splits():
        return None
    result = evaluate(
        run.path,
        step=step.index,
        data=dataset.ref,
        progress=progress,
        **{name: step.settings[name].value for name in _OF_SCORES if name in step.settings},
    )
    write_atomic(run.folder(step.index) / "eval.json", to_json(result).encode())
    return result


def announce(plan: StepPlan, progress: Progress) -> None:
    """Say what is about to be trained, and what `auto` came out as."""
    info = plan.info
    progress.message(
        f"step {info.index}: {', '.join(info.new_classes)} by {info.method} from {info.images} "
        f"images of {info.data.name}, {info.iterations} iterations on {plan.device} "
        f"in {plan.precision}"
    )
