"""The server: answers frames with the bundle that the journal names, and exchanges it between two.

Rules: it never chooses a model; a bundle is loaded in a thread beside the frames and takes its
place between two of them; what served before stays in memory while the new one is tried, answers
the frame on which that fails, and serves again from there; what it has found it only says.

    with Server(root) as server:
        for image in frames:
            answer = server.answer(image)      # ids at the image's own size, or None: a fault
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import TracebackType

import numpy as np

from edgeinc.data import Image, Mask
from edgeinc.data._augment import resize_image, resize_mask
from edgeinc.errors import EdgeincError, UpdateError, UsageError, as_typed
from edgeinc.schema import (
    ClassTable,
    Exchange,
    Held,
    Serving,
    ServingVerdict,
)
from edgeinc.update import journal, serving, slots
from edgeinc.update._load import Load
from edgeinc.update.disk import Disk
from edgeinc.update.identity import SLOTS, read_config
from edgeinc.update.lock import SERVER, alone
from edgeinc.update.manifest import read
from edgeinc.update.refusal import Refusal
from edgeinc.update.seat import Seat
from edgeinc.update.serving import Choice
from edgeinc.update.trial import Window

_log = logging.getLogger(__name__)

SHADOW = 30
"""During a trial the old bundle answers one of this many frames too."""
MOST_FAULTS = 30
"""So many frames without an answer one after the other end the server: its like may do better."""
RECENT = 300
"""Frames that `p95_ms` is taken over."""
LOOK_EVERY_S, SAY_EVERY_S = 0.5, 1.0
Message = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What a frame shows: `ids` (H, W) at its own size, and whose answer that is."""

    ids: Mask
    table: ClassTable
    step: int


