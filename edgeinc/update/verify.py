"""Look at a repository as a device would, from nothing but its first root."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from tuf.api.metadata import Metadata, Targets

from edgeinc.clock import utc_now
from edgeinc.errors import UsageError
from edgeinc.schema import RepoVerdict
from edgeinc.update.disk import Disk
from edgeinc.update.fetch import Limits, Source, Trusted, refuse_no_root
from edgeinc.update.refusal import Refusal
from edgeinc.update.roles import LIFETIME_DAYS, kind_of

_SOON = 0.25


def verify(
    place: str,
    *,
    root: bytes | None = None,
    limits: Limits | None = None,
    now: datetime | None = None,
) -> RepoVerdict:
    """Fetch all metadata and every file, and check them.

    Args:
        place: A folder or a URL.
        root: The root that devices came with; None takes version 1 of a folder.
        limits: What a transfer may take.
        now: The time to judge expiry by; None is now.

    Raises:
        UsageError: `place` is a folder that is no repository, or a URL and there is no root, or
            what is given is none.
        Refusal: What a device would refuse, with its reason.
    """
    source, now = Source.at(place), now or utc_now()
    if root is None:
        first = Path(source.metadata, "1.root.json")
        if not first.is_file():
            missing = "no root to begin with at" if "://" in place else "no metadata/1.root.json in"
            raise UsageError(
                f"{missing} {place}",
                hint="name a repository; or add --root FILE: the root of the devices",
            )
        root = first.read_bytes()
    refuse_no_root(root)
    with TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        trusted = Trusted(
            cache, source, root=root, disk=Disk(), floors={}, limits=limits, now=lambda: now
        )
        floors = trusted.refresh()
        expiries = trusted.expiries()
        sizes: dict[str, int] = {}
        waiting = ["targets"]
        while waiting:
            role = waiting.pop()
            signed = Metadata[Targets].from_file(str(cache / f"{role}.json")).signed
            expiries[role] = signed.expires
            for path in signed.targets:
                file = Path(folder, "file")
                trusted.download(path, file, budget_bytes=3 * signed.targets[path].length + 1)
                sizes[path] = file.stat().st_size
            roles = signed.delegations.roles if signed.delegations else None
            for child in (roles or {}).values():
                # Looking for a path that nobody signs brings the metadata of the role here.
                trusted.signs((child.paths or [""])[0].replace("*", "-"))
                if not (cache / f"{child.name}.json").is_file():
                    paths = ", ".join(child.paths or ()) or "no path"
                    raise Refusal(
                        "TRUST",
                        f"no device ever asks {child.name}: {role} may not sign {paths}",
                        hint=f"whoever signs {role} has to give it paths below its own",
                    )
                waiting.append(child.name)
    return RepoVerdict(
        place,
        {role: floor.version for role, floor in floors.items()},
        len(sizes),
        sum(sizes.values()),
        _soon(expiries, now),
    )


def _soon(expiries: dict[str, datetime], now: datetime) -> dict[str, float]:
    """Days left of the roles that have little of their lifetime left."""
    left = {role: (expires - now) / timedelta(days=1) for role, expires in expiries.items()}
    return {r: days for r, days in left.items() if days < _SOON * LIFETIME_DAYS[kind_of(r)]}
