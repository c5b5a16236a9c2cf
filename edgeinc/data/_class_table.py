"""classes.toml: the class table of a `folder` dataset, read strictly and written.

table = read_table(root / "classes.toml")
table.labels, table.background, table.void
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeinc import registry
from edgeinc.data import Label
from edgeinc.errors import DataError
from edgeinc.schema import VOID, Background, Color

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Table", "read_table", "table_text"]

_CLASS_KEYS = ("id", "name", "color")
_KEYS = ("background", "masks", "void", "class")


@dataclass(frozen=True)
class Table:
    """What a classes.toml says.

    Attributes:
        labels: The classes in id order.
        background: What the first of them is.
        masks: Whether the masks hold ids or the classes' colours.
        void: The value or the colour of pixels without a label; None: every pixel has one.
    """

    labels: tuple[Label, ...]
    background: Background
    masks: Literal["index", "color"]
    void: int | Color | None

    @property
    def ids_by_color(self) -> dict[Color, int]:
        """The id of every colour a mask of colours may show."""
        ids = {label.color: label.id for label in self.labels}
        return ids | ({self.void: VOID} if isinstance(self.void, tuple) else {})


def read_table(path: Path) -> Table:
    """Read a class table.

    Raises:
        DataError: The file is missing or wrong; the message lists every fault.
    """
    table = _parsed(path)
    problems = _unknown_keys(table, _KEYS)
    background, masks = table.get("background", "none"), table.get("masks", "index")
    void = table.get("void", VOID if masks == "index" else None)
    if background not in ("none", "real"):
        problems.append(f"background is {background!r}, allowed are 'none' and 'real'")
    if masks not in ("index", "color"):
        problems.append(f"masks is {masks!r}, allowed are 'index' and 'color'")
    elif masks == "index" and not _is_id(void, 255):
        problems.append(f"void is {void!r}, allowed are 0 to 255")
    elif masks == "color" and void is not None and not _is_color(void):
        problems.append(f"void is {void!r}, in masks of colours it is [red, green, blue]")
    void = tuple(void) if isinstance(void, list) and _is_color(void) else void
    entries = table.get("class", [])
    if not isinstance(entries, list) or not entries:
        problems.append("there is no [[class]]")
        entries = []
    labels: list[Label] = []
    for number, entry in enumerate(entries, 1):
        faults = _class_faults(entry)
        problems += [f"class {number}: {fault}" for fault in faults]
        if not faults:
            labels.append(Label(entry["id"], entry["name"], tuple(entry["color"])))
    labels.sort(key=lambda label: label.id)
    problems += _table_faults(labels, background, void)
    if masks == "color":
        problems += _color_faults(labels, void)
    if problems:
        raise DataError(
            f"{path}: {'; '.join(problems)}", hint="`edgeinc show folder` prints an example"
        )
    return Table(tuple(labels), background, masks, void)


def table_text(labels: Sequence[Label], background: Background, *, origin: str = "") -> str:
    """The content of a classes.toml for masks of ids.

    Args:
        labels: The classes.
        background: What the first of them is.
        origin: A remark for the first line.
    """
    lines = [f"# {origin}"] if origin else []
    lines += [f'background = "{background}"', f"void = {VOID}"]
    for label in labels:
        name = json.dumps(label.name, ensure_ascii=False)  # a JSON string is a TOML string
        color = ", ".join(map(str, label.color))
        lines += ["", "[[class]]", f"id = {label.id}", f"name = {name}", f"color = [{color}]"]
    return "\n".join(lines) + "\n"


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as err:
        raise DataError(
            f"{path} is missing", hint="`edgeinc show folder` prints what belongs in it"
        ) from err
    except OSError as err:
        raise DataError(
            f"{path} cannot be read: {err.strerror}", hint="it must be a file you may read"
        ) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise DataError(f"{path} is not valid TOML: {err}", hint="mend that place") from err


def _class_faults(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return ["it is not a [[class]] table"]
    missing = [f"key '{key}' is missing" for key in _CLASS_KEYS if key not in entry]
    faults = _unknown_keys(entry, _CLASS_KEYS) + missing
    class_id, name, color = (entry.get(key) for key in _CLASS_KEYS)
    if "id" in entry and not _is_id(class_id, VOID - 1):
        faults.append(f"id is {class_id!r}, allowed are 0 to {VOID - 1}")
    if "name" in entry and not (isinstance(name, str) and name.strip() and "," not in name):
        faults.append(f"name is {name!r}, it must be text without a comma")
    if "color" in entry and not _is_color(color):
        faults.append(f"color is {color!r}, it must be [red, green, blue] of 0 to 255")
    return faults


def _table_faults(labels: Sequence[Label], background: str, void: object) -> list[str]:
    """What is wrong with classes that are each well formed, sorted by id."""
    faults = []
    names: dict[int, str] = {}
    for label in labels:
        if label.id in names:
            faults.append(f"id {label.id} has two names, '{names[label.id]}' and '{label.name}'")
        elif label.name in names.values():
            faults.append(f"name '{label.name}' is given twice")
        if label.id == void:
            faults.append(f"id {label.id} of '{label.name}' is the void value")
        names[label.id] = label.name
    if background == "real" and labels and labels[0].id != 0:
        faults.append(f"background is 'real', but the first id is {labels[0].id} instead of 0")
    return faults


def _color_faults(labels: Sequence[Label], void: object) -> list[str]:
    """Colours that do not say which class is meant."""
    faults = []
    names: dict[Color, str] = {}
    for label in labels:
        if label.color in names:
            faults.append(
                f"'{names[label.color]}' and '{label.name}' have one colour, {list(label.color)}"
            )
        if label.color == void:
            faults.append(f"the colour of '{label.name}' is the void colour")
        names[label.color] = label.name
    return faults


def _unknown_keys(table: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    return [
        f"unknown key '{key}', {registry.suggest(key, known)}" for key in table if key not in known
    ]


def _is_id(value: object, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest


def _is_color(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_id(c, 255) for c in value)