class Server:
    """Serves from one device's folder.

    Args:
        root: The folder.
        message: Told in one line what changes.

    Raises:
        UsageError: The folder is no device, or nothing is installed on it yet.
        Refusal: `CORRUPT`, every bundle it could serve is damaged; `BUSY`, another process serves.
        MissingError: The device's runtime or accelerator is not here.
        EdgeincError: The journal was written by a newer edgeinc, or the bundle cannot be loaded.
    """

    def __init__(self, root: Path, *, message: Message = _log.info) -> None:
        self.root, self._message, self._disk = root, message, Disk()
        self.frames = self.faults = 0
        self.exchanges: list[Exchange] = []
        self._alone, self._known, self._waits = ExitStack(), False, ""
        self._lock(wait_s=1.0)  # whoever asks whether a server runs holds it for a moment, too
        state = journal.load(root)
        self._left = state.trial.attempt if state is not None and state.trial is not None else ""
        try:
            self._seat, self.bundle = self._opened()
        except BaseException:
            self._alone.close()
            raise
        self._old: Held | None = None
        """What `Seat.run_before` answers with."""
        self._attempt, self._why = "", ""
        self._verdict: ServingVerdict = "none"
        self._unusable: set[str] = set()
        self._window: Window | None = None
        self._load: Load | None = None
        self._between = threading.Lock()
        self._ms: deque[float] = deque(maxlen=RECENT)
        self._gaps: deque[float] = deque(maxlen=RECENT)
        self._in_a_row = 0
        self._table = self._seat.session.table
        self._answered = self._looked = time.monotonic()
        self._said = 0.0
        self._started = time.time()
        self._say()

    def _lock(self, *, wait_s: float = 0.0) -> None:
        """Be the only server of the folder: of two each would take the other's word for its own."""
        busy = f"another process serves from {self.root}"
        try:
            self._alone.enter_context(alone(self.root / SERVER, busy, wait_s=wait_s))
            self._known = True
        except OSError as err:  # a disk that takes nothing is no reason to serve nothing
            _log.warning("it is not known whether another server runs: %s", err)

    def _opened(self) -> tuple[Seat, Held]:
        config, first = read_config(self.root), None
        for choice in serving.choices(self.root, ignore=self._left):
            try:
                path = serving.model(self.root, choice.bundle)
            except Refusal as err:
                self._message(err.message)
                first = first or err
                continue
            return Seat(path.parent, config, message=self._message), choice.bundle
        if first is not None:
            raise first
        raise UsageError(
            f"nothing is installed on {self.root} yet",
            hint=as_typed("device", "update", "--root", self.root),
        )

    # ------------------------------------------------------------------------------------- frames

    def answer(self, image: Image) -> Answer | None:
        """Answer a frame of any size; None where that failed, which is counted and said.

        Raises:
            EdgeincError: So many frames failed one after the other that it had better end.
        """
        self._waits = ""
        self._turn()
        fed = resize_image(image, self._seat.session.size)[None]
        exchanged = len(self.exchanges)
        with self._between:
            ids = self._ids(fed)
        if ids is None:
            return None
        self.frames += 1
        self._in_a_row = 0
        now = time.monotonic()
        gap = 1000 * (now - self._answered)
        self._answered = now
        if len(self.exchanges) > exchanged:
            self.exchanges[-1] = replace(self.exchanges[-1], gap_ms=gap)
        elif self._load is not None:
            self._load.longest_ms = max(self._load.longest_ms, gap)
        else:
            self._gaps.append(gap)
        if now - self._said > SAY_EVERY_S:
            self._say()
        return Answer(resize_mask(ids, image.shape[:2]), self._table, self.bundle.step)

    def idle(self, why: str) -> None:
        """Say that there is no frame to answer: the agent need not wait for a trial."""
        self._waits = why
        self._say()

    def _ids(self, fed: Image) -> Mask | None:
        """The ids of a frame, judged where a bundle is on trial."""
        if self._load is not None and self._load.exchanged:
            self._took(self._load)
        try:
            start = time.perf_counter()
            ids: Mask = self._seat.session.run(fed)[0]
            ms = 1000 * (time.perf_counter() - start)
        except Exception as err:  # whatever it is: a frame has no answer
            return self._fault(fed, err)
        self._ms.append(ms)
        if self._window is not None:
            asked = self._old is not None and self.frames % SHADOW == 0
            before = self._seat.run_before(fed)[0] if asked else None
            judgement = self._window.frame(ms, ids, before)
            if judgement is not None:
                self._judged(judgement.verdict, judgement.why)
                if judgement.verdict == "bad":
                    return self._ids(fed)  # of the old one, which serves again
        self._table = self._seat.session.table
        return ids

    def _fault(self, fed: Image, err: Exception) -> Mask | None:
        """A frame that failed: the old bundle answers it where the new one was on trial."""
        if self._window is not None:
            self._judged("bad", self._window.fault(f"{type(err).__name__}: {err}").why)
            return self._ids(fed)
        self.faults += 1
        self._in_a_row += 1
        _log.warning("a frame has no answer: %s", err)
        self._say()
        if self._in_a_row >= MOST_FAULTS:
            raise EdgeincError(
                f"{MOST_FAULTS} frames in a row have no answer: {type(err).__name__}: {err}",
                hint="see `edgeinc doctor --for device`; edgeinc device rollback",
            ) from err
        return None

    def _judged(self, verdict: ServingVerdict, why: str) -> None:
        """End the trial; a bad bundle goes back out of service at once."""
        bundle = self.bundle
        if self._window is not None:
            self._window = None
            if self.exchanges and self.exchanges[-1].step == bundle.step:
                self.exchanges[-1] = replace(self.exchanges[-1], verdict=verdict, why=why)
        self._verdict, self._why = verdict, why
        if verdict == "bad":
            self._back()
        self._message(
            f"trial of step {bundle.step}: {verdict}"
            + (f", {why}; step {self.bundle.step} serves" if why else "")
        )
        self._say()

    def _back(self) -> None:
        """Serve again what served before the newest exchange."""
        old = self._old
        if old is not None:
            self._seat.rollback()
            self.bundle, self._old = old, self.bundle
            self._ms.clear()

    # -------------------------------------------------------------------------------- between two

    def _turn(self) -> None:
        """Between two frames: see what the journal asks for, now and then."""
        if self._load is not None:
            if self._load.is_alive() or self._load.exchanged:
                return  # the next frame takes it up
            self._failed(self._load)
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        try:
            found = serving.choices(self.root, ignore=self._left)
        except EdgeincError as err:
            _log.warning("%s", err.message)
            return
        wanted = next((c for c in found if self._can(c)), None)
        if wanted is not None:
            self._want(wanted)

    def _can(self, choice: Choice) -> bool:
        """Whether a choice was not found unusable before."""
        if choice.attempt and choice.attempt == self._attempt:
            return self._verdict in ("none", "good")
        return bool(choice.attempt) or choice.bundle.bundle_id not in self._unusable

    def _want(self, choice: Choice) -> None:
        """Begin what is asked for, where that is not what is done already."""
        same = choice.bundle.bundle_id == self.bundle.bundle_id
        if choice.attempt and choice.attempt != self._attempt:
            self._window = None
            self._attempt, self._verdict, self._why = choice.attempt, "none", ""
            self._say()  # the agent waits for this word
            if not same:
                self._begin(choice)
            else:  # the agent was cut off after an earlier attempt
                self._open_window(len(self._seat.session.table.classes))
        elif not choice.attempt:
            if same:
                return
            self._window = None
            if self._old is not None and self._old.bundle_id == choice.bundle.bundle_id:
                self._back()
                self._message(f"step {self.bundle.step} serves again")
                self._say()
            else:
                self._begin(choice)

    def _begin(self, choice: Choice) -> None:
        self._load = Load(self.root, self._seat, choice, self._between)
        self._load.start()

    def _took(self, load: Load) -> None:
        """A loaded bundle has taken the place of the one before, just now."""
        load.join()
        self._load = None
        was, gap = self.bundle, 1000 * (time.monotonic() - self._answered)
        usual = float(median(self._gaps)) if self._gaps else None
        self.exchanges.append(load.exchange(was.step, self.frames, gap_ms=gap, usual_ms=usual))
        self.bundle, self._old = load.choice.bundle, was
        self._ms.clear()
        self._message(f"step {self.bundle.step} serves in the place of step {was.step}")
        if load.choice.attempt:
            self._open_window(load.old_classes)
        self._say()

    def _open_window(self, old_classes: int) -> None:
        file = self.root / SLOTS / self.bundle.bundle_id / slots.MANIFEST
        try:
            gates = read(file.read_bytes(), str(file)).gates
        except (OSError, EdgeincError) as err:
            self._judged("interrupted", f"its gates cannot be read: {err}")
            return
        classes = len(self._seat.session.table.classes)
        self._window = Window(gates, classes=classes, old_classes=old_classes)

    def _failed(self, load: Load) -> None:
        """A bundle that could not be loaded, or need not be."""
        self._load, err = None, load.error
        if err is None:  # another name for the file that is served
            self.bundle = load.choice.bundle
            if load.choice.attempt:
                self._open_window(load.old_classes)
            return
        text = err.message if isinstance(err, EdgeincError) else f"{type(err).__name__}: {err}"
        if not load.choice.attempt:
            self._unusable.add(load.choice.bundle.bundle_id)
            self._message(f"step {load.choice.bundle.step} cannot be served: {text}")
            return
        # Only what the file itself is refused for says something about the bundle.
        bad = isinstance(err, UpdateError) and not isinstance(err, Refusal)
        self._verdict, self._why = ("bad" if bad else "interrupted"), text
        self._message(f"trial of step {load.choice.bundle.step}: {self._verdict}, {text}")
        self._say()

    # --------------------------------------------------------------------------------- what it says

    def serving(self) -> Serving:
        """What is served now, and how."""
        return Serving(
            bundle_id=self.bundle.bundle_id,
            attempt=self._attempt,
            verdict=self._verdict,
            why=self._why,
            pid=os.getpid(),
            boot_id=serving.boot_id(),
            started=self._started,
            frames=self.frames,
            faults=self.faults,
            p95_ms=self.p95_ms,
            waits=self._waits,
        )

    @property
    def p95_ms(self) -> float | None:
        """Of the newest frames; None before the first."""
        recent = list(self._ms)
        return float(np.percentile(recent, 95)) if recent else None

    def _say(self) -> None:
        self._said = time.monotonic()
        try:
            if not self._known:
                self._lock()
            serving.say(self.root, self.serving(), self._disk)
        except (OSError, Refusal) as err:  # it goes on without; the next second says it again
            _log.warning("cannot say what is served: %s", err)

    def close(self) -> None:
        """End well: nobody has to wait for this server."""
        self._disk.remove(self.root / serving.FILE)
        self._release()

    def _release(self) -> None:
        if self._load is not None:
            self._load.join()
        self._seat.close()
        self._alone.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or self.frames == self.faults == 0:
            self.close()
        else:  # what was said stays, so that a trial is not taken for none
            self._release()
