"""What it takes to serve another file, and what it took."""

from __future__ import annotations

from typing import Literal

from edgeinc.schema._document import SCHEMA_VERSION, document

Way = Literal["nothing", "head", "weights", "reload", "rebuild"]
"""From cheap to dear. `nothing`: it is the same file. `head`: other rows go into the running graph.
`weights`: other weights go into the same graph. `reload`: another graph is loaded beside the
running one. `rebuild`: an engine has to be built first."""


@document
class UpdatePlan:
    """The cheapest way from one file to another on a runtime, and why it is not a cheaper one.

    `bytes`: what has to be read of the new file, or transferred where it is elsewhere.
    """

    old: str
    new: str
    runtime: str
    way: Way
    reason: str
    bytes: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION


@document
class UpdateResult:
    """An update that serves.

    `ready_ms`: until the new file could answer, golden check included; `switch_ms`: how long the
    exchange itself took, which is all that a frame can wait for.
    """

    plan: UpdatePlan
    ready_ms: float
    switch_ms: float
    golden_percent: float | None
    schema_version: int = SCHEMA_VERSION


@document
class UpdateMeasure:
    """An update while a thread kept calling the session.

    `lost`: frames without an answer. `usual_ms`: median of a frame before the update;
    `longest_ms`: the longest frame that was computed while the new file was made ready and
    exchanged, on the same cores.
    """

    result: UpdateResult
    frames: int
    lost: int
    usual_ms: float
    longest_ms: float
    schema_version: int = SCHEMA_VERSION
