"""The sidecar of an engine, and the proof that the engine fits this machine.

Rules: to deserialise an engine is to execute native code from a file, so nothing is deserialised
before its hash is the recorded one and this machine is the one it was built on; every difference is
one line that names both sides and the command that mends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeinc import host
from edgeinc.errors import EdgeincError, as_typed
from edgeinc.runs import sha256
from edgeinc.runtimes._card import card_path, read_card
from edgeinc.runtimes._cuda import Cuda, version_text
from edgeinc.schema import EngineCard, Machine, from_json


def sidecar_path(path: Path) -> Path:
    """Where the card of an engine lies."""
    return path.with_name(path.name + ".json")


def this_machine(cuda: Cuda, tensorrt: str) -> Machine:
    """What engines are bound to, on this machine.

    Args:
        cuda: The GPU.
        tensorrt: Version of TensorRT.
    """
    return Machine(
        tensorrt=tensorrt,
        gpu=cuda.name(),
        compute_capability=cuda.compute_capability(),
        driver=host.nvidia_driver(),
        cuda=version_text(cuda.driver_version()),
        l4t=host.l4t(),
    )


def read_engine_card(path: Path) -> EngineCard:
    """The card beside an engine, once the engine is known to be the file it describes.

    Raises:
        EdgeincError: There is no card, it is damaged, or the engine is another file.
    """
    sidecar = sidecar_path(path)
    if not sidecar.exists():
        raise EdgeincError(
            f"{path} has no {sidecar.name} beside it, which says what it was built for",
            hint=as_typed("build", path.with_suffix(".onnx")),
        )
    card = from_json(EngineCard, sidecar.read_bytes(), source=str(sidecar))
    found = sha256(path)
    if found != card.sha256:
        raise EdgeincError(
            f"{path} is not the engine {sidecar.name} describes: sha256 {found[:12]}, "
            f"recorded {card.sha256[:12]}",
            hint=_rebuild(path, card),
        )
    return card


def check_fits(path: Path, card: EngineCard, machine: Machine) -> None:
    """Refuse an engine that was built for another machine or from another ONNX file.

    Args:
        path: The engine.
        card: Its card.
        machine: Of `this_machine`.

    Raises:
        EdgeincError: It does not fit; the message names everything that differs.
    """
    differences = [*_machine_differences(card.machine, machine), *_source_differences(path, card)]
    if differences:
        raise EdgeincError(
            f"{path} does not fit: {'; '.join(differences)}", hint=_rebuild(path, card)
        )


def _machine_differences(built: Machine, here: Machine) -> Iterator[str]:
    exact = {
        "TensorRT": (built.tensorrt, here.tensorrt),
        "GPU": (built.gpu, here.gpu),
        "compute capability": (built.compute_capability, here.compute_capability),
        "L4T": (built.l4t, here.l4t),
    }
    for name, (then, now) in exact.items():
        if then != now:
            yield f"built for {name} {then or '(none)'}, here is {now or '(none)'}"
    # A driver runs what was built with an older one, not the other way round.
    for name, (then, now) in {
        "driver": (built.driver, here.driver),
        "a driver for CUDA": (built.cuda, here.cuda),
    }.items():
        if then and now and _numbers(now) < _numbers(then):
            yield f"built with {name} {then}, here is the older {now}"


def _source_differences(path: Path, card: EngineCard) -> Iterator[str]:
    """The ONNX file beside the engine may have been exported again since."""
    onnx = path.with_name(card.artifact.file)
    if not (onnx.exists() and card_path(onnx).exists()):
        return
    now = read_card(onnx)
    if now.topology_sha256 != card.topology_sha256:
        yield f"{onnx.name} beside it has another structure now"
    elif now.weights_sha256 != card.weights_sha256:
        yield f"{onnx.name} beside it has other weights now"


def _rebuild(path: Path, card: EngineCard) -> str:
    return as_typed("build", path.with_name(card.artifact.file))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
