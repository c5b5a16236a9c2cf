"""What the outputs of an imported network mean: names, colours and background, in their order.

meant = read_classes("cityscapes", None)
weights = fitted(published(state, "erfnet", path), meant)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgeinc import registry
from edgeinc.data import Dataset, open_dataset
from edgeinc.data._official import read_lines
from edgeinc.data._palette import palette_color
from edgeinc.errors import UsageError
from edgeinc.models._published import Published
from edgeinc.schema import VOID, Background, ClassInfo, Color, Size

VOID_LAST = ("cityscapes",)
"""Data whose void some releases train as one output after the classes; it is never right."""


class Classes(NamedTuple):
    """What the outputs of a network mean, in their order.

    `source`: the data set they are of, "" where they were listed; `size`: its default size.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    background: Background
    source: str = ""
    size: Size | None = None

    @property
    def table(self) -> tuple[ClassInfo, ...]:
        """As classes of step 0."""
        pairs = zip(self.names, self.colors, strict=True)
        return tuple(ClassInfo(i, name, color, 0) for i, (name, color) in enumerate(pairs))


def read_classes(classes: str | Sequence[str], background: str | None) -> Classes:
    """What the user says the outputs mean, see `import_weights`.

    Raises:
        UsageError: Not usable as a list of classes, or with this background.
        DataError: A file of names, or a data set, cannot be read.
    """
    if background not in (None, "none", "real"):
        raise UsageError(
            f"background {background} does not go with imported weights",
            hint="real where the first output is a background, else none",
        )
    meant = _named(classes) if isinstance(classes, str) else _plain(classes)
    if background == "none" and meant.background == "real":
        meant = meant._replace(names=meant.names[1:], colors=meant.colors[1:], background="none")
    elif background == "real" and meant.background == "none":
        if meant.source:
            raise UsageError(
                f"{meant.source} has no background: its first class is '{meant.names[0]}'",
                hint="drop --background real",
            )
        colors = tuple(palette_color(i) for i in range(len(meant.names)))
        meant = meant._replace(background="real", colors=colors)
    return meant


def _named(text: str) -> Classes:
    path = Path(text)
    if text in registry.names("datasets"):
        return _of_plugin(text)
    if not _exists(path):
        if "," not in text and (path.suffix in (".txt", ".toml") or os.sep in text):
            raise UsageError(f"no such file of class names: {text}", hint="check --classes")
        return _plain([name.strip() for name in text.split(",")])
    if path.is_dir() or path.name == "classes.toml":
        dataset = open_dataset(path if path.is_dir() else path.parent)
        return _of_labels(dataset, str(dataset.root))
    return _plain([line.strip() for line in read_lines(path, hint="check --classes")])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a list of names may be longer than a path can be
        return False


def _of_plugin(name: str) -> Classes:
    plugin = registry.load("datasets", name)
    if not plugin.fixed_labels:
        fixed = [n for n in registry.names("datasets") if registry.load("datasets", n).fixed_labels]
        raise UsageError(
            f"every copy of {name} has classes of its own",
            hint=f"give its folder to --classes, a list of names, or one of: {', '.join(fixed)}",
        )
    return _of_labels(plugin(Path(name)), name)


def _of_labels(dataset: Dataset, source: str) -> Classes:
    labels = dataset.fixed_labels or dataset.labels
    return Classes(
        tuple(label.name for label in labels),
        tuple(label.color for label in labels),
        dataset.background,
        source,
        dataset.default_size if dataset.fixed_labels else None,
    )


def _plain(names: Sequence[str]) -> Classes:
    listed = tuple(names)
    if not listed or not all(listed):
        raise UsageError("an empty class name in --classes", hint="write it as --classes a,b,c")
    twice = [name for name in listed if listed.count(name) > 1]
    if twice:
        raise UsageError(f"class '{twice[0]}' is named twice", hint="every output is one class")
    if len(listed) > VOID:
        raise UsageError(f"{len(listed)} classes do not fit in a mask", hint=f"at most {VOID}")
    # Black, the palette's first, is for a background.
    return Classes(listed, tuple(palette_color(i + 1) for i in range(len(listed))), "none")


def fitted(weights: Published, classes: Classes) -> Published:
    """The weights with one output per class.

    Raises:
        UsageError: Another number of outputs; the message names both.
    """
    outputs, count = weights.outputs, len(classes.names)
    if outputs is None or outputs == count:
        return weights
    if outputs == count + 1 and classes.source in VOID_LAST:
        return weights.without_last_output(f"void, which {classes.source} does not score")
    hint = f"name all {outputs} outputs in their order, comma separated or one per line of a file"
    if classes.source and classes.background == "real" and outputs == count - 1:
        hint = f"add --background none if no output stands for '{classes.names[0]}'"
    elif count == 1:
        hint = f"{registry.suggest(classes.names[0], registry.names('datasets'))} Or {hint}"
    raise UsageError(
        f"{weights.file} has {outputs} outputs and --classes names {count} "
        f"class{'' if count == 1 else 'es'}",
        hint=hint,
    )
