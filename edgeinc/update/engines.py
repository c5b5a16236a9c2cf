"""Engines: what a device computes with whose runtime executes no ONNX file, such as TensorRT.

  engines/<bundle id>/model.engine        built on this device from that bundle's artifact
  engines/<bundle id>/model.engine.json   what it was built from, and for which machine

Rules: an engine is never shipped; it can be removed at any time, and is built again; one that was
changed, or was built for another machine (a new JetPack), is never opened. A bundle that differs
from the one an engine was built from in rows of the classifier or in weights that the engine can
replace needs none of its own: the engine is opened and given them, and answers its golden question.

    try:
        session = opened(slot, "tensorrt", "auto")
    except NoEngine:
        build(slot, "auto")                        # minutes, in a process that may die
        session = opened(slot, "tensorrt", "auto")
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from edgeinc import child, registry
from edgeinc.errors import EdgeincError, MissingError, UpdateError, as_typed
from edgeinc.runtimes import Session, open_artifact
from edgeinc.runtimes._engine import read_engine_card
from edgeinc.runtimes._refit import engine_candidate, plan_engine_update
from edgeinc.runtimes._update import Candidate, read_candidate
from edgeinc.update import slots
from edgeinc.update.disk import Disk
from edgeinc.update.identity import SLOTS

ENGINES, ENGINE = "engines", "model.engine"
BUILD_LIMIT_S = 3600.0
"""A Jetson builds these networks in minutes; more than this is a hang."""
ENDING_S = 10.0
"""What a build that is cut off has to end its own processes."""
SPACE = 3
"""An engine takes at most this many times the bytes of its artifact."""


class NoEngine(EdgeincError):
    """No engine on this device computes the artifact; one has to be built."""


class NotBuilt(UpdateError):
    """TensorRT built no engine of the artifact, here and now."""


def needed(runtime: str) -> bool:
    """Whether a runtime executes engines instead of ONNX files."""
    return ".onnx" not in registry.load("runtimes", runtime).suffixes


def opened(slot: Path, runtime: str, device: str) -> Session:
    """The session of a slot's artifact; through an engine where the runtime needs one.

    Args:
        slot: Its folder, which lies in the device's `slots`.
        runtime: Name of the runtime.
        device: As for `open_artifact`.

    Raises:
        NoEngine: The runtime needs one, and none that is here fits artifact and machine.
        MissingError: The runtime or the device is not here.
        EdgeincError: The artifact is damaged.
    """
    model = slot / slots.MODEL
    if not needed(runtime):
        return open_artifact(model, runtime=runtime, device=device)
    why = "there is none"
    for engine in fitting(slot):
        try:
            return _through(engine, model, runtime, device)
        except MissingError:
            raise
        except EdgeincError as err:
            why = err.message
    raise NoEngine(f"no engine here computes {model}: {why}", hint=as_typed("build", model))


def _through(engine: Path, model: Path, runtime: str, device: str) -> Session:
    session = open_artifact(engine, runtime=runtime, device=device)
    try:
        session.update(model, at_most="weights")
    except EdgeincError:
        session.close()
        raise
    return session


def fitting(slot: Path) -> tuple[Path, ...]:
    """Engines that could compute a slot's artifact, its own first. Only their cards are read.

    Raises:
        EdgeincError: The artifact is damaged.
    """
    new = read_candidate(slot / slots.MODEL)
    folder = slot.parent.parent / ENGINES
    found = sorted(folder.glob(f"*/{ENGINE}"), key=lambda e: (e.parent.name != slot.name, e))
    return tuple(engine for engine in found if _takes(engine, new))


def _takes(engine: Path, new: Candidate) -> bool:
    try:
        card = read_engine_card(engine)
        plan = plan_engine_update(engine_candidate(engine, card), card, new)
    except EdgeincError:
        return False
    return plan.way in ("nothing", "head", "weights")


def build(slot: Path, device: str) -> Path:
    """Build the engine of a slot's artifact, in a process of low priority that may die.

    Its weights can be replaced later without a build, unless it is int8, or TensorRT cannot build
    it so that it answers right.

    Raises:
        MissingError: There is no TensorRT, no driver or no GPU.
        NotBuilt: It cannot be built.
    """
    model = slot / slots.MODEL
    engine = slot.parent.parent / ENGINES / slot.name / ENGINE
    int8 = read_candidate(model).card.precision == "int8"
    for refit in ("none",) if int8 else ("all", "none"):
        try:
            _edgeinc_build(model, engine, refit, device)
        except NotBuilt:
            if refit == "none":
                raise
        else:
            break
    return engine


def _edgeinc_build(model: Path, engine: Path, refit: str, device: str) -> None:
    """`edgeinc build`: export, build and update know each other by their files alone."""
    nice = shutil.which("nice")
    command = [*((nice, "-n", "10") if nice else ()), *child.command("edgeinc"), "build"]
    options = ["--out", str(engine), "--refit", refit, "--device", device, "--json"]
    code, said = _run([*command, str(model), *options])
    if code == 0:
        return
    try:
        error = json.loads(said.splitlines()[-1])["error"]
    except (ValueError, LookupError, TypeError):
        error = {
            "message": f"edgeinc build ended with {code}",
            "hint": "",
            "exit_code": 1,
        }
    kind = MissingError if error["exit_code"] == MissingError.exit_code else NotBuilt
    raise kind(error["message"], hint=error["hint"] or "edgeinc doctor --for device")


def _run(command: list[str]) -> tuple[int, bytes]:
    """Exit code and standard error of a command that has children of its own.

    Raises:
        NotBuilt: It took too long.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            _, said = process.communicate(timeout=BUILD_LIMIT_S)
        except BaseException as err:
            process.send_signal(signal.SIGINT)  # on which it ends its children, too
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
            if isinstance(err, subprocess.TimeoutExpired):
                raise NotBuilt(
                    f"the engine was not built within {BUILD_LIMIT_S:.0f} s",
                    hint="edgeinc doctor --for device",
                ) from err
            raise
    return process.returncode, said


def tidy(root: Path, keep: Iterable[str], disk: Disk) -> None:
    """Remove the engines that no slot of some bundles computes with.

    Args:
        root: The device's folder.
        keep: Ids of the bundles.
        disk: Through which they are removed.

    Raises:
        OSError: The disk refused.
    """
    folder = root / ENGINES
    if not folder.is_dir():
        return
    used: set[str] = set()
    for bundle_id in keep:
        try:
            used.update(engine.parent.name for engine in fitting(root / SLOTS / bundle_id)[:1])
        except EdgeincError:
            used.add(bundle_id)  # its slot is damaged and will come back
    for path in sorted(folder.iterdir()):
        if path.name not in used:
            disk.remove_tree(path)
