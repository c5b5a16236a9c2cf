"""A run's plan of steps: which one it follows, and which classes come next."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinc.data._scenario import load_scenario
from edgeinc.errors import UsageError
from edgeinc.runs import Run
from edgeinc.schema import Scenario

__all__ = ["adopt_scenario", "scenario_classes"]


def adopt_scenario(run: Run, name: str | None) -> Scenario | None:
    """The run's scenario, or the one given for a run that has none.

    Raises:
        UsageError: It is another one than the run follows, or does not fit what was trained.
    """
    own = run.info.scenario
    if name is None:
        return own
    given = load_scenario(name, dataset=run.step(0).data.name)
    if own is not None and own != given:
        raise UsageError(
            f"{run.path} follows scenario '{own.name}', not '{given.name}'", hint="drop --scenario"
        )
    background = {c.name for c in run.step(0).classes[:1] if run.step(0).background != "none"}
    for done, planned in zip(run.steps, given.steps, strict=False):
        if {*done.new_classes} - background != {*planned.classes}:
            raise UsageError(
                f"step {done.index} of {run.path} has classes {', '.join(done.new_classes)}, "
                f"scenario '{given.name}' plans {', '.join(planned.classes)}",
                hint="choose a scenario that fits what was trained",
            )
    return given


def scenario_classes(
    scenario: Scenario | None, index: int, names: Sequence[str] | None
) -> Sequence[str] | None:
    """Classes of a step: those named, or those of the scenario; both must agree.

    Raises:
        UsageError: They do not, or the scenario has no such step, or none that adds a class.
    """
    if scenario is None:
        return names
    if index >= len(scenario.steps):
        raise UsageError(
            f"scenario '{scenario.name}' has no step {index}: all {index} steps are done",
            hint="extend with --new-classes and --data, or start a new run",
        )
    planned = scenario.steps[index].classes
    if not planned:
        raise UsageError(
            f"scenario '{scenario.name}' adds no class at step {index}, only images",
            hint="edgeinc adds classes; `edgeinc data split` lists what such a plan contains",
        )
    if names is not None and set(names) != set(planned):
        raise UsageError(
            f"scenario '{scenario.name}' plans {', '.join(planned)} for step {index}, "
            f"not {', '.join(names)}",
            hint="drop --classes and --new-classes, or the scenario",
        )
    return planned
