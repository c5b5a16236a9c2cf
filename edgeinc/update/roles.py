"""Who may sign what in a repository, and under which path a file is signed.

    root                  2 of 3 keys, offline: which keys the roles have
    targets               offline: delegations, no file of its own
      model-NAME          models/NAME/*/*              what is authentic
        site-NAME         models/MODEL/site-NAME/*     what a site may add below one model
      channel-FLEET       channels/FLEET/*             who gets what
    snapshot, timestamp   online: which versions belong together, and that they are current

A `*` of a pattern never crosses a `/`. Everything of a release lies below its model, so that no
team can sign, or hide, a file of another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from edgeinc.errors import UsageError

__all__ = [
    "LIFETIME_DAYS",
    "Kind",
    "channel_path",
    "channel_role",
    "is_of_model",
    "kind_of",
    "model_role",
    "release_path",
    "site_role",
]

Kind = Literal["root", "targets", "snapshot", "timestamp", "model", "site", "channel"]

LIFETIME_DAYS: Mapping[Kind, int] = {
    "root": 365,
    "targets": 365,
    "model": 180,
    "site": 180,
    "channel": 30,
    "snapshot": 7,
    "timestamp": 3,
}
"""Days until what a role signs expires. A stolen online key can freeze devices no longer."""

TOP: tuple[Kind, ...] = ("root", "targets", "snapshot", "timestamp")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def model_role(model: str) -> str:
    """The role whose keys say what is authentic of a model.

    Raises:
        UsageError: Not a name.
    """
    return f"model-{_checked(model, _NAME, 'model')}"


def channel_role(fleet: str) -> str:
    """The role whose keys say which step a fleet gets.

    Raises:
        UsageError: Not a name.
    """
    return f"channel-{_checked(fleet, _NAME, 'fleet')}"


def is_of_model(path: str, model: str) -> bool:
    """Whether a file lies where only a model's keys can sign, or those of a site below it."""
    parts = path.split("/")
    return len(parts) == 4 and parts[:2] == ["models", model]


def site_role(site: str) -> str:
    """The role of a site that trains steps of its own.

    Raises:
        UsageError: Not a name.
    """
    return f"site-{_checked(site, _NAME, 'site')}"


def kind_of(role: str) -> Kind:
    """What a role's name says it is.

    Raises:
        UsageError: There is no such role.
    """
    for kind in TOP:
        if role == kind:
            return kind
    kinds: tuple[Kind, ...] = ("model", "site", "channel")
    for kind in kinds:
        if role.startswith(f"{kind}-") and _NAME.fullmatch(role.partition("-")[2]):
            return kind
    raise UsageError(
        f"'{role}' is not a role",
        hint="root, targets, snapshot, timestamp, model-NAME, channel-FLEET or site-NAME",
    )


def patterns(role: str, *, model: str = "") -> list[str]:
    """The paths that a delegated role may sign.

    Args:
        role: model-NAME, channel-FLEET or site-NAME.
        model: The model below which a site signs.

    Raises:
        UsageError: Not a delegated role, or a site without its model.
    """
    name = role.partition("-")[2]
    match kind_of(role):
        case "model":
            return [f"models/{name}/*/*"]
        case "channel":
            return [f"channels/{name}/*"]
        case "site":
            return [f"models/{_checked(model, _NAME, 'model')}/{role}/*"]
    raise UsageError(f"{role} signs no paths", hint="model-NAME, channel-FLEET or site-NAME does")


def release_path(model: str, step: int, name: str, *, site: str = "") -> str:
    """The target path of a file of a release.

    Args:
        model: The model's name.
        step: The step, from 0.
        name: The file: `manifest.json`, `full.zst`, ...
        site: The site that made the step; "" for the model's own.

    Raises:
        UsageError: A name that is no part of a path.
    """
    below = f"models/{_checked(model, _NAME, 'model')}"
    name = _checked(name, _FILE, "file")
    if site:
        return f"{below}/{site_role(site)}/step-{step:04}.{name}"
    return f"{below}/step-{step:04}/{name}"


def channel_path(fleet: str, channel: str = "stable") -> str:
    """The target path of what a fleet is to run.

    Raises:
        UsageError: Not a name.
    """
    return f"channels/{_checked(fleet, _NAME, 'fleet')}/{_checked(channel, _NAME, 'channel')}.json"


def _checked(text: str, allowed: re.Pattern[str], what: str) -> str:
    if not allowed.fullmatch(text):
        raise UsageError(
            f"'{text}' cannot be the name of a {what}",
            hint="letters, digits, - and _, at most 64, the first a letter or digit",
        )
    return text
