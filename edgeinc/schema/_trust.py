"""What a repository of updates holds, and what a device remembers of it."""

from __future__ import annotations

from typing import Literal

from edgeinc.schema._document import SCHEMA_VERSION, document

CarrierKind = Literal["mender", "rauc", "greengrass"]


@document
class Floor:
    """The oldest version of a role that a device still takes.

    `keys`: ids of the keys that vouched for it, none for root. When a newer root no longer lists
    one of them the floor is gone: that is how a repository recovers after a stolen key ran its
    versions up.
    """

    version: int
    keys: tuple[str, ...] = ()


@document
class RepoRole:
    """A role: `expires` in UTC (ISO 8601), `days_left` until then (negative once it expired).

    `paths`: patterns of the targets that it may sign; `targets`: how many it signs now.
    """

    name: str
    version: int
    expires: str
    days_left: float
    threshold: int
    keys: tuple[str, ...]
    paths: tuple[str, ...]
    targets: int


@document
class RepoTarget:
    """A signed file: the role that vouches for it, and its size."""

    path: str
    role: str
    bytes: int
    sha256: str


@document
class RepoListing:
    """A repository as it is published; `waiting`: version of a root that lacks signatures."""

    folder: str
    roles: tuple[RepoRole, ...]
    targets: tuple[RepoTarget, ...]
    waiting: int | None
    schema_version: int = SCHEMA_VERSION


@document
class RepoChange:
    """What a command signed: new versions by role.

    `published` is false where a root waits; `missing` then says what it waits for.
    """

    folder: str
    versions: dict[str, int]
    published: bool
    missing: tuple[str, ...]
    key_files: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


@document
class RepoGarbage:
    """Files that no device can ask for any more, as paths below the repository."""

    folder: str
    files: tuple[str, ...]
    bytes: int
    removed: bool
    schema_version: int = SCHEMA_VERSION


@document
class RepoVerdict:
    """What a device found: every role and every file is as signed.

    `soon`: roles that have less than a quarter of their usual lifetime left, with days.
    """

    source: str
    versions: dict[str, int]
    targets: int
    bytes: int
    soon: dict[str, float]
    schema_version: int = SCHEMA_VERSION


@document
class RepoCarrier:
    """What lets another update system carry the repository: `files`, by name in `folder`."""

    kind: CarrierKind
    folder: str
    files: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
