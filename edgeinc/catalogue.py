"""What there is: plug-ins, runs and artifacts, described without importing anything heavy.

Rules: a plug-in is read from its source by `ast`, so what is said about it is what the file says
and a broken or uninstalled dependency hides nothing; a run that cannot be read is listed with the
reason, never left out.

    listing("methods").items[0].name       # 'cil'
    details("cil").options                 # fields of its Config, each with default and text
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeinc import registry
from edgeinc.errors import EdgeincError, UsageError
from edgeinc.registry import suggest
from edgeinc.runs import Run, open_run
from edgeinc.schema import (
    ArtifactCard,
    Item,
    Listing,
    Option,
    PluginDetails,
    RunSummary,
    Scenario,
)

__all__ = ["KINDS", "attributes", "details", "listing"]

RUNS = "runs"
SCENARIOS = "scenarios"
KINDS = (*registry.KINDS, SCENARIOS, RUNS)
"""What `listing` knows, beside `all`."""


def listing(kind: str = "all") -> Listing:
    """Everything of a kind.

    Args:
        kind: `models`, `methods`, `datasets`, `runtimes`, `scenarios`, `runs` (those in ./runs),
            or `all`, where the note of an item is its kind.

    Raises:
        UsageError: No such kind.
    """
    if kind == "all":
        return Listing(
            "all",
            tuple(
                Item(item.name, item.summary, item.available, note=each)
                for each in KINDS
                for item in listing(each).items
            ),
        )
    if kind == RUNS:
        return Listing(kind, tuple(_run_item(path) for path in sorted(_run_folders())))
    if kind == SCENARIOS:
        from edgeinc.data._scenario import load_scenario, scenario_names

        scenarios = (load_scenario(name) for name in scenario_names())
        return Listing(kind, tuple(Item(s.name, _steps_of(s)) for s in scenarios))
    if kind not in KINDS:
        raise UsageError(f"unknown kind '{kind}'", hint=suggest(kind, KINDS))
    return Listing(kind, tuple(_plugin_item(kind, name) for name in registry.names(kind)))


def details(target: str) -> PluginDetails | RunSummary | ArtifactCard:
    """What is known about a plug-in, a run or an exported file.

    Raises:
        UsageError: It is none of them; the message names the nearest plug-in.
        EdgeincError: The run, or the card of the file, is damaged.
    """
    kind = registry.kind_of(target)
    if kind is not None:
        return _plugin_details(kind, target)
    path = Path(target)
    if (path / "run.json").is_file():
        return _run_summary(open_run(path))
    if path.suffix == ".onnx" and path.is_file():
        from edgeinc.deploy.export import read_card

        return read_card(path)
    known = tuple(name for each in registry.KINDS for name in registry.names(each))
    raise UsageError(
        f"'{target}' is neither a plug-in nor a run nor an exported file",
        hint=f"{suggest(target, known)} see `edgeinc ls`",
    )


def _steps_of(scenario: Scenario) -> str:
    return "; then ".join(", ".join(step.classes) for step in scenario.steps)


def attributes(doc: str) -> dict[str, str]:
    """The `Attributes:` section of a Google docstring: name -> text."""
    found: dict[str, str] = {}
    indent = name = ""
    for line in _section(doc, "Attributes"):
        entry = re.match(r"( +)([\w, ]+): (.*)", line)
        if entry and (not indent or entry[1] == indent):
            indent, name, text = entry.groups()
            found[name] = text.strip()
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return {each: text for names, text in found.items() for each in names.split(", ")}


def _section(doc: str, title: str) -> list[str]:
    """The lines under `Title:` that are indented deeper than it."""
    lines = doc.splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip() == f"{title}:"), None)
    if start is None:
        return []
    margin = len(lines[start]) - len(lines[start].lstrip())
    section = []
    for line in lines[start + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= margin:
            break
        section.append(line)
    return section


# ---------------------------------------------------------------------------------- plug-ins


def _plugin_item(kind: str, name: str) -> Item:
    summary = registry.summary(kind, name)
    if kind != "runtimes":
        return Item(name, summary)
    state = registry.load(kind, name).availability()
    note = state.version if state.ok else "; ".join(filter(None, (state.reason, state.fix)))
    return Item(name, summary, state.ok, note)


def _plugin_details(kind: str, name: str) -> PluginDetails:
    path = registry.source(kind, name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    init = path.with_name("__init__.py")
    package = ast.parse(init.read_text(encoding="utf-8") if init.exists() else "")
    summary, _, doc = (ast.get_docstring(tree) or "").partition("\n")
    return PluginDetails(name, kind, summary, doc.strip(), _options(tree, package), str(path))


def _options(tree: ast.Module, package: ast.Module) -> tuple[Option, ...]:
    """The fields of the `Config` dataclass in a plug-in's source; none where it has none.

    Args:
        tree: The plug-in.
        package: The package of its kind, where types that plug-ins share are named.
    """
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    config = next((node for node in classes if node.name == "Config"), None)
    if config is None:
        return ()
    constants = {**_constants(package), **_constants(tree)}
    docs = attributes(ast.get_docstring(config) or "")
    return tuple(
        Option(
            name=node.target.id,
            type=_source_of(node.annotation, constants),
            default=_literal(node.value, constants),
            doc=docs.get(node.target.id, ""),
        )
        for node in config.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and "ClassVar" not in ast.unparse(node.annotation)
    )


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Names that the module assigns once at its top level."""
    return {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _source_of(annotation: ast.expr, constants: Mapping[str, ast.expr]) -> str:
    """The type as a user reads it: aliases spelt out, `Annotated` reduced to its type."""
    if isinstance(annotation, ast.Name):
        annotation = constants.get(annotation.id, annotation)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        inner = annotation.slice
        return ast.unparse(inner.elts[0] if isinstance(inner, ast.Tuple) else inner)
    return ast.unparse(annotation)


def _literal(value: ast.expr | None, constants: Mapping[str, ast.expr]) -> Any:
    """The default as a value where the source writes one, else as source."""
    if isinstance(value, ast.Name):
        value = constants.get(value.id, value)
    if value is None:
        return None
    try:
        return ast.literal_eval(value)
    except ValueError:
        return ast.unparse(value)


# ---------------------------------------------------------------------------------- runs


def _run_folders() -> list[Path]:
    return [file.parent for file in Path("runs").glob("*/run.json")]


def _run_item(path: Path) -> Item:
    try:
        run = open_run(path)
        steps = run.steps
    except EdgeincError as err:
        return Item(path.as_posix(), "cannot be read", available=False, note=err.message)
    methods = dict.fromkeys(step.method for step in steps[1:])
    made = "+".join([run.info.model, *methods])
    classes = len(steps[-1].classes) if steps else 0
    plural = "" if len(steps) == 1 else "s"
    note = f"step {run.pending.index} is unfinished" if run.pending else ""
    return Item(path.as_posix(), f"{made}, {len(steps)} step{plural}, {classes} classes", note=note)


def _run_summary(run: Run) -> RunSummary:
    steps = run.steps
    return RunSummary(
        path=str(run.path),
        run=run.info,
        steps=steps,
        score=run.score(steps[-1].index) if steps else None,
        artifacts=tuple(str(path) for path in sorted((run.path / "export").glob("*.onnx"))),
    )
