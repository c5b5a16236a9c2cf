"""Plans of a benchmark: which classes come at which step, and from which images.

A preset is one table of `scenarios/DATASET.toml` and is named `DATASET:PLAN`, or
`DATASET:PLAN_x` for class order x. A plan of one's own is a TOML file:

    name = "streets"
    selection = "overlapped" # or disjoint, partitioned; left out: the images a step lists
    labels = "new-only"      # or new-and-old: old classes keep their label
    [[step]]
    classes = ["sky", "road", "pavement"]
    part = [1, 3]            # first of three contiguous parts of every sequence
    [[step]]
    classes = ["building"]
    images = ["0001TP_006690", "0001TP_006720"]
    [[step]]
    classes = ["tree"]
    sequences = ["0016E5"]   # every image of these recordings
    [[step]]
    classes = ["car"]        # none of them: every image that shows a car (overlapped)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.registry import suggest
from edgeinc.schema import Background, Labels, Scenario, ScenarioStep, Selection

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load_scenario", "scenario_names", "scenario_summary"]

_PRESETS = Path(__file__).parent / "scenarios"
_STEP_KEYS = ("classes", "part", "images", "sequences")
_CHOICES = {
    "selection": get_args(Selection),
    "labels": get_args(Labels),
    "background": get_args(Background),
}


def scenario_names() -> tuple[str, ...]:
    """The presets that come with edgeinc, without the second names some of them have."""
    return tuple(
        name for name, plan in _presets().items() if name != f"{plan['of']}:{plan['alias']}"
    )


def scenario_summary(name: str) -> str:
    """One line about a preset, "" where its steps say everything."""
    return str(_presets()[name]["summary"])


def load_scenario(name: str, *, dataset: str = "") -> Scenario:
    """A preset by name, or a TOML file by path.

    Args:
        name: `DATASET:PLAN`, or a path; with `dataset` also the PLAN alone.
        dataset: Name of the data set in use.

    Raises:
        UsageError: Neither, or the file is not a scenario; the message names the place.
    """
    for preset in (name, f"{dataset}:{name}"):
        if preset in _presets():
            return _from_preset(preset)
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"unknown scenario '{name}'", hint=suggest(name, scenario_names()))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        steps = tuple(_step(table) for table in content["step"])
        choices = {key: _choice(content, key) for key in _CHOICES if key in content}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise UsageError(
            f"{path} is not TOML: {err}", hint='a step is written as [[step]] and classes = ["a"]'
        ) from err
    except (KeyError, TypeError, ValueError) as err:
        raise UsageError(
            f"{path} is not a scenario: {err}",
            hint='a [[step]] needs classes = ["a"] and may have part = [1, 3], images = [...] '
            "or sequences = [...]",
        ) from err
    if not steps:
        raise UsageError(f"{path} has no step", hint="add a [[step]] with classes")
    return Scenario(str(content.get("name", path.stem)), steps, **choices)


def _choice(content: Mapping[str, Any], key: str) -> Any:
    if content[key] not in _CHOICES[key]:
        raise ValueError(f"{key} is {content[key]!r}, allowed are {', '.join(_CHOICES[key])}")
    return content[key]


def _step(table: Mapping[str, Any]) -> ScenarioStep:
    unknown = set(table) - set(_STEP_KEYS)
    if unknown:
        raise ValueError(f"unknown key '{min(unknown)}'")
    where = [key for key in _STEP_KEYS[1:] if key in table]
    if len(where) > 1:
        raise ValueError(f"a step takes one of {' and '.join(where)}")
    classes = _names(table, "classes")
    if where == ["part"]:
        part = table["part"]
        if not (isinstance(part, list) and len(part) == 2 and 1 <= part[0] <= part[1]):
            raise ValueError(f"part must be [i, n] with 1 <= i <= n, not {part}")
        return ScenarioStep(classes, part=(int(part[0]), int(part[1])))
    return ScenarioStep(
        classes,
        images=_names(table, "images") if where == ["images"] else None,
        sequences=_names(table, "sequences") if where == ["sequences"] else None,
    )


def _names(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of text under a key."""
    names = table[key]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f"{key} must be a list of names")
    return tuple(names)


# ---------------------------------------------------------------------------------- presets


@cache
def _presets() -> dict[str, dict[str, Any]]:
    """Name -> table of the preset, with the data set it is for and its class order."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(_PRESETS.glob("*.toml")):
        for plan, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            entry = {"summary": "", "alias": None, **table, "of": path.stem, "order": ()}
            found[f"{path.stem}:{plan}"] = entry
            if entry["alias"]:
                found[f"{path.stem}:{entry['alias']}"] = entry
            for letter, order in table.get("orders", {}).items():
                summary = f"{plan} in class order {letter}"
                named = {"order": tuple(order), "alias": None, "summary": summary}
                found[f"{path.stem}:{plan}_{letter}"] = {**entry, **named}
    return found


def _from_preset(name: str) -> Scenario:
    table = _presets()[name]
    labels = registry.load("datasets", table["of"]).fixed_labels
    by_id = {label.id: label.name for label in labels}
    steps = []
    for step in _ordered(table["steps"], table["order"]):
        if "classes" in step:
            steps.append(_step(step))
        else:
            classes = tuple(by_id[i] for i in _ids(step["ids"]))
            steps.append(ScenarioStep(classes, sequences=step.get("sequences")))
    choices = {key: table[key] for key in _CHOICES if key in table}
    return Scenario(name, tuple(steps), **choices)


def _ordered(steps: list[Any], order: tuple[int, ...]) -> list[dict[str, Any]]:
    """The steps as tables. An order names the classes that come one by one after the base."""
    tables = [{"ids": step} if isinstance(step, str) else dict(step) for step in steps]
    if not order:
        return tables
    every = sorted(i for table in tables for i in _ids(table["ids"]))
    base = [i for i in every if i not in order]
    return [{"ids": ",".join(map(str, base))}, *({"ids": str(i)} for i in order)]


def _ids(text: str) -> list[int]:
    """`"1-3,7"` as [1, 2, 3, 7]."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
