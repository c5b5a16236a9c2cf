"""What a step was begun with: whoever resumes it need not say it again.

Rules: what is said again wins, and is refused later where it differs from what was begun; the
step's own record is the source, never the command that was typed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeinc import registry
from edgeinc.config import Layer
from edgeinc.data import open_dataset
from edgeinc.errors import UsageError, as_typed
from edgeinc.progress import Progress
from edgeinc.runs import Run
from edgeinc.schema import DataRef, EvalResult, RunInfo, Scenario, Size, StepInfo
from edgeinc.training.execute import score

__all__ = [
    "Base",
    "beside_the_plan",
    "check_same_run",
    "first_step",
    "is_done",
    "recorded",
    "score_of",
    "scored",
]


@dataclass(frozen=True)
class Base:
    """What `train` was given for a run that exists; None and empty where nothing is known."""

    data: DataRef | None = None
    classes: Sequence[str] | None = None
    background: str | None = None
    model: str | None = None
    method: str | None = None
    size: Size | None = None
    scenario: Scenario | None = None
    layers: Sequence[Layer] = ()


def first_step(run: Run | None, model: str | None) -> Base:
    """What step 0 of a run was begun with; without a run nothing.

    Args:
        run: The run, if there is one.
        model: The network that was asked for; another one's options are not recalled.
    """
    if run is None:
        return Base()
    info, step = run.info, next(iter(run.steps), run.pending)
    same = model in (None, info.model)
    network = Layer("the run", {"model": info.model_options} if same else {})
    if step is None:
        return Base(model=info.model, size=info.size, scenario=info.scenario, layers=(network,))
    return Base(
        data=step.data,
        classes=step.new_classes[step.background != "none" :],
        background=step.background,
        model=info.model,
        method=step.method,
        size=info.size,
        scenario=info.scenario,
        layers=(network, recorded(step, step.method)),
    )


def recorded(step: StepInfo, method: str) -> Layer:
    """The settings of a step as the weakest source, and its method's where it is the same."""
    values = {name: s.value for name, s in step.settings.items() if s.source != "default"}
    if method == step.method and method in registry.names("methods"):
        values["method"] = dict(step.method_options)
    return Layer(f"step {step.index} as it was begun", values)


def beside_the_plan(step: StepInfo) -> bool:
    """Whether a step took classes and images of its own, not those of the run's scenario."""
    words = shlex.split(step.command)
    return "--new-classes" in words and "--data" in words


def scored(run: Run, progress: Progress) -> EvalResult | None:
    """The score of a run's newest step, taken now where that was interrupted.

    Args:
        run: The run, locked.
        progress: Told about every image.

    Raises:
        DataError, UsageError: The step's data cannot be opened or scored.
        Interrupted: Ctrl-C.
    """
    newest = run.step()
    found = run.score(newest.index)
    if found is not None or not newest.data.name:
        return found
    return score(run, newest, open_dataset(newest.data), progress)


def score_of(run: Run, progress: Progress) -> EvalResult | None:
    """The score of a run's newest step; it is taken where it is missing and nothing is pending.

    Raises:
        RunError: It is missing, and somebody else is at work on the run.
        DataError, UsageError, Interrupted: As `scored`.
    """
    found = run.score(run.step().index)
    if found is not None or run.pending is not None:
        return found
    with run.lock():
        return scored(run, progress)


def is_done(folder: Run, names: Sequence[str] | None) -> bool:
    """Whether the newest extension is the one asked for, or the one whose score is missing."""
    newest = folder.step()
    if folder.pending is not None or not newest.index:
        return False
    if names is not None:
        return {*names} == {*newest.new_classes}
    return newest.data.name != "" and folder.score(newest.index) is None


def check_same_run(run: Run, info: RunInfo) -> None:
    """Refuse to continue a run as another one.

    Raises:
        UsageError: Network, options, size or scenario differ.
    """
    config = registry.load("models", run.info.model).Config
    # A run that was begun before an option existed has its default.
    begun = replace(run.info, model_options=asdict(config(**run.info.model_options)))
    for name in ("model", "model_options", "size", "scenario"):
        old, new = getattr(begun, name), getattr(info, name)
        if old != new:
            found = "another of that name" if _named(old) == _named(new) else _named(new)
            raise UsageError(
                f"{run.path} has {name} {_named(old)}, not {found}",
                hint=f"continue it with `{as_typed('train', '--run', run.path, '--resume')}`, or "
                "choose another --run",
            )


def _named(value: Any) -> str:
    """A value that a run has, as a line of text shows it."""
    if isinstance(value, Scenario):
        return value.name
    return "none" if value is None else str(value)
