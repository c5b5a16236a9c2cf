"""What makes a folder a device: device init."""

from __future__ import annotations

import platform
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeinc.cli._command import MACHINE, RUN, WHAT, command, device_app, flag
from edgeinc.cli._device import ROOT, RootOption, become_owner, rooted
from edgeinc.cli._ui import Ui
from edgeinc.errors import UsageError
from edgeinc.schema import DeviceConfig


@command(
    device_app,
    "init",
    examples=[
        "edgeinc device init --trust root.json --repo URL --model erfnet --fleet north",
        "edgeinc device init --replace --repo https://new.example.org",
    ],
)
def init(
    ui: Ui,
    trust: Annotated[
        Path | None,
        typer.Option(
            "--trust",
            metavar="root.json",
            help="The repository's root metadata, brought here by a way you trust.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(
            "--repo",
            metavar="URL|DIR",
            help="Where updates come from.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="The model it serves.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    fleet: Annotated[
        str | None,
        typer.Option(
            "--fleet",
            metavar="NAME",
            help="The fleet it belongs to.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Its name in the fleet; else that of the machine.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            metavar="NAME",
            help="What computes; else onnxruntime.",
            rich_help_panel=MACHINE,
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="auto (the default), cpu, cuda or cuda:N; an explicit one is never replaced.",
            rich_help_panel=MACHINE,
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool,
        flag("--replace", help="Correct a device; what is not said stays as it is.", panel=RUN),
    ] = False,
    root: RootOption = ROOT,
) -> None:
    """Make a folder a device: who it is, and whose signatures it trusts.

    It needs --trust, --repo, --model and --fleet. With --replace a device that is one already is
    corrected: what is not said again stays, and so does what it serves.
    """
    from edgeinc.update import enrol
    from edgeinc.update.identity import read_config, read_trust

    content = None if trust is None else _trust(trust)
    become_owner(root)
    known = read_config(root) if replace else None
    said = {
        "device": name or (None if known else platform.node()),
        "fleet": fleet,
        "model": model,
        "repository": repo if repo is None or "://" in repo else str(Path(repo).resolve()),
        "runtime": runtime,
        "provider": device,
    }
    config = _configured(known, said, content)
    if known is None:
        enrol.init(root, config, content or b"")
    else:
        enrol.correct(root, config, read_trust(root) if content is None else content)
    ui.result(
        config,
        ui.facts(
            ("device", f"{config.device} in {config.fleet}"),
            ("folder", str(root)),
            ("updates from", config.repository),
            ("computes on", f"{config.runtime}, {config.provider}"),
            ("restart", "what serves here: it reads this when it starts" if replace else ""),
        ),
        essential=[str(root)],
        hint=["edgeinc", "device", "update", *rooted(root)],
    )


def _trust(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        raise UsageError(
            f"{file} cannot be read: {err.strerror}",
            hint="copy 1.root.json of the repository here",
        ) from err


def _configured(
    known: DeviceConfig | None, said: dict[str, str | None], trust: bytes | None
) -> DeviceConfig:
    """What a device is: what it was, and what was said.

    Raises:
        UsageError: It is new, and something is missing.
    """
    given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if known is not None:
        return replace_fields(known, **given)
    needed = {"--trust": trust, "--repo": said["repository"], "--model": said["model"]}
    for option, value in (*needed.items(), ("--fleet", said["fleet"])):
        if value is None:
            raise UsageError(f"missing option '{option}'", hint="see `edgeinc device init --help`")
    return DeviceConfig(**given)
