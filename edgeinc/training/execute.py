"""One planned step, carried out: networks built, trained, recorded, scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from edgeinc import registry
from edgeinc.data._batches import Batches
from edgeinc.errors import Interrupted, RunError
from edgeinc.evaluation import evaluate
from edgeinc.methods import StepContext
from edgeinc.models import Model, create
from edgeinc.models._fold import folded
from edgeinc.models._pretrained import read_weights
from edgeinc.progress import Progress
from edgeinc.runs import Run, sha256, write_atomic
from edgeinc.schema import EvalResult, StepInfo, to_json
from edgeinc.training.loop import DTYPES, Fit, fit
from edgeinc.training.plan import StepPlan, check_unchanged, class_weights
from edgeinc.training.state import FILE as STATE


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
    if pending is not None and resume:
        check_unchanged(pending, plan)
        info = pending
    else:
        run.discard(plan.info.index)
        info = replace(plan.info, status="running")
        run.write_step(info)
    if plan.held_out:
        run.write_held_out(info.index, plan.held_out)
    model, teacher = build(run, plan)
    announce(plan, progress)
    context = StepContext(
        first_new=len(info.classes) - len(info.new_classes),
        classes=len(info.classes),
        background=info.background,
        class_weights=class_weights(plan),
    )
    plugin = registry.load("methods", info.method)
    method = plugin(plugin.Config(**info.method_options), context)
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
        method=method,
        batches=batches,
        settings=plan.settings,
        precision=plan.precision,
        device=plan.device,
        iterations=info.iterations,
        folder=folder,
    )
    try:
        seconds = fit(job, progress=progress)
    except Interrupted as stop:
        raise Interrupted(stop.message, hint=f"{info.command} --resume") from stop
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    weights = folder / "weights.safetensors"
    write_atomic(weights, save(tensors))
    done = replace(info, status="done", seconds=round(seconds, 1), weights_sha256=sha256(weights))
    run.write_step(done)
    (folder / STATE).unlink(missing_ok=True)
    return done, score(run, plan, progress)


def build(run: Run, plan: StepPlan) -> tuple[Model, Model | None]:
    """The network as the step starts with it, and its teacher if the method asks for one.

    Raises:
        RunError: The previous step's weights were changed.
        UsageError: The ImageNet weights do not fit.
    """
    info, parent = plan.info, plan.parent
    counts = [len(info.table.of_step(i)) for i in range(info.index + 1)]
    plugin = registry.load("methods", info.method)
    fresh = parent is None or plugin.init(plugin.Config(**info.method_options)) == "fresh"
    with torch.random.fork_rng([]):
        torch.manual_seed(plan.settings.seed + 7919 * info.index)  # not the dropout's numbers
        if fresh:
            model = _network(run, counts)
            if plan.settings.init:
                model.load_backbone(read_weights(Path(plan.settings.init)))
        else:
            model = _restore(run, counts[:-1])
            model.grow(counts[-1])
    if parent is not None:
        model.freeze_bn(stats=plan.settings.freeze_bn_stats, affine=plan.settings.freeze_bn_affine)
    model.to(plan.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if parent is None or not plugin.teacher:
        return model, None
    teacher = folded(_restore(run, counts[:-1])).to(DTYPES[plan.precision])
    return model, teacher.to(plan.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _restore(run: Run, counts: Sequence[int]) -> Model:
    model = _network(run, counts)
    model.load_state_dict(load_file(run.weights(len(counts) - 1)))
    return model


def _network(run: Run, counts: Sequence[int]) -> Model:
    info = run.info
    return create(info.model, counts, info.model_options, normalisation=info.normalisation)


def score(run: Run, plan: StepPlan, progress: Progress) -> EvalResult | None:
    """Score a finished step on the `val` split of its own data, if it has one."""
    if "val" not in plan.dataset.splits():
        return None
    result = evaluate(
        run.path,
        step=plan.info.index,
        data=plan.dataset.ref,
        limit=plan.settings.limit,
        convention=plan.settings.convention,
        device=str(plan.device),
        threads=plan.settings.threads,
        progress=progress,
    )
    write_atomic(run.folder(plan.info.index) / "eval.json", to_json(result).encode())
    return result


def announce(plan: StepPlan, progress: Progress) -> None:
    """Say what is about to be trained, and what `auto` came out as."""
    info = plan.info
    progress.message(
        f"step {info.index}: {', '.join(info.new_classes)} by {info.method} from {info.images} "
        f"images of {info.data.name}, {info.iterations} iterations on {plan.device} "
        f"in {plan.precision}"
    )
