"""The agent: looks for updates now and then, takes them, and outlives every error.

Devices of a fleet that were switched on together shall not ask together: every wait is drawn anew.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path

from edgeinc.errors import EdgeincError
from edgeinc.update.device import Device
from edgeinc.update.identity import read_config
from edgeinc.update.keeper import Report
from edgeinc.update.source import repository

_log = logging.getLogger(__name__)
JITTER = 0.25
"""A wait is longer or shorter by up to this share."""


def watch(
    root: Path,
    *,
    every_s: float,
    stop: threading.Event,
    say: Callable[[str], None],
    report: Report | None = None,
) -> None:
    """Update a device until told to stop.

    Args:
        root: The device's folder.
        every_s: Seconds between two looks, more or less.
        stop: Set by another thread or a signal handler; an update that runs is not cut off by it.
        say: Told what came of a look, where that is another thing than of the look before.
        report: Told of every change of the device.

    Raises:
        UsageError: The folder is no device.
    """
    read_config(root)
    before = ""
    while not stop.is_set():
        try:
            # Read anew each time: who the device is may have been corrected.
            line = Device(root, report=report).update(repository(root)).text
        except EdgeincError as err:
            reason = getattr(err, "reason", "")
            line = f"refused{f' ({reason})' if reason else ''}: {err.message}"
        except Exception as err:  # a bug must not end the updates that bring its correction
            _log.exception("an update failed")
            line = f"failed: {type(err).__name__}: {err}"
        if line != before:
            say(line)
        before = line
        stop.wait(every_s * random.uniform(1 - JITTER, 1 + JITTER))
