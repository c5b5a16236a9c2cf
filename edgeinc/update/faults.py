"""Named places at which a test can kill the process: behind each durable step of an update.

`EDGEINC_FAULT=kill@journal.renamed` ends the process with SIGKILL when it comes there; without the
variable a point costs a look at the environment. `NAMES` is the one list: a test kills a real
process at each of them, and fails when one is never reached.
"""

from __future__ import annotations

import os
import signal

NAMES = (
    "floors.stored",
    "blob.downloaded",
    "slot.written",
    "slot.renamed",
    "slot.built",
    "probe.passed",
    "probe.condemned",
    "trial.opened",
    "trial.counted",
    "trial.judged",
    "trial.condemned",
    "commit.stored",
    "link.turned",
    "slots.cleared",
    "rollback.stored",
    "journal.written",
    "journal.kept",
    "journal.renamed",
    "journal.stored",
)


def point(name: str) -> None:
    """Die here, if the environment says so.

    Raises:
        KeyError: The name is not in `NAMES`.
    """
    if name not in NAMES:
        raise KeyError(name)
    if os.environ.get("EDGEINC_FAULT") == f"kill@{name}":
        os.kill(os.getpid(), signal.SIGKILL)
