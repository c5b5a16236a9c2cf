"""The time of day, always in UTC."""

from __future__ import annotations

from datetime import datetime, timezone


def utc_now() -> datetime:
    """This moment, with its time zone."""
    return datetime.now(timezone.utc)


def written_now() -> str:
    """This moment to the second in ISO 8601, as records and manifests hold it."""
    return utc_now().isoformat(timespec="seconds")
