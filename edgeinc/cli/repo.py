"""Commands that make and sign a repository of updates: repo init, ls, verify, sign and more."""

from __future__ import annotations

from collections.abc import Iterable
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeinc.cli._command import RESULT, RUN, WHAT, command, flag, repo_app
from edgeinc.cli._ui import Ui
from edgeinc.errors import UsageError, as_typed
from edgeinc.schema import RepoChange

RepoArgument = Annotated[
    str, typer.Argument(metavar="DIR", help="Folder of the repository.", show_default=False)
]
KeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="URI",
        help="What signs: file:PATH (a key or a folder of keys), hsm:, gcpkms:, awskms:, "
        "azurekms: or hv:; repeatable.",
        rich_help_panel=WHAT,
        show_default=False,
    ),
]


@command(
    repo_app,
    "init",
    examples=[
        "edgeinc repo init repo --model erfnet --fleet north --keys keys",
        "edgeinc repo init repo --keys keys --key timestamp=hsm:2",
    ],
)
def init(
    ui: Ui,
    folder: RepoArgument,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="A model with a role of its own; repeatable.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    fleet: Annotated[
        list[str] | None,
        typer.Option(
            "--fleet",
            metavar="NAME",
            help="A fleet with a role of its own; repeatable.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            "--keys",
            metavar="DIR",
            help="New folder for the keys that are made: offline/, teams/ and online/.",
            rich_help_panel=RESULT,
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="ROLE=URI",
            help="A key of a role that is there already; repeatable, for root as well.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        int,
        typer.Option(
            "--threshold",
            metavar="N",
            min=1,
            help="Signatures that a new root needs.",
            rich_help_panel=WHAT,
        ),
    ] = 2,
) -> None:
    """Make a repository: root with three keys, and a role for every model and fleet.

    Keys that are not named are made. Take keys/offline away from this machine afterwards.
    """
    from edgeinc.update.ceremony import begin

    if keys == "":
        raise UsageError("--keys names no folder", hint="such as --keys keys")
    result = begin(
        Path(folder),
        models=model or (),
        fleets=fleet or (),
        made=None if keys is None else Path(keys),
        given=[_pair(text) for text in key or ()],
        threshold=threshold,
        secret=ask_secret,
    )
    ui.result(
        result,
        *_lines(result),
        *(f"key: {file}" for file in result.key_files),
        essential=[result.folder],
        hint=["edgeinc", "repo", "verify", folder],
    )


@command(repo_app, "ls", examples=["edgeinc repo ls repo", "edgeinc repo ls repo --json"])
def ls(ui: Ui, folder: RepoArgument) -> None:
    """List the roles with their keys and expiry, and every signed file."""
    from edgeinc.update.repository import Repository

    result = Repository(Path(folder)).listing()
    roles = [
        (
            role.name,
            role.version,
            role.expires[:10] + (" (expired)" if role.days_left < 0 else ""),
            f"{role.threshold} of {len(role.keys)}",
            [key[:8] for key in role.keys],
            role.paths,
        )
        for role in result.roles
    ]
    files = [(target.path, target.bytes, target.role) for target in result.targets]
    waiting = f"root {result.waiting} waits for signatures: `{as_typed('repo', 'sign', folder)}`"
    ui.result(
        result,
        ui.table(("role", "version", "expires", "needs", "keys", "paths"), roles),
        *([ui.table(("file", "bytes", "signed by"), files)] if files else ["no files yet"]),
        *([waiting] if result.waiting else []),
        essential=[target.path for target in result.targets],
    )


@command(
    repo_app,
    "verify",
    examples=[
        "edgeinc repo verify repo",
        "edgeinc repo verify https://updates.example/repo --root 1.root.json",
    ],
)
def verify(
    ui: Ui,
    place: Annotated[
        str,
        typer.Argument(
            metavar="DIR|URL", help="A repository, here or on a server.", show_default=False
        ),
    ],
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="FILE",
            help="The root that devices came with; else version 1 of DIR.",
            rich_help_panel=WHAT,
        ),
    ] = None,
) -> None:
    """Fetch and check everything as a device would that comes for the first time.

    Exit 5 when a device would refuse.
    """
    from edgeinc.update.verify import verify as check

    result = check(place, root=None if root is None else Path(root).read_bytes())
    ui.result(
        result,
        ui.table(("role", "version"), sorted(result.versions.items())),
        f"ok: {result.targets} files, {result.bytes} bytes",
        *(f"soon: {role} expires in {days:.1f} days" for role, days in result.soon.items()),
        essential=["ok"],
    )


