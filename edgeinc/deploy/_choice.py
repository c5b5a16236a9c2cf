"""Which of the variants that were timed decide as the network does, and which of those is fastest.

Rules: the reference is torch in fp32, or, where torch is not here, another variant of the same
network in fp32; a precision has the gates that it has at the export, whoever computes in it; noise
judges nothing; what was not judged is never recommended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeinc.deploy._form import GATES, MIOU_LOSS
from edgeinc.deploy._parity import compare
from edgeinc.deploy._probe import Probe
from edgeinc.deploy._variants import Variant, run_of
from edgeinc.errors import EdgeincError
from edgeinc.progress import Progress
from edgeinc.runtimes import Session, open_artifact
from edgeinc.schema import BenchChoice, BenchResult, BenchRow, Scope

MET, REFERENCE, MISSED, NOT_JUDGED = "met", "reference", "missed: ", "not judged: "
Live = Sequence[tuple[Variant, Session]]
Network = tuple[str, int]
"""Whose variants may stand in for each other: of a step of a run, else of one file."""


def networks(live: Live) -> dict[tuple[str, str], Network]:
    """The network of every variant, by artifact and runtime."""
    return {(str(v.artifact), v.runtime): _network(v, s) for v, s in live}


def _network(variant: Variant, session: Session) -> Network:
    run = run_of(variant.artifact)
    return str(run.path if run else variant.artifact), session.step


def agreements(
    live: Live, images: Probe, *, device: str, threads: int, progress: Progress
) -> Iterator[tuple[Variant, dict[str, Any]]]:
    """How far every variant decides as its reference, on the images that were timed.

    Args:
        live: Variants and their opened sessions.
        images: Those that were timed.
        device: Where torch is opened, if no variant has it open.
        threads: Likewise.
        progress: Told about every image.

    Yields:
        A variant, and the figures of its rows: `gate` of a reference, `agreement` and `reference`
        of the others. A variant without a reference is left out.
    """
    with ExitStack() as stack:
        opened: dict[Path, Session | None] = {}
        opened.update((v.artifact, s) for v, s in live if s.runtime == "torch")
        for variant, session in live:
            reference = _torch(variant, session, opened, stack, device, threads)
            reference = reference or _fp32(variant, session, live)
            if reference is None:
                continue
            if reference is session:
                yield variant, {"gate": REFERENCE}
                continue
            with progress.task("agreement", len(images.images), "img") as task:
                found = compare(reference, session, images.images, gate=0.0, task=task)
            yield variant, {"agreement": found.agreement, "reference": _called(reference)}


def _torch(
    variant: Variant,
    session: Session,
    opened: dict[Path, Session | None],
    stack: ExitStack,
    device: str,
    threads: int,
) -> Session | None:
    """The trained network of a variant, where it and torch are here and both take one size."""
    if session.runtime == "torch":
        return session
    run = run_of(variant.artifact)
    if run is None:
        return None
    folder = run.folder(session.step)
    if folder not in opened:
        try:
            trained = open_artifact(folder, runtime="torch", device=device, threads=threads)
            opened[folder] = stack.enter_context(trained)
        except (EdgeincError, ImportError):  # no torch, or no such step any more
            opened[folder] = None
    found = opened[folder]
    return found if found is not None and _alike(found, session) else None


def _fp32(variant: Variant, session: Session, live: Live) -> Session | None:
    """The first variant in fp32 of the same network, which may be the session itself."""
    own = _network(variant, session)
    alike = (
        s for v, s in live if s.precision == "fp32" and _network(v, s) == own and _alike(s, session)
    )
    return next(alike, None)


def _alike(one: Session, other: Session) -> bool:
    return (one.size, one.table.classes) == (other.size, other.table.classes)


def _called(reference: Session | BenchRow) -> str:
    """A reference in words; torch computes in fp32 only."""
    return "torch" if reference.runtime == "torch" else f"{reference.runtime} in fp32"


def judge(
    result: BenchResult,
    of: Mapping[tuple[str, str], Network],
    scope: Scope,
    *,
    noise: bool,
) -> BenchResult:
    """The result with a verdict in every measured row, and the variants to take.

    Args:
        result: All rows, with what `agreements` found and with mIoU where it was scored.
        of: The network of every variant, of `networks`.
        scope: Speeds are compared in it.
        noise: Whether the images are noise, on which nothing is judged.
    """
    groups: dict[tuple[Network, tuple[int, int]], list[BenchRow]] = {}
    rows = []
    for row in result.rows:
        if row.fps is not None:
            group = (of[row.artifact, row.runtime], row.size)
            others = [r for r in result.rows if r.size == row.size and _same(r, row, of)]
            row = replace(row, gate=row.gate or _verdict(row, _scored(others), noise))
            groups.setdefault(group, []).extend([row] if row.scope == scope else [])
        rows.append(row)
    best = [] if noise else [_best(found) for found in groups.values()]
    return replace(result, rows=tuple(rows), best=tuple(b for b in best if b))


def _same(one: BenchRow, other: BenchRow, of: Mapping[tuple[str, str], Network]) -> bool:
    return of.get((one.artifact, one.runtime)) == of[other.artifact, other.runtime]


def _scored(rows: Sequence[BenchRow]) -> BenchRow | None:
    """What mIoU is compared with: torch's, else the first in fp32; None where none was scored."""
    fp32 = [row for row in rows if row.miou is not None and row.precision == "fp32"]
    return next((row for row in fp32 if row.runtime == "torch"), fp32[0] if fp32 else None)


