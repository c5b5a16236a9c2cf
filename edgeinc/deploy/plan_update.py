"""What would it take to serve another file? Answered from the files, before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.runtimes import _update
from edgeinc.schema import UpdatePlan


def plan_update(
    old: str | os.PathLike[str], new: str | os.PathLike[str], *, runtime: str = "onnxruntime"
) -> UpdatePlan:
    """The cheapest way from one exported file to another on a runtime.

    Args:
        old: The file that is served.
        new: The file that shall be.
        runtime: Name of the runtime that serves.

    Raises:
        UsageError: No such file or runtime.
        UpdateError: The new file cannot take the place of the old one.
        EdgeincError: A file was changed, or is not an edgeinc export.
    """
    known = registry.names("runtimes")
    if runtime not in known:
        raise UsageError(f"unknown runtime '{runtime}'", hint=registry.suggest(runtime, known))
    ways = registry.load("runtimes", runtime).ways
    before, after = (_update.read_candidate(Path(path)) for path in (old, new))
    return _update.plan_update(before, after, runtime=runtime, ways=ways())
