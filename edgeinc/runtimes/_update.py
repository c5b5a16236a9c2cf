"""Another file in the place of the one that is served: which way is cheapest, and is it sound?

Rules: what is refused leaves everything as it was; ids, names and colours that both files have are
the same, so a caller's masks never change their meaning; a file answers its golden question right
before a caller can get an answer of it; the exchange is one assignment, so that no frame is lost
and none is computed half by each; what served before stays, for `rollback`.

    class MySession(Updatable): ...            # says how it loads, the rest is here
    session.update("step-2.fp32.dynamic.onnx").plan.way     # "head"
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from edgeinc.errors import EdgeincError, UpdateError, UsageError
from edgeinc.runtimes import Session, _golden
from edgeinc.runtimes._card import card_path, from_metadata, read_card, verified
from edgeinc.runtimes._onnx_file import float_weights, metadata
from edgeinc.schema import ArtifactCard, UpdatePlan, UpdateResult, Way

WAYS: tuple[Way, ...] = get_args(Way)


class DearerWay(UpdateError):
    """The cheapest way is dearer than what is allowed; `plan` is that way."""

    def __init__(self, plan: UpdatePlan, at_most: Way) -> None:
        super().__init__(
            f"{plan.new} needs more than the way that is allowed, {at_most}: {plan.way}, "
            f"because {plan.reason}",
            hint=f"allow it with at_most='{plan.way}'",
        )
        self.plan = plan


@dataclass(frozen=True)
class Candidate:
    """A file that was read and is the one its card describes."""

    path: Path
    card: ArtifactCard
    content: bytes
    entries: dict[str, str]


def read_candidate(path: Path) -> Candidate:
    """Read an exported file; nothing of it is loaded.

    Raises:
        UsageError: There is no such file.
        EdgeincError: It was changed, or is not an edgeinc export.
    """
    if not path.is_file():
        raise UsageError(f"no such artifact: {path}", hint="check the path")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    entries = metadata(content, str(path))
    if card_path(path).exists():
        card = verified(path, read_card(path), digest)
    else:
        card = from_metadata(path, entries, digest)
    return Candidate(path, card, content, entries)


def plan_update(
    old: Candidate, new: Candidate, *, runtime: str, ways: Sequence[Way] = WAYS
) -> UpdatePlan:
    """The cheapest way from one file to the other.

    Args:
        old: What is served.
        new: What shall be.
        runtime: Name of the runtime, for the plan.
        ways: What it can do.

    Raises:
        UpdateError: The new file takes or gives something else, or renames a class.
    """
    refuse_other_interface(old, new)
    before, after = old.card, new.card
    same_graph = before.topology_sha256 == after.topology_sha256
    rows = before.head == after.head == "dynamic"
    # A card without this hash says nothing about its body.
    same_body = before.body_sha256 == after.body_sha256 != ""
    if before.sha256 == after.sha256:
        way, reason, size = WAYS[0], "both are the same file", 0
    elif same_graph and rows and same_body and "head" in ways:
        way, reason = "head", "only the rows of the classifier differ, and they are an input"
        size = 4 * (after.head_shape[0] * (after.head_shape[1] * after.head_shape[2] + 1))
    elif same_graph and "weights" in ways:
        way, size = "weights", sum(values.nbytes for _, values in float_weights(new.content))
        reason = "the graph is the same, and weights of its body differ"
        if not rows:
            reason = f"the graph is the same; a {after.head} head is among its weights"
    else:
        way, size = ("reload" if "reload" in ways else "rebuild"), after.bytes
        reason = f"{runtime} cannot exchange the weights of {old.path.name}"
        if not same_graph:
            reason = _other_graph(before, after)
    names = [{c.name: None for c in card.classes} for card in (before, after)]
    return UpdatePlan(
        old=str(old.path),
        new=str(new.path),
        runtime=runtime,
        way=way,
        reason=reason,
        bytes=size,
        added=tuple(n for n in names[1] if n not in names[0]),
        removed=tuple(n for n in names[0] if n not in names[1]),
    )


def _other_graph(before: ArtifactCard, after: ArtifactCard) -> str:
    if before.head != after.head:
        return f"another graph: the head was {before.head} and is {after.head}"
    if before.precision != after.precision:
        return f"another graph: it computed in {before.precision} and computes in {after.precision}"
    if before.head == "static" and len(before.classes) != len(after.classes):
        return "another graph: a static head has its number of classes in it (--head dynamic)"
    return "another graph: layers or their names differ"


def refuse_other_interface(old: Candidate, new: Candidate) -> None:
    """Refuse a file that callers of the old one would misunderstand.

    Raises:
        UpdateError: Size, batch, type of the images or kind of answer differ, or an id that both
            have means something else.
    """
    before, after = old.card, new.card
    for what, was, now in (
        ("size", before.size, after.size),
        ("batch", before.batch, after.batch),
        ("images", before.input.split(",")[0], after.input.split(",")[0]),
        ("answer", before.answer, after.answer),
        ("background", before.background, after.background),
    ):
        if was != now:
            raise UpdateError(
                f"{new.path} cannot take the place of {old.path}: {what} was {was} and is {now}",
                hint="open it as a session of its own",
            )
    for one, other in zip(before.classes, after.classes, strict=False):
        if (one.id, one.name, one.color) != (other.id, other.name, other.color):
            raise UpdateError(
                f"{new.path} gives id {one.id} another meaning: "
                f"it was {one.name} {one.color} and is {other.name} {other.color}",
                hint="ids, names and colours of older steps never change: export from their run",
            )


def refuse_not_finite(new: Candidate) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        UpdateError: With the name of the first tensor.
    """
    for name, values in float_weights(new.content):
        if not np.isfinite(values).all():
            raise UpdateError(
                f"{new.path} holds values in {name} that are not finite",
                hint="restore the file from a copy, or export it again",
            )


