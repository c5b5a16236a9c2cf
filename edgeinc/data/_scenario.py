"""Who sees what: the plan of a benchmark, and the images of each of its steps.

A scenario is a TOML file; those in `scenarios/` are presets, named `DATASET:PLAN`.

    name = "camvid:coarse"
    [[step]]
    classes = ["sky", "road", "pavement"]
    part = [1, 3]            # first of three contiguous parts of every sequence
    [[step]]
    classes = ["building"]
    images = ["0001TP_006690", "0001TP_006720"]
    [[step]]
    classes = ["car"]        # neither: every image that shows a car (overlapped)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinc.data import Dataset
from edgeinc.data._labels import Counts
from edgeinc.errors import DataError, UsageError
from edgeinc.registry import suggest
from edgeinc.schema import Scenario, ScenarioStep

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PRESETS = Path(__file__).parent / "scenarios"


def scenario_names() -> tuple[str, ...]:
    """The presets that come with edgeinc."""
    return tuple(sorted(p.stem.replace("-", ":", 1) for p in _PRESETS.glob("*.toml")))


def load_scenario(name: str) -> Scenario:
    """A preset by name, or a TOML file by path.

    Raises:
        UsageError: Neither, or the file is not a scenario; the message names the place.
    """
    path = Path(name)
    if name in scenario_names():
        path = _PRESETS / f"{name.replace(':', '-', 1)}.toml"
    elif not path.is_file():
        raise UsageError(f"unknown scenario '{name}'", hint=suggest(name, scenario_names()))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        steps = tuple(_step(table) for table in content["step"])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise UsageError(f"{path} is not TOML: {err}", hint="see `edgeinc show camvid`") from err
    except (KeyError, TypeError, ValueError) as err:
        raise UsageError(
            f"{path} is not a scenario: {err}",
            hint='a [[step]] needs classes = ["a"] and may have part = [1, 3] or images = [...]',
        ) from err
    if not steps:
        raise UsageError(f"{path} has no step", hint="add a [[step]] with classes")
    return Scenario(str(content.get("name", path.stem)), steps)


def _step(table: dict[str, object]) -> ScenarioStep:
    unknown = set(table) - {"classes", "part", "images"}
    if unknown:
        raise ValueError(f"unknown key '{min(unknown)}'")
    classes, part, images = table["classes"], table.get("part"), table.get("images")
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise ValueError("classes must be a list of names")
    if part is not None:
        if not (isinstance(part, list) and len(part) == 2 and 1 <= part[0] <= part[1]):
            raise ValueError(f"part must be [i, n] with 1 <= i <= n, not {part}")
        return ScenarioStep(tuple(classes), part=(int(part[0]), int(part[1])))
    if images is not None:
        if not isinstance(images, list) or not images:
            raise ValueError("images must be a list of image ids")
        return ScenarioStep(tuple(classes), images=tuple(str(i) for i in images))
    return ScenarioStep(tuple(classes))


def candidates(dataset: Dataset, step: ScenarioStep, split: str = "train") -> tuple[str, ...]:
    """The images a step may look at, before asking what they show. Opens none.

    Raises:
        UsageError: The scenario names an image the split does not have.
    """
    ids = dataset.ids(split)
    if step.images is not None:
        missing = next((i for i in step.images if i not in set(ids)), None)
        if missing is not None:
            raise UsageError(
                f"the scenario names image '{missing}', which {dataset.root} does not have",
                hint="correct the images of the scenario",
            )
        return step.images
    if step.part is not None:
        return contiguous_part(dataset, ids, *step.part)
    return ids


def contiguous_part(dataset: Dataset, ids: Sequence[str], part: int, of: int) -> tuple[str, ...]:
    """The `part`-th (from 1) of `of` contiguous parts of every sequence.

    Neighbouring frames of a video look alike: parts are cut inside sequences, never by frame.
    """
    sequences: dict[str, list[str]] = {}
    for image_id in ids:
        sequences.setdefault(dataset.sequence(image_id), []).append(image_id)
    chosen = []
    for frames in sequences.values():
        first, last = len(frames) * (part - 1) // of, len(frames) * part // of
        chosen.extend(frames[first:last])
    return tuple(chosen)


def overlapped(
    dataset: Dataset, ids: Sequence[str], counts: Counts, classes: Sequence[str]
) -> tuple[tuple[str, ...], Counts]:
    """The images that show at least one pixel of `classes`, with their counts.

    This is the `overlapped` selection of the field: whatever else an image shows does not matter.

    Raises:
        DataError: A class has no pixel in any of the images.
    """
    columns = [dataset.label(name).id for name in classes]
    for name, column in zip(classes, columns, strict=True):
        if not counts[:, column].any():
            raise DataError(
                f"no pixel of class '{name}' in the {len(ids)} images looked at",
                hint=f"add labelled images of it; see `edgeinc data check {dataset.root}`",
            )
    shows: npt.NDArray[np.bool_] = np.any(counts[:, columns] > 0, axis=1)
    return tuple(i for i, s in zip(ids, shows, strict=True) if s), counts[np.flatnonzero(shows)]
