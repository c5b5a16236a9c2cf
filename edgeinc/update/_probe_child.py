"""The process in which a new bundle runs first: `python -m edgeinc.update._probe_child`.

It reads a job as JSON from standard input and answers in lines of JSON; see `edgeinc.child`.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinc.errors import EdgeincError
from edgeinc.runtimes import Session, _golden
from edgeinc.runtimes._update import read_candidate, refuse_not_finite
from edgeinc.update import engines, slots

WARM_UP, TIMED = 3, 30
Say = Callable[[str], None]


def look(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Run a bundle as a job says; fields of a `ProbeResult`.

    Raises:
        NoEngine: An engine has to be built first.
        EdgeincError: It cannot be loaded or run, or holds weights that are not finite.
    """
    gates, slot = job["gates"], Path(job["slot"])
    say("read")
    candidate = read_candidate(slot / slots.MODEL)
    refuse_not_finite(candidate)
    say("load")
    with engines.opened(slot, job["runtime"], job["device"]) as session:
        found: dict[str, Any] = {
            "verdict": "bad",
            "provider": session.provider,
            "golden_percent": None,
            "p95_ms": None,
        }
        allowed = gates["providers"]
        if allowed and session.provider not in allowed:
            why = f"it computes on {session.provider}, and only {', '.join(allowed)} is allowed"
            return {**found, "why": why}
        say("golden answers")
        entry = candidate.entries.get(_golden.GOLDEN)
        found["golden_percent"], why = _answers(session, entry, job["golden"], gates)
        if not why:
            say("frames")
            found["p95_ms"] = _p95_ms(session)
            limit = gates["max_p95_ms"]
            if limit is not None and found["p95_ms"] > limit:
                why = f"a frame takes {found['p95_ms']:.1f} ms (p95), the gate is {limit:.1f} ms"
    return {**found, "why": why, "verdict": "bad" if why else "good"}


def _answers(
    session: Session, entry: str | None, golden: str, gates: dict[str, Any]
) -> tuple[float | None, str]:
    """Percent of the golden answers that agree (the worst of them), and what is wrong."""
    percents = []
    if entry is not None:
        percents.append(_golden.agreement(session.run, session.size, entry))
    if golden:
        images, ids = _questions(golden)
        percents += [
            float(100 * np.mean(session.run(image[None])[0] == answer))
            for image, answer in zip(images, ids, strict=True)
        ]
    worst = min(percents, default=None)
    if worst is not None and worst < gates["golden_percent"]:
        return worst, (
            f"its golden answers are wrong on this machine: {worst:.1f} % of the ids agree, "
            f"the gate is {gates['golden_percent']:.1f} %"
        )
    seen = [session.run(_golden.image(session.size, seed)) for seed in range(_golden.SEEDS)]
    known = len(session.table.classes)
    if max(int(ids.max()) for ids in seen) >= known:
        return worst, f"it gives ids that are no class: it has {known}"
    # With golden answers a constant is wrong already, or what the network means.
    if worst is None and known > 1:
        counts = np.bincount(np.concatenate([ids.ravel() for ids in seen]), minlength=known)
        share = 100 * counts.max() / counts.sum()
        if share > gates["max_single_class_percent"]:
            return worst, f"it gives one class to {share:.1f} % of everything it is shown"
    return worst, ""


def _questions(golden: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """`images` (N, H, W, 3) and `ids` (N, H, W) of a golden file."""
    try:
        with np.load(golden, allow_pickle=False) as content:
            return content["images"], content["ids"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as err:
        raise EdgeincError(
            f"{golden} holds no golden answers: {err}", hint="publish the step again"
        ) from err


def _p95_ms(session: Session) -> float:
    image = _golden.image(session.size, 0)
    for _ in range(WARM_UP):
        session.run(image)
    times = []
    for _ in range(TIMED):
        start = perf_counter()
        session.run(image)
        times.append(1000 * (perf_counter() - start))
    return float(np.percentile(times, 95))


def main() -> int:
    """Do the job on standard input."""
    job = json.loads(sys.stdin.buffer.read())
    # Native libraries write to descriptor 1; what is said to the parent must stay apart from them.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)

        def tell(line: dict[str, Any]) -> None:
            out.write(json.dumps(line) + "\n")
            out.flush()

        try:
            try:
                found = look(job, lambda phase: tell({"phase": phase}))
            except engines.NoEngine as err:
                found = {"no_engine": err.message}
            tell({"result": found})
        except EdgeincError as err:
            fields = {"message": err.message, "hint": err.hint, "exit_code": err.exit_code}
            tell({"error": fields})
    return 0


if __name__ == "__main__":
    sys.exit(main())