@command(
    repo_app,
    "sign",
    examples=[
        "edgeinc repo sign repo --key file:keys/offline/root-2.pem",
        "edgeinc repo sign repo --key file:keys/online",
    ],
)
def sign(ui: Ui, folder: RepoArgument, key: KeyOption = None) -> None:
    """Add signatures to a root that waits for them; publish it once it has enough."""
    from edgeinc.update.repository import Repository

    _changed(ui, Repository(Path(folder)).sign(signers=_signers(key)))


@command(
    repo_app,
    "rotate",
    examples=[
        "edgeinc repo rotate repo timestamp --new-key file:t.pem --key file:keys",
        "edgeinc repo rotate repo model-bisenet --new-key file:b.pem --key file:keys",
    ],
)
def rotate(
    ui: Ui,
    folder: RepoArgument,
    role: Annotated[
        str,
        typer.Argument(
            metavar="ROLE",
            help="root, targets, snapshot, timestamp, model-NAME, channel-FLEET or site-NAME.",
            show_default=False,
        ),
    ],
    new_key: Annotated[
        list[str] | None,
        typer.Option(
            "--new-key",
            metavar="URI",
            help="A key of the role from now on; repeatable. file: is made where it is not there, "
            "and may be a public key.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    key: KeyOption = None,
    threshold: Annotated[
        int | None,
        typer.Option(
            "--threshold",
            metavar="N",
            min=1,
            help="Signatures the role needs; else as before.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            help="The model of a site that is new.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = "",
) -> None:
    """Replace all keys of a role; a model, fleet or site that is not there yet is made.

    New keys sign at once where their private half is here. A change of the four top roles is a
    new root, which waits until enough keys of root have signed it.
    """
    from edgeinc.update.ceremony import rotate as replace_keys

    result = replace_keys(
        Path(folder),
        role,
        new=new_key or (),
        given=key or (),
        threshold=threshold,
        model=model,
        secret=ask_secret,
    )
    _changed(ui, result)


@command(
    repo_app,
    "resign",
    examples=[
        "edgeinc repo resign repo --key file:keys/online",
        "edgeinc repo resign repo timestamp --key file:keys/online/timestamp.pem",
    ],
)
def resign(
    ui: Ui,
    folder: RepoArgument,
    roles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ROLE...",
            help="Roles; left out: all but root whose keys are given.",
            show_default=False,
        ),
    ] = None,
    key: KeyOption = None,
) -> None:
    """Sign roles again with a full lifetime from now: what keeps a repository from expiring."""
    from edgeinc.update.repository import Repository

    _changed(ui, Repository(Path(folder)).resign(roles or (), signers=_signers(key)))


@command(repo_app, "gc", examples=["edgeinc repo gc repo --dry-run", "edgeinc repo gc repo"])
def gc(
    ui: Ui,
    folder: RepoArgument,
    dry_run: Annotated[bool, flag("--dry-run", help="Only say what would go.", panel=RUN)] = False,
) -> None:
    """Remove files that no metadata in force names and that are over a year old."""
    from edgeinc.update.repository import Repository

    result = Repository(Path(folder)).gc(dry_run=dry_run)
    verb = "removed" if result.removed else "would remove"
    ui.result(
        result,
        *result.files,
        f"{verb} {len(result.files)} files, {result.bytes} bytes",
        essential=result.files,
    )


def _changed(ui: Ui, result: RepoChange) -> None:
    ui.result(result, *_lines(result), essential=[result.folder])


def _lines(result: RepoChange) -> Iterable[str]:
    """What was signed, and what is to be done."""
    signed = ", ".join(f"{role} {version}" for role, version in result.versions.items())
    yield f"signed: {signed}"
    yield from (f"key made: {file}" for file in result.key_files)
    if not result.published:
        yield f"not published: it waits for {'; '.join(result.missing)}"


def _signers(uris: list[str] | None) -> list[Any]:
    from edgeinc.update.keys import signers_of

    return signers_of(uris or (), secret=ask_secret)


def ask_secret(name: str) -> str:
    """The PIN of a token."""
    return getpass(f"{name}: ")


def _pair(text: str) -> tuple[str, str]:
    role, equals, uri = text.partition("=")
    if not equals or not uri:
        raise UsageError(f"--key '{text}' is not ROLE=URI", hint="such as --key root=hsm:2")
    return role, uri
