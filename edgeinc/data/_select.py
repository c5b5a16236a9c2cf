"""Which images belong to a step of a plan.

Rules: an image shows a class when one pixel of its whole mask has it; void and a real background
are no classes; what a plan does not know of never decides. With a fixed order of classes `disjoint`
gives every image to one step, `overlapped` a superset of it, and `partitioned` gives every image to
one of the classes it shows, whatever else it shows (Kwak et al. 2024).

    ids, counts = step_images(dataset, scenario, 1)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinc.data import Dataset
from edgeinc.data._index import Counts, count_pixels
from edgeinc.errors import DataError, UsageError, as_typed
from edgeinc.progress import SILENT, Progress
from edgeinc.schema import Scenario, ScenarioStep, Selection

__all__ = ["belongs", "candidates", "held_out", "read_index", "step_images", "training_images"]

Shown = npt.NDArray[np.bool_]


def step_images(
    dataset: Dataset,
    scenario: Scenario,
    step: int,
    *,
    split: str = "train",
    progress: Progress = SILENT,
) -> tuple[tuple[str, ...], Counts]:
    """The images of a step, and how many pixels of each id they show.

    Args:
        dataset: Where they are.
        scenario: The plan. What it plans after `step` matters for `disjoint` and `partitioned`.
        step: Index of the step.
        split: Split they are taken from.
        progress: Told about every mask.

    Raises:
        UsageError: The plan does not fit the data set.
        DataError: A mask cannot be read.
    """
    plan = scenario.steps[step]
    ids = candidates(dataset, plan, split)
    counts = count_pixels(dataset, ids, progress=progress)
    by_name = {label.name: label.id for label in dataset.labels}
    # Data for a new class need not know the older ones; what is new it must have.
    columns = [[by_name[n] for n in s.classes if n in by_name] for s in scenario.steps]
    columns[step] = [dataset.label(name).id for name in plan.classes]
    if scenario.selection == "listed" and _lists_images(plan):
        return ids, counts
    chosen = belongs(counts > 0, columns, step, scenario.selection, ids)
    return tuple(i for i, c in zip(ids, chosen, strict=True) if c), counts[np.flatnonzero(chosen)]


def training_images(
    dataset: Dataset, scenario: Scenario, step: int, *, progress: Progress = SILENT
) -> tuple[tuple[str, ...], Counts]:
    """As `step_images` in `train`, for a step that is going to be trained.

    Raises:
        UsageError: The plan does not fit the data set.
        DataError: No pixel of a class of the step, or a mask cannot be read.
    """
    ids, counts = step_images(dataset, scenario, step, progress=progress)
    for name in scenario.steps[step].classes:
        if counts[:, dataset.label(name).id].any():
            continue
        looked = f"the {len(ids)} images" if ids else "any image"
        rule = "" if scenario.selection == "listed" else f" under selection {scenario.selection}"
        raise DataError(
            f"no pixel of class '{name}' in {looked} of step {step}{rule}",
            hint=f"add labelled images of it; see `{as_typed('data', 'check', dataset.root)}`",
        )
    return ids, counts


def belongs(
    shown: Shown,
    steps: Sequence[Sequence[int]],
    step: int,
    selection: Selection,
    ids: Sequence[str] = (),
) -> Shown:
    """Which images belong to a step.

    Args:
        shown: (N, 256), whether an image shows an id.
        steps: Ids of the classes of every step of the plan.
        step: Index of the step asked for.
        selection: The rule; `listed` counts as `overlapped`.
        ids: The N image ids, which `partitioned` draws by.

    Returns:
        (N,) bool.
    """
    new: Shown = np.any(shown[:, list(steps[step])], axis=1)
    if selection == "disjoint":
        later = [i for classes in steps[step + 1 :] for i in classes]
        return np.asarray(new & ~np.any(shown[:, later], axis=1))
    if selection == "partitioned":
        order = sorted(i for classes in steps for i in classes)
        present = shown[:, order]
        drawn = np.array([_draw(i) for i in ids], np.float64)
        # The k-th class an image shows, k uniform in 0 .. number of classes shown - 1.
        k = (drawn * present.sum(1)).astype(np.int64)
        first = np.argmax(np.cumsum(present, 1) > k[:, None], axis=1)
        drawn_here = np.isin(np.array(order)[first], list(steps[step]))
        return np.asarray(np.any(present, axis=1) & drawn_here)
    return new


def candidates(dataset: Dataset, step: ScenarioStep, split: str = "train") -> tuple[str, ...]:
    """The images a step may look at, before asking what they show. Opens none.

    Raises:
        UsageError: The plan names an image or a sequence that the split does not have.
    """
    ids = dataset.ids(split)
    if step.images is not None:
        missing = set(step.images) - set(ids)
        if missing:
            raise UsageError(
                f"the scenario names image '{min(missing)}', which {dataset.root} does not have",
                hint="correct the images of the scenario",
            )
        return step.images
    if step.sequences is not None:
        return tuple(i for i in ids if dataset.sequence(i) in step.sequences)
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


def held_out(dataset: Dataset, image_id: str, share: float) -> bool:
    """Whether an image is kept out of training to choose settings by: the same at every step."""
    own = image_id if dataset.source(image_id) is dataset else image_id.partition("/")[2]
    return _draw(own, "hold-out") < share


def read_index(path: Path, dataset: Dataset, split: str = "train") -> tuple[str, ...]:
    """Images listed in a file of another repository.

    Args:
        path: A `.npy` array of positions in the split or of ids, or a text file whose lines begin
            with an id or the path of an image.
        dataset: Where the images are.
        split: Split that positions count in.

    Raises:
        UsageError: No such file, or it is no such list.
        DataError: It names an image that the split does not have, or none at all.
    """
    if not path.is_file():
        raise UsageError(f"no such index file: {path}", hint="give a .npy or a text file")
    ids = dataset.ids(split)
    entries: list[int] | list[str]
    if path.suffix == ".npy":
        try:
            stored = np.load(path, allow_pickle=False).reshape(-1)
        except (ValueError, EOFError, OSError) as err:
            raise UsageError(
                f"{path} is not an array of numbers or text: {str(err).splitlines()[0]}",
                hint="save it with numpy.save from a plain array, not from objects",
            ) from err
        entries = stored.tolist()
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as err:
            raise UsageError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from err
        entries = [line.strip() for line in lines if line.strip()]
    if not entries:
        raise DataError(f"{path} lists no image", hint=f"list ids of {dataset.root}")
    known = frozenset(ids)
    found = (_entry(entry, ids, known, path, dataset.root) for entry in entries)
    return tuple(dict.fromkeys(found))


def _entry(entry: object, ids: Sequence[str], known: frozenset[str], path: Path, root: Path) -> str:
    """The image id that an entry of an index file means."""
    if isinstance(entry, int) and not isinstance(entry, bool):
        if not 0 <= entry < len(ids):
            raise DataError(
                f"{path} names image number {entry}, {root} has {len(ids)}",
                hint="numbers count from 0 in the split's own list",
            )
        return ids[entry]
    if not isinstance(entry, str):
        raise DataError(f"{path} holds {entry!r}", hint="positions, ids or paths are read")
    # A whole line first: names may contain spaces.
    for text in (entry, entry.split()[0]):
        for form in (text, Path(text).with_suffix("").as_posix().lstrip("/"), Path(text).stem):
            if form in known:
                return form
    raise DataError(
        f"{path} names image '{entry}', which {root} does not have",
        hint=f"ids look like '{ids[0]}'",
    )


def _lists_images(step: ScenarioStep) -> bool:
    return not (step.part is None and step.images is None and step.sequences is None)


def _draw(image_id: str, purpose: str = "") -> float:
    """A number of [0, 1) that depends on the image's id alone."""
    digest = hashlib.sha256(f"{purpose}\n{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
