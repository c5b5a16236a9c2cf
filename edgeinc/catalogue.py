"""What there is: plug-ins, plans, conventions, runs and artifacts, read without running any.

Rules: a name is a plug-in first, and `convention:NAME` always a convention; a plug-in is read from
its source by `ast`, so what is said about it is what the file says and a broken or uninstalled
dependency hides nothing; a run that cannot be read is listed with the reason, never left out.

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
    Background,
    ConventionDetails,
    Item,
    Listing,
    Option,
    PluginDetails,
    RunSummary,
    Scenario,
    ScenarioDetails,
    ScenarioStep,
    Selection,
)

__all__ = ["CONVENTION", "KINDS", "attributes", "details", "listing"]

RUNS = "runs"
SCENARIOS = "scenarios"
CONVENTIONS = "conventions"
KINDS = (*registry.KINDS, SCENARIOS, CONVENTIONS, RUNS)
"""What `listing` knows, beside `all`."""

CONVENTION = "convention:"
"""Before the name of a convention, where a plug-in has the same name."""

_LISTED_CLASSES = 12
_SELECTIONS: Mapping[Selection, str] = {
    "listed": "images that show a class of the step",
    "overlapped": "images that show a class of the step",
    "disjoint": "images that show a class of the step and none of a later step",
    "partitioned": "images drawn for a class of the step, each for one class it shows",
}
_LABELS = {
    "new-only": "only the classes of the step are labelled",
    "new-and-old": "the classes of the step and of earlier steps are labelled",
}
_BACKGROUNDS: Mapping[Background | None, str] = {
    None: "as in the data",
    "none": "no background: what has no label is void",
    "real": "id 0 is the background of the data",
    "virtual": "id 0 is added for whatever is no class of the step",
}


def listing(kind: str = "all") -> Listing:
    """Everything of a kind.

    Args:
        kind: `models`, `methods`, `datasets`, `runtimes`, `scenarios`, `conventions`, `runs`
            (those in ./runs), or `all`, where the note of an item is its kind.

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
        from edgeinc.data._scenario import load_scenario, scenario_names, scenario_summary

        return Listing(
            kind,
            tuple(
                Item(name, scenario_summary(name) or _steps_of(load_scenario(name)))
                for name in scenario_names()
            ),
        )
    if kind == CONVENTIONS:
        from edgeinc.data._conventions import convention_names, load_convention

        rules = (load_convention(name) for name in convention_names())
        return Listing(kind, tuple(Item(r.name, r.summary) for r in rules))
    if kind not in KINDS:
        raise UsageError(f"unknown kind '{kind}'", hint=suggest(kind, KINDS))
    return Listing(kind, tuple(_plugin_item(kind, name) for name in registry.names(kind)))


def details(
    target: str,
) -> PluginDetails | ConventionDetails | ScenarioDetails | RunSummary | ArtifactCard:
    """What is known about a plug-in, a convention, a scenario, a run or an exported file.

    Raises:
        UsageError: It is none of them; the message names the nearest name there is.
        EdgeincError: The run, or the card of the file, is damaged.
    """
    kind = registry.kind_of(target)
    if kind is not None:
        return _plugin_details(kind, target)
    from edgeinc.data._conventions import convention_names
    from edgeinc.data._scenario import scenario_names

    if target.startswith(CONVENTION) or target in convention_names():
        return _convention_details(target.removeprefix(CONVENTION))
    path = Path(target)
    if (path / "run.json").is_file():
        return _run_summary(open_run(path))
    if path.suffix == ".onnx" and path.is_file():
        from edgeinc.deploy.export import read_card

        return read_card(path)
    plan = target.partition(":")[0] in registry.names("datasets") and ":" in target
    if plan or (path.suffix == ".toml" and path.is_file()):
        return _scenario_details(target)
    plugins = (name for each in registry.KINDS for name in registry.names(each))
    known = (*plugins, *convention_names(), *scenario_names())
    raise UsageError(
        f"'{target}' is neither a plug-in nor a run nor an exported file",
        hint=f"{suggest(target, known)} see `edgeinc ls`",
    )


# ---------------------------------------------------------------------------------- protocols


def _convention_details(name: str) -> ConventionDetails:
    from edgeinc.data._conventions import in_words, load_convention

    return ConventionDetails(load_convention(name), in_words(name))


def _scenario_details(name: str) -> ScenarioDetails:
    from edgeinc.data._scenario import load_scenario

    plan = load_scenario(name)
    return ScenarioDetails(
        scenario=plan,
        images=tuple(_images_of(step, plan.selection) for step in plan.steps),
        labels=_LABELS[plan.labels],
        background=_BACKGROUNDS[plan.background],
    )


def _images_of(step: ScenarioStep, selection: Selection) -> str:
    """Which images a step sees, in words."""
    if step.part is not None:
        listed = f"part {step.part[0]} of {step.part[1]} of every sequence"
    elif step.sequences is not None:
        listed = f"every image of {', '.join(step.sequences)}"
    elif step.images is not None:
        listed = f"the {len(step.images)} images of the plan"
    else:
        return _SELECTIONS[selection]
    return listed if selection == "listed" else f"{_SELECTIONS[selection]}, of {listed}"


def _steps_of(scenario: Scenario) -> str:
    """The classes of each step; how many where they are too many to read."""
    if sum(len(step.classes) for step in scenario.steps) > _LISTED_CLASSES:
        return f"{' + '.join(str(len(step.classes)) for step in scenario.steps)} classes"
    return "; then ".join(", ".join(step.classes) for step in scenario.steps)


# ---------------------------------------------------------------------------------- plug-ins


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
        pending=run.pending,
    )