def _verdict(row: BenchRow, scored: BenchRow | None, noise: bool) -> str:
    if noise:
        return f"{NOT_JUDGED}the images are noise, name real ones with --data"
    if row.agreement is None:
        return f"{NOT_JUDGED}nothing in fp32 to compare with was measured here"
    if row.precision not in GATES:
        return f"{NOT_JUDGED}no gate is known for {row.precision}"
    gate, missed = GATES[row.precision], []
    if row.agreement < gate:
        missed.append(
            f"{row.agreement:.2f} % of pixels are decided as by {row.reference}, "
            f"the gate is {gate} %"
        )
    compared = row.miou is not None and scored is not None
    if row.miou is not None and scored is not None:
        loss = (scored.miou or 0.0) - row.miou  # `_scored` gives a row that has one
        if loss > MIOU_LOSS:
            below = f"{loss:.2f} points of mIoU below {_called(scored)}"
            missed.append(f"{below}, the gate is {MIOU_LOSS}")
    if missed:
        return MISSED + " and ".join(missed)
    if not gate and not compared:
        return f"{NOT_JUDGED}the gate of {row.precision} is on mIoU, name labels with --data"
    return MET


def _best(rows: Sequence[BenchRow]) -> BenchChoice | None:
    """The fastest that meets its gates; None where there is no choice, or nothing to choose."""
    fitting = [row for row in rows if row.gate in (MET, REFERENCE)]
    if len(rows) < 2 or not fitting:
        return None
    best = max(fitting, key=_fps)
    return BenchChoice(
        artifact=best.artifact,
        runtime=best.runtime,
        precision=best.precision,
        scope=best.scope,
        size=best.size,
        fps=_fps(best),
        why=_why(best, rows),
    )


def _fps(row: BenchRow) -> float:
    return row.fps or 0.0


def _why(best: BenchRow, rows: Sequence[BenchRow]) -> str:
    """A choice in one line."""
    name = f"{Path(best.artifact).name} on {best.runtime} in {best.precision}"
    speed = f"{_fps(best):.1f} FPS {best.scope}"
    plain = [row for row in rows if row.precision == "fp32" and row is not best]
    if plain:
        other = max(plain, key=_fps)
        speed += f", {_fps(best) / _fps(other):.2f} times {_called(other)}"
    if best.status != "ok":
        speed += f" (times are {best.status})"
    if best.gate == REFERENCE:
        return f"{name}: {speed}; it is what the others are compared with"
    gate = f" (gate {GATES[best.precision]} %)" if GATES[best.precision] else ""
    said = [speed, f"{best.agreement:.2f} % of pixels as {best.reference}{gate}"]
    scored = _scored(rows)
    if best.miou is not None and scored is not None and scored is not best:
        said.append(f"mIoU {best.miou:.2f}, {_called(scored)} {scored.miou:.2f}")
    if best.miou is None:
        said.append("mIoU not measured")
    return f"{name}: {'; '.join(said)}"
