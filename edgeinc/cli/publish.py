"""The command that signs a step, and says which fleet gets it: publish."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from edgeinc.cli._command import RESULT, RUN, SHIP, WHAT, app, command, flag
from edgeinc.cli._options import DataOption, DataRootOption, LimitOption, TargetArgument
from edgeinc.cli._ui import Ui
from edgeinc.cli.repo import KeyOption, ask_secret
from edgeinc.errors import UsageError
from edgeinc.registry import suggest
from edgeinc.schema import Channel, ChannelResult, PublishResult

_GATES: dict[str, Callable[[str], object]] = {
    "golden_percent": float,
    "max_p95_ms": float,
    "providers": lambda text: tuple(name.strip() for name in text.split(",")),
    "trial_seconds": float,
    "trial_frames": int,
    "max_single_class_percent": float,
    "min_agreement_old_percent": float,
}
"""What a device can be told to demand, and how it is read; see `DeviceGates`."""


@command(
    app,
    "publish",
    panel=SHIP,
    examples=[
        "edgeinc publish runs/full --repo repo --key file:keys --percent 10",
        "edgeinc publish --repo repo --dry-run",
        "edgeinc publish --repo repo --percent 50 --key file:keys",
        "edgeinc publish --repo repo --step 0 --rollback --key file:keys",
    ],
)
def publish(
    ui: Ui,
    target: TargetArgument = None,
    repo: Annotated[
        str,
        typer.Option(
            "--repo", metavar="DIR", help="Folder of the repository.", rich_help_panel=WHAT
        ),
    ] = "repo",
    key: KeyOption = None,
    data: DataOption = None,
    data_root: DataRootOption = None,
    limit: LimitOption = None,
    golden: Annotated[
        str | None,
        typer.Option(
            "--golden",
            metavar="FILE.npz",
            help="Images that devices answer first, beside the synthetic one in the file: "
            "images, and ids that have to come out. They are published.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    site: Annotated[
        str,
        typer.Option(
            "--site",
            metavar="NAME",
            help="The site that made the step, and signs it below its own path.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = "",
    notes: Annotated[
        str,
        typer.Option(
            "--notes",
            metavar="TEXT",
            help="What people should know about the step.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = "",
    channel: Annotated[
        str | None,
        typer.Option(
            "--channel",
            metavar="FLEET",
            help="The fleet that is asked to serve it; left out: the only one there is.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    no_channel: Annotated[
        bool,
        flag("--no-channel", help="Only sign the step; no fleet is asked.", panel=RESULT),
    ] = False,
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            metavar="N",
            min=0,
            help="Ask the fleet for this published step; nothing new is published.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    percent: Annotated[
        float | None,
        typer.Option(
            "--percent",
            metavar="P",
            min=0,
            max=100,
            help="Of the fleet, drawn anew for every step; else everyone.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    pause: Annotated[
        bool | None,
        typer.Option(
            "--pause/--resume",
            help="Devices wait, or go on.",
            metavar="",
            rich_help_panel=RESULT,
            show_default=False,
        ),
    ] = None,
    revoke_below: Annotated[
        int | None,
        typer.Option(
            "--revoke-below",
            metavar="N",
            min=0,
            help="No device may serve a step below N, not even to go back.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    rollback: Annotated[
        bool,
        flag("--rollback", help="Devices with a newer step go back to --step N.", panel=RESULT),
    ] = False,
    min_miou: Annotated[
        float | None,
        typer.Option(
            "--min-miou",
            metavar="PERCENT",
            help="Gate: mIoU over all classes of what devices will serve.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="POINTS",
            help="Gate: what the older classes may lose on average against the published parent.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    max_miou_loss: Annotated[
        float,
        typer.Option(
            "--max-miou-loss",
            metavar="POINTS",
            min=0,
            help="Gate: mIoU that the delta may cost; more bits are used to meet it.",
            rich_help_panel=RESULT,
        ),
    ] = 0.1,
    bits: Annotated[
        int,
        typer.Option(
            "--bits",
            metavar="N",
            help="Bits of a delta's integers that are tried first: 8, 6 or 4; 0: exact.",
            rich_help_panel=RESULT,
        ),
    ] = 6,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="KEY=VALUE",
            help=f"What devices demand: {', '.join(_GATES)}; repeatable.",
            rich_help_panel=RESULT,
            show_default=False,
        ),
    ] = None,
    unscored: Annotated[
        bool,
        flag(
            "--unscored",
            help="Publish without a score, which devices can read; deltas are exact then.",
            panel=RESULT,
        ),
    ] = False,
    new_graph: Annotated[
        bool,
        flag(
            "--new-graph",
            help="The graph may differ from the parent's; devices build engines anew.",
            panel=RESULT,
        ),
    ] = False,
    replace: Annotated[
        bool,
        flag("--replace", help="Publish another file for the newest step.", panel=RESULT),
    ] = False,
    dry_run: Annotated[
        bool, flag("--dry-run", help="Do all but sign; needs no key.", panel=RUN)
    ] = False,
) -> None:
    """Sign a step and ask a fleet to serve it.

    What is published is what the delta from the step before leads to: scored, then signed, the same
    bytes by every way. Without RUN or ARTIFACT, --step, --percent, --pause, --resume,
    --revoke-below and --rollback only change what the fleet is asked for. Exit 3 when a gate is
    not met; nothing is signed then.
    """
    from edgeinc.update.promote import Wish, promote
    from edgeinc.update.publish import publish as publish_step
    from edgeinc.update.terms import Terms

    wish = Wish(percent, pause, revoke_below, rollback)
    if channel == "":
        raise UsageError("--channel names no fleet", hint="--no-channel asks none")
    if no_channel and (channel is not None or wish != Wish()):
        raise UsageError(
            "--no-channel asks no fleet, and other options say how one is asked",
            hint="leave out --no-channel, or the options of the channel",
        )
    if target is None and (step is not None or wish != Wish()):
        done = promote(
            Path(repo),
            keys=key or (),
            fleet=channel,
            step=step,
            site=site,
            wish=wish,
            dry_run=dry_run,
            secret=ask_secret,
        )
        _show_channel(ui, done, repo)
        return
    if step is not None:
        raise UsageError(
            "--step names a step that is published already, and an artifact is given as well",
            hint="leave out one of both",
        )
    path = ui.run(target)
    result = publish_step(
        Path(repo),
        path,
        keys=key or (),
        fleet="" if no_channel else channel,
        wish=wish,
        site=site,
        notes=notes,
        terms=Terms(
            bits=bits,
            max_miou_loss=max_miou_loss,
            min_miou=min_miou,
            max_drop=max_drop,
            unscored=unscored,
            new_graph=new_graph,
            replace=replace,
            gates=_gates(gate or []),
        ),
        golden=None if golden is None else Path(golden),
        data=data,
        data_root=data_root,
        limit=limit,
        dry_run=dry_run,
        secret=ask_secret,
        progress=ui.progress,
    )
    ui.remember(path)
    ui.result(
        result,
        *_step_blocks(ui, result),
        essential=[result.manifest],
        hint=["edgeinc", "repo", "verify", repo] if result.published else [],
    )
    ui.gate(result.unmet, hint="nothing was signed; train on, or give other gates")


def _show_channel(ui: Ui, done: ChannelResult, repo: str) -> None:
    ui.result(
        done,
        _channel_line(done.channel),
        _signed(done.versions) if done.published else "nothing was signed: --dry-run",
        essential=[done.path],
        hint=["edgeinc", "repo", "verify", repo] if done.published else [],
    )


def _step_blocks(ui: Ui, result: PublishResult) -> list[str | Table]:
    """What devices get, by which ways, and what it scores."""
    full = next(b for b in result.blobs if b.kind == "full")
    ways: list[tuple[Any, ...]] = []
    deltas = iter(result.deltas_from)
    for blob in result.blobs:
        what = f"from step {next(deltas)}" if blob.kind == "delta" else blob.kind
        ways.append((what, blob.codec, blob.bytes, f"{100 * blob.bytes / full.bytes:.1f} %"))
    tried = [
        (
            a.codec,
            a.bytes,
            f"{a.percent:.1f} %",
            a.miou,
            None if a.loss is None else f"{a.loss:+.3f}",
            a.why_not or "taken",
        )
        for a in result.attempts
    ]
    blocks: list[str | Table] = [
        ui.facts(
            ("artifact", result.artifact),
            ("step", f"{result.step} of {result.model}: {', '.join(result.classes)}"),
            ("extends", None if result.parent is None else f"step {result.parent}"),
            ("graph", "another one: engines are built anew" if result.topology_changed else ""),
            ("file", f"{result.artifact_bytes} bytes, sha256 {result.artifact_sha256[:12]}"),
            ("manifest", result.manifest),
        ),
        "",
        ui.table(("download", "codec", "bytes", "of full"), ways),
    ]
    if tried:
        headers = ("delta", "bytes", "of full", "mIoU", "loss", "")
        blocks += ["", ui.table(headers, tried)]
    m = result.metrics
    if m is None:
        blocks += ["", "not scored, as was asked for; the manifest says so"]
    else:
        lost = "" if m.forgetting is None else f"  forgetting {m.forgetting:.1f}"
        blocks += [
            "",
            f"mIoU {ui.text(m.miou_all)}  old {ui.text(m.miou_old)}  new {ui.text(m.miou_new)}"
            f"{lost}, percent, of the published file on {m.images} images of {m.dataset}",
            f"{sum(iou is not None for iou in m.per_class.values())} classes have a score there",
        ]
    if result.channel is not None:
        blocks.append(_channel_line(result.channel))
    if result.published:
        return [*blocks, _signed(result.versions)]
    return [*blocks, "nothing was signed" + (": --dry-run" if not result.unmet else "")]


def _channel_line(channel: Channel) -> str:
    parts = [
        f"fleet {channel.fleet}: step {channel.step} of {channel.model}, {channel.percent:g} %",
        *(["paused"] if channel.paused else []),
        *(["newer devices go back"] if channel.rollback else []),
        *([f"nothing below step {channel.revoke_below}"] if channel.revoke_below else []),
    ]
    return ", ".join(parts)


def _signed(versions: dict[str, int]) -> str:
    return "signed: " + ", ".join(f"{role} {version}" for role, version in versions.items())


def _gates(pairs: list[str]) -> dict[str, object]:
    """`max_p95_ms=40` as fields of `DeviceGates`.

    Raises:
        UsageError: No such gate, or not a number.
    """
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--gate '{pair}' is not KEY=VALUE", hint="such as max_p95_ms=40")
        if name not in _GATES:
            raise UsageError(f"--gate '{pair}' is not a gate", hint=suggest(name, tuple(_GATES)))
        try:
            found[name] = value = _GATES[name](text)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(text)
        except ValueError as err:
            raise UsageError(
                f"--gate '{pair}' is not a number", hint=f"such as --gate {name}=40"
            ) from err
    return found
