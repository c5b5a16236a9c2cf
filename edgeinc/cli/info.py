"""Commands that inform: report, doctor, ls, show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from edgeinc import catalogue
from edgeinc.cli._command import INFORMATION, RESULT, WHAT, app, command
from edgeinc.cli._options import RunArgument
from edgeinc.cli._score import miou_lines, steps_table
from edgeinc.cli._ui import Ui
from edgeinc.cli.ship import card_facts
from edgeinc.errors import MissingError, as_typed
from edgeinc.schema import (
    ArtifactCard,
    Check,
    ConventionDetails,
    Item,
    PluginDetails,
    RunSummary,
    ScenarioDetails,
)


@command(
    app,
    "report",
    panel=INFORMATION,
    examples=["edgeinc report", "edgeinc report runs/full -o full.html"],
)
def report(
    ui: Ui,
    run: RunArgument = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Page to write; else RUN/report.html.",
            rich_help_panel=RESULT,
        ),
    ] = None,
) -> None:
    """Write one self-contained page about a run."""
    path = ui.run(run)
    from edgeinc.report import report as write_report

    result = write_report(path, out=out, progress=ui.progress)
    ui.remember(path)
    plural = "" if result.steps == 1 else "s"
    ui.result(
        result,
        f"wrote {result.path}: {result.steps} step{plural}, {result.bytes / 1e6:.1f} MB",
        essential=[result.path],
        hint=["edgeinc", "export", path],
    )


@command(
    app,
    "doctor",
    panel=INFORMATION,
    examples=["edgeinc doctor", "edgeinc doctor --for device", "edgeinc doctor --for train --json"],
)
def doctor(
    ui: Ui,
    purpose: Annotated[
        Literal["train", "export", "device", "all"],
        typer.Option("--for", help="What this machine is for.", rich_help_panel=WHAT),
    ] = "all",
) -> None:
    """Say what works on this machine and how to mend the rest.

    Exit 4 when something is missing that the purpose needs.
    """
    from edgeinc.doctor import diagnose

    result = diagnose(purpose)
    missing = [check for check in result.checks if check.status == "missing"]
    blocks: list[str | Table] = []
    for check in result.checks:
        blocks += _check_lines(check)
    ui.result(
        result,
        *blocks,
        essential=[f"{check.name}: {check.detail}" for check in missing],
        hint=["edgeinc", "demo"] if result.ok else [],
    )
    if missing:
        wanted = "" if purpose == "all" else f" for {purpose}"
        raise MissingError(
            f"needed{wanted} and not here: {', '.join(check.name for check in missing)}",
            hint=missing[0].fix,
        )


def _check_lines(check: Check) -> list[str]:
    lines = [f"{check.status:<8} {check.name:<14} {check.detail}"]
    return [*lines, f"{'':<8} {'fix:':<14} {check.fix}"] if check.fix else lines


def _kinds(incomplete: str) -> list[str]:
    return [kind for kind in catalogue.KINDS if kind.startswith(incomplete)]


@command(
    app,
    "ls",
    panel=INFORMATION,
    examples=["edgeinc ls", "edgeinc ls methods", "edgeinc ls runs --json"],
)
def ls(
    ui: Ui,
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help=f"{', '.join(catalogue.KINDS)}; left out: all of them.",
            autocompletion=_kinds,
            show_default=False,
        ),
    ] = None,
) -> None:
    """List plug-ins, plans, conventions, and the runs of this folder."""
    result = catalogue.listing(kind or "all")
    groups = {kind: list(result.items)} if kind else _by_kind(result.items)
    blocks: list[str | Table] = []
    for name, items in groups.items():
        blocks += [*([name] if not kind else []), _items(ui, items), *([""] if not kind else [])]
    first = next((item.name for item in result.items), "")
    hint = ["edgeinc", "show", first] if first else ["edgeinc", "train", "--help"]
    if kind == catalogue.SCENARIOS:
        hint = ["edgeinc", "train", "--data", first.partition(":")[0], "--scenario", first]
    if not first:
        blocks = [f"no {kind} here"]
    ui.result(
        result,
        *blocks,
        essential=[item.name for item in result.items],
        hint=hint,
    )


def _by_kind(items: Sequence[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.note, []).append(item)
    return groups


def _items(ui: Ui, items: Sequence[Item]) -> Table:
    rows = []
    for item in items:
        note = "" if item.note in catalogue.KINDS else item.note
        state = note if item.available else f"not available: {note}".removesuffix(": ")
        rows.append(("  " + item.name, item.summary, state))
    return ui.table(("", "", ""), rows)


def _showable(incomplete: str) -> list[str]:
    kinds = [kind for kind in catalogue.KINDS if kind != catalogue.RUNS]
    known = [item.name for kind in kinds for item in catalogue.listing(kind).items]
    return [name for name in dict.fromkeys(known) if name.startswith(incomplete)]


@command(
    app,
    "show",
    panel=INFORMATION,
    examples=[
        "edgeinc show cil",
        "edgeinc show convention:mib",
        "edgeinc show voc:15-1",
        "edgeinc show runs/full/export/step-1.fp32.onnx --json",
    ],
)
def show(
    ui: Ui,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|RUN|ARTIFACT",
            help="A name (`edgeinc ls`), a run or an exported file; left out: the last run.",
            autocompletion=_showable,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Describe a plug-in, a plan, a convention, a run or an exported file."""
    name = ui.run(target)
    result = catalogue.details(name)
    if isinstance(result, PluginDetails):
        ui.result(result, *_plugin_blocks(ui, result), hint=_plugin_hint(result))
    elif isinstance(result, ConventionDetails):
        rules = result.convention
        blocks = [f"{rules.name} (convention)", rules.summary, "", *result.rules]
        ui.result(result, *blocks, hint=["edgeinc", "eval", "--convention", rules.name])
    elif isinstance(result, ScenarioDetails):
        plan = result.scenario
        hint = ["edgeinc", "train", "--data", plan.name.partition(":")[0], "--scenario", name]
        ui.result(result, *_scenario_blocks(ui, result), hint=hint)
    elif isinstance(result, RunSummary):
        ui.remember(name)
        ui.result(
            result,
            *_run_blocks(ui, result),
            essential=[result.path],
            hint=_run_hint(result, name),
        )
    else:
        facts = [("file", result.file), *card_facts(result), *_hashes(result)]
        ui.result(result, ui.facts(*facts), essential=[name], hint=["edgeinc", "bench", name])


