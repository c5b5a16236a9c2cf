"""The folder of a device: which one is meant, and whose it is.

What root writes into the folder of a service the service cannot write any more, and what the
service's user laid there is not to be read with root's rights. So such a command goes on as the
owner of the folder, as `runuser` would.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import edgeinc
from edgeinc.cli._command import MACHINE
from edgeinc.errors import UsageError

RootOption = Annotated[
    Path,
    typer.Option(
        "--root",
        metavar="DIR",
        help="Folder of the device.",
        envvar="EDGEINC_DEVICE",
        rich_help_panel=MACHINE,
    ),
]
ROOT = Path("/var/lib/edgeinc")


def rooted(root: Path) -> list[str]:
    """The words that name a device's folder to a command, none for the usual one."""
    return [] if root == ROOT else ["--root", str(root)]


def become_owner(root: Path) -> None:
    """Where root asks, and the folder is another user's, be that user from now on.

    Args:
        root: The device's folder; nothing happens where it is not there yet.

    Raises:
        UsageError: That user cannot read this program.
        OSError: The system refuses.
    """
    if os.name != "posix" or os.geteuid() != 0 or not root.is_dir():
        return
    import pwd  # not on Windows

    owner = root.stat()
    if owner.st_uid == 0:
        return
    name, group = f"user {owner.st_uid}", owner.st_gid
    try:
        user = pwd.getpwuid(owner.st_uid)
    except KeyError:  # of another machine, or of a container: it has no groups of its own here
        os.setgroups([group])
        os.setgid(group)
    else:
        name, group = user.pw_name, user.pw_gid
        os.initgroups(name, group)
        os.setgid(group)
        os.environ.update(HOME=user.pw_dir, USER=name, LOGNAME=name)
    os.seteuid(owner.st_uid)
    needed = (sys.executable, edgeinc.__file__)
    readable = all(os.access(file, os.R_OK, effective_ids=True) for file in needed)
    os.seteuid(0)
    if not readable:
        raise UsageError(
            f"{root} belongs to {name}, who cannot read {sys.executable}",
            hint="install edgeinc where everyone can read it, such as /opt/edgeinc",
        )
    os.setuid(owner.st_uid)
