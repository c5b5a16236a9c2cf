"""What it takes to come from the step before to an exported file: columns of a benchmark.

The file of the step before is the one that is called so: `step-1.fp32.dynamic.onnx` beside
`step-2.fp32.dynamic.onnx`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgeinc.deploy._variants import Variant
from edgeinc.deploy.plan_update import AROUND_S, measure_update, plan_update
from edgeinc.errors import EdgeincError
from edgeinc.progress import Progress


def update_path(
    variant: Variant, *, device: str, threads: int, duration: float, progress: Progress
) -> dict[str, Any]:
    """Plan the update, and do it in a session of its own while a thread keeps asking for frames.

    Engines are planned from their ONNX files and not measured.

    Args:
        variant: An exported file on a runtime.
        device: Where it is opened.
        threads: Likewise.
        duration: Seconds that a variant is timed for: frames are counted no longer than that
            before and after the exchange.
        progress: Told about the parts.

    Returns:
        Figures of a `BenchRow`; none for what was not exported or has no step before.
    """
    new = variant.artifact.with_suffix(".onnx")
    old = None if variant.artifact.is_dir() else before(new)
    if old is None:
        return {}
    found: dict[str, Any] = {"update_from": str(old)}
    if not old.is_file():
        return {**found, "update_why": f"not measured, {old.name} is not beside it"}
    try:
        plan = plan_update(old, new, runtime=variant.runtime)
        found |= {"update_way": plan.way, "update_bytes": plan.bytes, "update_why": plan.reason}
        if variant.artifact != new or plan.way == "rebuild":
            return {**found, "update_why": f"{plan.reason}; not measured"}
        measured = measure_update(
            old,
            new,
            runtime=variant.runtime,
            device=device,
            threads=threads,
            around_s=min(AROUND_S, duration),
            progress=progress,
        )
    except EdgeincError as err:
        return {**found, "update_why": f"not measured, {err.message}"}
    ready = measured.result.ready_ms + measured.result.switch_ms
    return {**found, "update_s": ready / 1000, "update_lost": measured.lost}


def before(path: Path) -> Path | None:
    """Where the same export of the step before would lie; None for step 0 and for other names."""
    found = re.fullmatch(r"step-(\d+)(\..+)", path.name)
    if found is None or int(found[1]) == 0:
        return None
    return path.with_name(f"step-{int(found[1]) - 1}{found[2]}")