def _plugin_blocks(ui: Ui, plugin: PluginDetails) -> list[str | Table]:
    blocks: list[str | Table] = [f"{plugin.name} ({plugin.kind.removesuffix('s')})", plugin.summary]
    if plugin.doc:
        blocks += ["", plugin.doc]
    if plugin.options:
        # As text: a column of numbers among words would stand at the right.
        # A default is shown to the last digit; `ui.text` rounds what was measured.
        rows = [
            (
                o.name,
                o.type,
                f"{o.default:g}" if isinstance(o.default, float) else ui.text(o.default),
                o.doc,
            )
            for o in plugin.options
        ]
        blocks += ["", ui.table(("option", "type", "default", "meaning"), rows)]
    blocks += ["", f"source {plugin.path}"]
    if plugin.name in [item.name for item in catalogue.listing(catalogue.CONVENTIONS).items]:
        shown = f"{catalogue.CONVENTION}{plugin.name}"
        blocks.append(f"the convention of that name: {as_typed('show', shown)}")
    return blocks


def _scenario_blocks(ui: Ui, details: ScenarioDetails) -> list[str | Table]:
    plan = details.scenario
    rows = [
        (i, ", ".join(step.classes), images)
        for i, (step, images) in enumerate(zip(plan.steps, details.images, strict=True))
    ]
    return [
        f"{plan.name} (scenario)",
        "",
        ui.table(("step", "new classes", "images"), rows),
        "",
        ui.facts(
            ("selection", plan.selection),
            ("labels", f"{plan.labels}: {details.labels}"),
            ("background", details.background),
        ),
    ]


def _plugin_hint(plugin: PluginDetails) -> list[str]:
    return {
        "models": ["edgeinc", "train", "--data", "NAME", "--model", plugin.name],
        "methods": ["edgeinc", "extend", "--new-classes", "NAME", "--method", plugin.name],
        "datasets": ["edgeinc", "data", "info", plugin.name],
        "runtimes": ["edgeinc", "bench", "--runtime", plugin.name],
    }[plugin.kind]


def _run_hint(summary: RunSummary, name: str) -> list[str]:
    """What to do with a run: finish what was begun, else score it."""
    if summary.pending is None and summary.steps:
        return ["edgeinc", "eval", name]
    if summary.steps:
        return ["edgeinc", "extend", name, "--resume"]
    data = [] if summary.pending else ["--data", "NAME"]
    return ["edgeinc", "train", *data, "--run", name, "--resume"]


def _run_blocks(ui: Ui, summary: RunSummary) -> list[str | Table]:
    info = summary.run
    facts = ui.facts(
        ("run", summary.path),
        ("model", info.model),
        ("size", f"{info.size[0]}x{info.size[1]}"),
        ("scenario", info.scenario.name if info.scenario else None),
        ("created", info.created),
        ("artifacts", summary.artifacts),
        ("unfinished", f"step {summary.pending.index}" if summary.pending else None),
    )
    blocks: list[str | Table] = [facts, "", steps_table(ui, summary.steps)]
    return [*blocks, "", *miou_lines(ui, summary.score)] if summary.score else blocks


def _hashes(card: ArtifactCard) -> list[tuple[str, Any]]:
    return [
        ("sha256", card.sha256),
        ("weights", card.weights_sha256),
        ("parent", card.parent_sha256),
        ("created", card.created),
    ]
