"""The process in which TensorRT builds: `python -m edgeinc.deploy._build_child`.

It reads a job as JSON from standard input and answers in lines of JSON; see `edgeinc.child`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from edgeinc import host
from edgeinc.errors import EdgeincError, MissingError
from edgeinc.runs import write_atomic
from edgeinc.runtimes._cuda import Cuda, open_cuda
from edgeinc.runtimes._engine import this_machine
from edgeinc.runtimes._golden import GOLDEN, agreement, gate
from edgeinc.runtimes._head import HEAD_WEIGHT, decode
from edgeinc.runtimes._on_gpu import OnGpu
from edgeinc.runtimes._onnx_file import float_weights, head_weights, metadata
from edgeinc.runtimes._tensorrt import Bindings, Network
from edgeinc.runtimes.tensorrt import load_tensorrt
from edgeinc.schema import InputShapes, Machine, Refit, to_dict

DISCRETE_SHARE, SHARED_SHARE = 0.8, 0.5
"""Of the GPU's free memory, what a kernel may use; a Jetson's CPU lives in the same memory."""
HEAD = "head_"
"""What the names of the inputs begin with that hold a dynamic head: (rows, ...)."""
CHECKER = "tensorrt_rtx"


def build(job: dict[str, Any], say: Any) -> dict[str, Any]:
    """Build an engine into `job["engine"]`."""
    trt = load_tensorrt()
    cuda = open_cuda(job["device"])
    machine = this_machine(cuda, trt.version)
    content = Path(job["onnx"]).read_bytes()
    say("parse")
    network = trt.parse(content)
    inputs = shapes_of(trt, network, job["profile"], rows=job["rows"], max_rows=job["max_rows"])
    timings = timing_file(machine)
    workspace = workspace_bytes(cuda)
    start = time.monotonic()
    built = trt.build(
        network,
        precision=job["precision"],
        profile={name: shape for name, shape in inputs.items() if shape.min != shape.max},
        workspace=workspace,
        timing_cache=timings.read_bytes() if timings.exists() else b"",
        refit=job["refit"],
        weights=weights_named(content, job["refit"]),
        watch=lambda phase, done, total: say(f"{phase} {done}/{total}"),
    )
    seconds = time.monotonic() - start
    replaceable: tuple[str, ...] = ()
    if job["refit"] != "none":
        say("ask the engine")
        replaceable = asked(trt, cuda, bytes(built.engine), content, job)
    say("write")
    with Path(job["engine"]).open("wb") as file:
        file.write(built.engine)
    if built.timing_cache:
        timings.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(timings, built.timing_cache)
    return {
        "machine": to_dict(machine),
        "inputs": {name: to_dict(shape) for name, shape in inputs.items()},
        "workspace_bytes": workspace,
        "timing_cache": "used" if built.timings_used else "new",
        "seconds": round(seconds, 3),
        "replaceable": replaceable,
    }


def weights_named(content: bytes, refit: Refit) -> tuple[str, ...]:
    """The weights of a file that shall stay replaceable."""
    if refit == "head":
        return head_weights(content)
    return tuple(name for name, _ in float_weights(content)) if refit == "all" else ()


def asked(
    trt: Bindings, cuda: Cuda, engine: bytes, content: bytes, job: dict[str, Any]
) -> tuple[str, ...]:
    """The weights of a file that its engine lets be replaced, once it answered right.

    TensorRT 11.3 is documented to lose biases in engines that can be refitted, before any refit.

    Raises:
        EdgeincError: None can be replaced, or the engine answers the golden question wrong.
    """
    path, size, entries = Path(job["onnx"]), tuple(job["size"]), metadata(content)
    opened = OnGpu(trt, cuda, path, engine, size)
    known = set(opened.replaceable())
    found = tuple(name for name, _ in float_weights(content) if name in known)
    if not found:
        raise EdgeincError(
            f"TensorRT {trt.version} built an engine in which no weight can be replaced",
            hint="leave --refit out",
        )
    if GOLDEN in entries:
        rows = decode(path, entries, tuple(job["head_shape"])) if HEAD_WEIGHT in entries else {}
        percent = agreement(lambda images: opened.run(images, rows), size, entries[GOLDEN])
        if percent < gate(job["precision"]):
            raise EdgeincError(
                f"the engine that can be refitted answers its golden question wrong: {percent:.1f} "
                f"% of the ids agree, the gate is {gate(job['precision'])} %",
                hint="leave --refit out, or use another version of TensorRT",
            )
    opened.close()
    return found


def check(job: dict[str, Any], say: Any) -> dict[str, Any]:
    """Parse and build with TensorRT for RTX, which needs no GPU; the engines are thrown away."""
    try:
        trt = Bindings(import_module(CHECKER))
    except (ImportError, OSError) as err:
        raise MissingError(
            f"{CHECKER} cannot be imported: {err}", hint='pip install "edgeinc[trtcheck]"'
        ) from err
    content = Path(job["onnx"]).read_bytes()
    answer: dict[str, Any] = {"builder": f"{CHECKER} {trt.version}", "layers": 0, "builds": []}
    say("parse")
    try:
        network = trt.parse(content)
        inputs = shapes_of(trt, network, job["profile"], rows=job["rows"], max_rows=job["max_rows"])
    except MissingError:
        raise
    except EdgeincError as err:
        return {**answer, "error": err.message}
    answer["layers"] = network.layers
    profile = {name: shape for name, shape in inputs.items() if shape.min != shape.max}
    for target in job["targets"]:
        say(f"build for {target}")
        start = time.monotonic()
        row = {"target": target, "status": "ok"}
        try:
            built = trt.build(network, precision=job["precision"], profile=profile, target=target)
            row["bytes"] = memoryview(built.engine).nbytes
        except EdgeincError as err:
            row["status"] = err.message
        answer["builds"].append({**row, "seconds": round(time.monotonic() - start, 3)})
    return answer


def shapes_of(
    trt: Bindings,
    network: Network,
    profile: dict[str, Any],
    *,
    rows: int,
    max_rows: int,
) -> dict[str, InputShapes]:
    """The shapes of every input: as asked for, else as the graph says, else those of a head.

    Raises:
        EdgeincError: An input is dynamic and nothing bounds it.
    """
    found = {}
    for tensor in trt.inputs(network):
        dtype = str(tensor.dtype)
        if tensor.name in profile:
            asked = {key: tuple(value) for key, value in profile[tensor.name].items()}
            found[tensor.name] = InputShapes(**asked, dtype=dtype)
        elif -1 not in tensor.shape:
            found[tensor.name] = InputShapes(tensor.shape, tensor.shape, tensor.shape, dtype)
        elif tensor.name.startswith(HEAD) and -1 not in tensor.shape[1:]:
            rest = tensor.shape[1:]
            most = max(rows, max_rows)
            found[tensor.name] = InputShapes((1, *rest), (rows, *rest), (most, *rest), dtype)
        else:
            raise EdgeincError(
                f"input {tensor.name} has the open shape {tensor.shape} and nothing bounds it",
                hint="export with a fixed size, or give build() a profile for it",
            )
    return found


def workspace_bytes(cuda: Cuda) -> int:
    """What one kernel may use of the memory that is free now."""
    free, _ = cuda.memory()
    if cuda.integrated():
        free = min(free, host.free_memory_bytes() or free)
    return int(free * (SHARED_SHARE if cuda.integrated() else DISCRETE_SHARE))


def timing_file(machine: Machine) -> Path:
    """Where kernel timings are kept: they hold for one TensorRT on one kind of GPU."""
    words = f"{machine.tensorrt} {machine.gpu} {machine.compute_capability} {machine.l4t}"
    name = "-".join("".join(c if c.isalnum() or c == "." else " " for c in words).split())
    return host.cache_folder() / "tensorrt" / f"{name}.timing"


def main() -> int:
    """Do the job on standard input."""
    job = json.loads(sys.stdin.buffer.read())
    # Native libraries print to descriptor 1; what is said to the parent must stay apart from it.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(phase: str) -> None:
        _tell(out, {"phase": phase})

    try:
        result = {"build": build, "check": check}[job["do"]](job, say)
    except EdgeincError as err:
        fields = {"message": err.message, "hint": err.hint, "exit_code": err.exit_code}
        _tell(out, {"error": fields})
        return 1
    _tell(out, {"result": result})
    return 0


def _tell(out: IO[str], content: dict[str, Any]) -> None:
    out.write(json.dumps(content) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