class Updatable(Session):
    """A session that can serve another file without missing a frame.

    A subclass keeps all that an answer depends on in one object, `_live`, which `run` reads once.
    """

    ways: tuple[Way, ...] = ("reload",)
    _live: Any
    _before: Any = None
    _candidate: Candidate
    _exchange: Lock

    def _plan(self, new: Candidate) -> UpdatePlan:
        """The cheapest way to a file; see `plan_update`."""
        return plan_update(self._candidate, new, runtime=self.runtime, ways=self.ways)

    @abstractmethod
    def _loaded(self, new: Candidate, way: Way) -> Any:
        """What `_live` would be with the new file.

        Raises:
            EdgeincError: It cannot be loaded.
        """

    @abstractmethod
    def _answered(self, live: Any, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """`run` with what may not be served yet."""

    def _serve(self, live: Any, candidate: Candidate) -> None:
        """From the next call on, answer with this."""
        card = candidate.card
        self._live = live
        self._candidate = replace(candidate, content=b"")  # the runtime holds what it needs
        self.precision, self.step, self.table = card.precision, card.step, card.table
        self.path, self.sha256 = candidate.path, card.sha256

    def update(
        self,
        path: str | os.PathLike[str],
        *,
        at_most: Way = "reload",
        between: AbstractContextManager[object] | None = None,
    ) -> UpdateResult:
        """Serve another file, by the cheapest way; see `Session.update`."""
        start = perf_counter()
        with self._exchange:
            new = read_candidate(Path(path))
            ways = tuple(way for way in self.ways if WAYS.index(way) <= WAYS.index(at_most))
            plan = self._plan(new)
            if plan.way == "nothing":
                return UpdateResult(plan, 1000 * (perf_counter() - start), 0.0, None)
            if plan.way not in ways:
                raise DearerWay(plan, at_most)
            if plan.way != "head":  # then the body is not loaded, and rows are always looked at
                refuse_not_finite(new)
            try:
                live = self._loaded(new, plan.way)
            except UpdateError:
                raise
            except EdgeincError as err:
                raise UpdateError(err.message, hint=err.hint) from err
            golden = self._right(live, new)
            ready = perf_counter()
            with between or nullcontext():
                switch = perf_counter()
                before = (self._live, self._candidate)
                self._serve(live, new)
                self._before = before
                end = perf_counter()
        return UpdateResult(plan, 1000 * (ready - start), 1000 * (end - switch), golden)

    def rollback(self) -> None:
        """Serve again what was served before the newest update; see `Session.rollback`."""
        with self._exchange:
            if self._before is None:
                raise UsageError("there is nothing to go back to", hint="no update was made")
            before, self._before = self._before, (self._live, self._candidate)
            self._serve(*before)

    def run_before(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """What was served before the newest update answers; see `Session.run_before`."""
        if self._before is None:
            return super().run_before(images)
        self.check(images)
        return self._answered(self._before[0], images)

    def _right(self, live: Any, new: Candidate) -> float | None:
        """Percent of the golden answer that is right; None where the file has none."""
        entry = new.entries.get(_golden.GOLDEN)
        if entry is None:
            return None
        card = new.card
        try:
            percent = _golden.agreement(lambda x: self._answered(live, x), card.size, entry)
        except EdgeincError as err:
            raise UpdateError(err.message, hint=err.hint) from err
        if percent < _golden.gate(card.precision):
            raise UpdateError(
                f"{new.path} answers its golden question wrong on this machine: {percent:.1f} % of "
                f"the ids agree, the gate is {_golden.gate(card.precision)} %",
                hint="the old file still serves; compare with `edgeinc bench` on this machine",
            )
        return percent
