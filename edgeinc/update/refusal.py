"""Why a device did not take an update, in a word that programs can act on.

    raise Refusal("CLOCK", "the clock says 1971", hint="set the clock, then repeat")

`--json` carries the word beside the message.
"""

from __future__ import annotations

from typing import Literal

from edgeinc.errors import UpdateError

Reason = Literal[
    "BUDGET",
    "BUSY",
    "CLOCK",
    "CORRUPT",
    "DEFERRED",
    "DISK",
    "HELD",
    "INCOMPATIBLE",
    "NETWORK",
    "NOT_SELECTED",
    "NO_SPACE",
    "PAUSED",
    "REPLAY",
    "REVOKED",
    "STATE_LOST",
    "TRUST",
    "UNHEALTHY",
]
"""`TRUST`: a signature, a threshold, an expiry or a role is not right. `REPLAY`: older than what
this device has seen. `CORRUPT`: not the bytes that were signed, or a folder that lacks them.
`INCOMPATIBLE`: signed, and not for this device. `UNHEALTHY`: it ran here, and wrongly. `DEFERRED`:
its proof was interrupted, or has to wait; it is tried again later. The others say what they are."""


class Refusal(UpdateError):
    """An update was refused for a reason that has a name; what was served before still is.

    Attributes:
        reason: The name, which `--json` carries.
    """

    def __init__(self, reason: Reason, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.reason: Reason = reason
