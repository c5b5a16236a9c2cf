"""The first run of a new bundle: on the real runtime, in a process that may die.

A crash, a hang, a leak or a wrong answer there is one line of text here, and nothing that serves
has noticed. What was killed from outside is no evidence against the bundle, and neither is an
engine that cannot be built here: both are tried again later.

    result = probe(root / "slots" / bundle_id, gates, runtime="onnxruntime", device="cuda")
    result.verdict, result.why       # "bad", "it computes on CPUExecutionProvider, not ..."
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeinc.child import Killed, run_child
from edgeinc.errors import EdgeincError, MissingError, UsageError
from edgeinc.progress import SILENT
from edgeinc.schema import DeviceGates, ProbeResult, Verdict, to_dict
from edgeinc.update import engines, slots

CHILD = "edgeinc.update._probe_child"
TIMEOUT_S = 300.0
"""Loading and some frames take seconds; more than this is a hang on any device."""
Probe = Callable[[Path, DeviceGates, str, str], ProbeResult]
"""(slot, gates, runtime, device) -> what was found."""


def probe(
    slot: Path,
    gates: DeviceGates,
    runtime: str,
    device: str,
    *,
    memory_bytes: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> ProbeResult:
    """Run a bundle for the first time.

    Args:
        slot: Its folder.
        gates: What it has to pass.
        runtime: Name of the runtime.
        device: As for `open_artifact`.
        memory_bytes: More than this is too much; None allows most of what is free.
        timeout_s: Longer than this is a hang.

    Raises:
        MissingError: The runtime or the device is not here, which is no fault of the bundle.
        UsageError: There is no such runtime.
    """
    golden = slot / slots.GOLDEN
    job = {
        "slot": str(slot),
        "golden": str(golden) if golden.exists() else "",
        "runtime": runtime,
        "device": device,
        "gates": to_dict(gates),
    }
    with SILENT.task("probe", None) as task:

        def looked() -> dict[str, Any]:
            return run_child(CHILD, job, task=task, memory_bytes=memory_bytes, timeout_s=timeout_s)

        try:
            found = looked()
            if "no_engine" in found:
                engines.build(slot, device)
                found = looked()
        except (MissingError, UsageError):
            raise
        except (Killed, engines.NotBuilt) as err:
            return _nothing_found("interrupted", err.message)
        except EdgeincError as err:
            return _nothing_found("bad", err.message)
    if "no_engine" in found:
        return _nothing_found("interrupted", found["no_engine"])
    return ProbeResult(**found)


def _nothing_found(verdict: Verdict, why: str) -> ProbeResult:
    return ProbeResult(verdict, why, "", None, None, None)
