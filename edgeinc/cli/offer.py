"""Commands that bring a repository to devices: repo serve and carrier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeinc.cli._command import RESULT, RUN, WHAT, command, repo_app
from edgeinc.cli._ui import Ui
from edgeinc.cli.repo import RepoArgument


@command(
    repo_app,
    "serve",
    examples=["edgeinc repo serve repo", "edgeinc repo serve repo --port 9000 --bind 0.0.0.0"],
)
def serve(
    ui: Ui,
    folder: RepoArgument,
    bind: Annotated[
        str,
        typer.Option(
            "--bind", metavar="ADDRESS", help="Address to listen at.", rich_help_panel=RUN
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65_535,
            help="Port; 0 takes a free one.",
            rich_help_panel=RUN,
        ),
    ] = 8000,
) -> None:
    """Offer a repository over http, to try it out; ends with Ctrl-C."""
    from edgeinc.update.serving_files import server_of

    with server_of(Path(folder), bind=bind, port=port) as server:
        ui.note(f"http://{bind}:{server.server_port}")
        server.serve_forever()


@command(
    repo_app,
    "carrier",
    examples=[
        "edgeinc repo carrier --for mender -o carrier",
        "edgeinc repo carrier --for greengrass -o carrier --json",
    ],
)
def carrier(
    ui: Ui,
    kind: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="mender|rauc|greengrass",
            help="What brings files to your devices.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder to write.",
            rich_help_panel=RESULT,
            show_default=False,
        ),
    ],
) -> None:
    """Write what lets Mender, RAUC or Greengrass carry the repository to devices.

    The device decides as ever: these files call `edgeinc device update --from`.
    """
    from edgeinc.update.carriers import write

    result = write(kind, out)
    paths = [str(out / name) for name in result.files]
    ui.result(result, *paths, essential=paths)
