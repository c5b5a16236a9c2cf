"""Other weights in a TensorRT engine: which of them can go in, and what that makes of an update.

Rules: an engine takes the weights it was built to take (`edgeinc build --refit`), and every other
weight must be the one it was built with, by hash; its file on the disk, and the sidecar of that,
are never written to, so they stay true: an engine that is opened again serves what it was built
from, and is refitted again.

    plan_engine_update(engine_candidate(path, card), card, read_candidate(new)).way     # "weights"
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinc.errors import UpdateError
from edgeinc.runtimes._golden import GOLDEN
from edgeinc.runtimes._onnx_file import float_weights
from edgeinc.runtimes._update import Candidate, plan_update
from edgeinc.schema import EngineCard, UpdatePlan, Way

WAYS: tuple[Way, ...] = ("head", "weights", "rebuild")


def fixed_sha256(content: bytes, replaceable: Collection[str]) -> str:
    """Hash of names and values of the float weights that cannot be replaced.

    Args:
        content: The ONNX file.
        replaceable: Names of those that can; with none there is nothing to compare, and "" comes
            back.

    Raises:
        EdgeincError: The content is not an ONNX file.
    """
    if not replaceable:
        return ""
    digest = hashlib.sha256()
    for name, values in sorted(float_weights(content), key=lambda weight: weight[0]):
        if name not in replaceable:
            digest.update(name.encode() + b"\0" + values.tobytes())
    return digest.hexdigest()


def engine_candidate(path: Path, card: EngineCard) -> Candidate:
    """An engine as something that can be served; its own hash is in the card."""
    return Candidate(path, replace(card.artifact, sha256=card.sha256), b"", {})


def plan_engine_update(old: Candidate, card: EngineCard, new: Candidate) -> UpdatePlan:
    """The cheapest way from what an engine serves to another file.

    Args:
        old: What is served: of `engine_candidate`, or the file that came into it later.
        card: Of the engine.
        new: The file that shall be served.

    Raises:
        UpdateError: The new file takes or gives something else, or renames a class.
        EdgeincError: It is not an ONNX file.
    """
    if old.card.sha256 == card.sha256:  # as it was built: then it is what it was built from
        old = replace(old, card=card.artifact)
    obstacle = _obstacle(card, new)
    ways = tuple(way for way in WAYS if way != "weights" or not obstacle)
    plan = plan_update(old, new, runtime="tensorrt", ways=ways)
    if plan.way == "weights":
        size = sum(v.nbytes for n, v in float_weights(new.content) if n in card.replaceable)
        reason = f"the graph is the same: refit of {len(card.replaceable)} tensors in the engine"
        return replace(plan, reason=reason, bytes=size)
    if plan.way == "rebuild" and old.card.topology_sha256 == new.card.topology_sha256:
        return replace(plan, reason=f"the graph is the same, and {obstacle}")
    return plan


def _obstacle(card: EngineCard, new: Candidate) -> str:
    """Why the weights of a file cannot go into an engine of the same graph, or ""."""
    if not card.replaceable:
        return "the engine was built without replaceable weights (edgeinc build --refit)"
    if fixed_sha256(new.content, card.replaceable) != card.fixed_sha256:
        return (
            f"weights differ beside the {len(card.replaceable)} that the engine can replace "
            f"(--refit {card.refit})"
        )
    return ""


def weights_for(new: Candidate, card: EngineCard) -> dict[str, npt.NDArray[Any]]:
    """What a file gives for every weight that can be replaced in an engine; flat arrays.

    Raises:
        UpdateError: One is not in the file, or the file has no golden answer to check them by.
        EdgeincError: It is not an ONNX file.
    """
    if GOLDEN not in new.entries:
        raise UpdateError(
            f"{new.path} has no golden answer, and a refitted engine is not believed without one",
            hint="export the file again: every export has one",
        )
    # Copies: TensorRT reads from their addresses, which lie anywhere in the file.
    found = {n: np.array(v) for n, v in float_weights(new.content) if n in card.replaceable}
    if missing := [name for name in card.replaceable if name not in found]:
        raise UpdateError(
            f"{new.path} has no {', '.join(missing)}, which the engine needs",
            hint="export both files from the same run",
        )
    return found
