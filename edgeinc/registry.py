"""Plug-ins by file name: a file in the right folder is a plug-in, and nothing else needs editing.

Rules: names come from the file system, so listing and completing them imports nothing; names that
start with an underscore are machinery; the first docstring line is the summary; a third-party
package joins through the entry-point group `edgeinc.KIND`.

    names("methods")          # ('cil', 'finetune', 'joint')
    load("methods", "cil")    # the class, its module imported now
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeinc.errors import UsageError, as_typed

KINDS = {
    "models": ("edgeinc.models", "Model"),
    "methods": ("edgeinc.methods", "Method"),
    "datasets": ("edgeinc.data", "Dataset"),
    "runtimes": ("edgeinc.runtimes", "Runtime"),
}
"""Kind of plug-in -> (package whose files are the plug-ins, base class in that package)."""


def names(kind: str) -> tuple[str, ...]:
    """The names of every plug-in of a kind, sorted, without importing one.

    Raises:
        UsageError: `kind` is not one of `KINDS`.
    """
    own = {m.name for m in pkgutil.iter_modules([str(_folder(kind))])}
    return tuple(sorted(n for n in {*own, *_entry_points(kind)} if not n.startswith("_")))


def load(kind: str, name: str) -> Any:
    """Import a plug-in and return its class: the one its module defines from the kind's base.

    Raises:
        UsageError: No such plug-in; the message names the nearest.
        TypeError: The file defines no such class, or more than one (a fault of the plug-in).
    """
    _known(kind, name)
    if name in _entry_points(kind):
        return _entry_points(kind)[name].load()
    package, base_name = KINDS[kind]
    module = import_module(f"{package}.{name}")
    base = getattr(import_module(package), base_name)
    found = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if c.__module__ == module.__name__ and issubclass(c, base)
    ]
    if len(found) != 1:
        raise TypeError(
            f"{module.__name__} must define exactly one {base_name}, found {len(found)}"
        )
    return found[0]


def source(kind: str, name: str) -> Path:
    """The file a plug-in is read from.

    Raises:
        UsageError: No such plug-in.
    """
    _known(kind, name)
    if name in _entry_points(kind):
        spec = find_spec(_entry_points(kind)[name].module)
        return Path(spec.origin) if spec and spec.origin else Path(name)
    return _folder(kind) / f"{name}.py"


def docstring(kind: str, name: str) -> str:
    """A plug-in's module docstring, read without importing it.

    Raises:
        UsageError: No such plug-in.
    """
    tree = ast.parse(source(kind, name).read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or ""


def summary(kind: str, name: str) -> str:
    """The first line of a plug-in's docstring: what `edgeinc ls` prints.

    Raises:
        UsageError: No such plug-in.
    """
    return docstring(kind, name).partition("\n")[0]


def kind_of(name: str) -> str | None:
    """The kind a name belongs to, or None."""
    return next((kind for kind in KINDS if name in names(kind)), None)


def suggest(word: str, known: tuple[str, ...]) -> str:
    """A hint that names the nearest of the known words, or all of them."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}"


def _known(kind: str, name: str) -> None:
    known = names(kind)
    if name not in known:
        singular = kind.removesuffix("s")
        raise UsageError(
            f"unknown {singular} '{name}'",
            hint=f"{suggest(name, known)} see `{as_typed('ls', kind)}`",
        )


def _folder(kind: str) -> Path:
    if kind not in KINDS:
        raise UsageError(f"unknown kind '{kind}'", hint=suggest(kind, tuple(KINDS)))
    spec = find_spec(KINDS[kind][0])
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"package {KINDS[kind][0]} is missing from this installation")
    return Path(spec.submodule_search_locations[0])


@cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=f"edgeinc.{kind}")}
